"""The examples of docs/, as a reader would try them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parent.parent / "docs"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


class Example(NamedTuple):
    """One fenced block.

    Attributes:
        page: its file, for messages.
        line: where it begins there.
        text: without the fences.
    """

    page: str
    line: int
    text: str

    @property
    def name(self) -> str:
        """For pytest's output."""
        return f"{self.page}:{self.line}"


class HttpExample(NamedTuple):
    """A request and what it is answered with.

    Attributes:
        target: path with query.
        body: JSON text, "" for none.
        status: 0 for any success.
    """

    name: str
    method: str
    target: str
    body: str
    status: int

    @property
    def path(self) -> str:
        """Without the query."""
        return self.target.partition("?")[0]


def blocks(language: str, *pages: str) -> Iterator[Example]:
    """All blocks of a language on pages below docs/ (patterns)."""
    for pattern in pages:
        for page in sorted(DOCS.glob(pattern)):
            text = page.read_text(encoding="utf-8")
            for match in _BLOCK.finditer(text):
                if match[1] == language:
                    line = text.count("\n", 0, match.start()) + 1
                    yield Example(str(page.relative_to(DOCS)), line, match[2])


def http_examples() -> list[HttpExample]:
    """Every request in docs/api/; `# 403` above a request says what it is answered with."""
    found = []
    for block in blocks("http", "api/*.md"):
        status, lines = 0, []
        for line in block.text.splitlines():
            if match := re.fullmatch(r"# (\d{3})\b.*", line):
                status = int(match[1])
            elif line and not line.startswith("#"):
                lines.append(line)
        method, _, target = lines[0].partition(" ")
        found.append(HttpExample(block.name, method, target.strip(), "\n".join(lines[1:]), status))
    return found
