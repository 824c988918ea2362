"""Strangers' text (tickers, titles, errors, reasons) on its way into a report or a prompt, and JSON with one form."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from ssmd_core.logs import redact

#: Cut off behind: a reason's detail is a sentence with some numbers.
MAX_TEXT_CHARS = 200
#: Of a name without a scheme, of which mail programs make a link; no member of a venue's messages ends in one.
DOMAIN_ENDS = (
    "com|net|org|io|xyz|ru|cn|info|biz|top|app|dev|link|click|site|online|me|co|ai|example|shop|store|live|news|gg|fun|bet"
    "|tv|cc|ws|uk|de|eu|us|ly|sh|vip|win|pro|money|finance|exchange|trade|page|website|space|world|today|zip|mov"
)
_MAX_SPANS = 4
_UNSEEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}
_SPACES = re.compile(r"\s+")
_MARKDOWN = re.compile(r"[\\`*_{}\[\]<>#!|~&$@]|(?<=www)\.|:(?=//)", re.IGNORECASE)
# What begins a list, a heading or a quotation at the start of a line.
_LINE_START = re.compile(r"(?:[-+=]|\d+(?=[.)](?:\s|\Z)))")


def clean(text: object, most: int = MAX_TEXT_CHARS) -> str:
    """One line of visible characters, without secrets, at most so many of them.

    Control and format characters go: they are terminal escapes, marks that turn the direction of what follows, and
    the invisible letters in which instructions are hidden.
    """
    # Cut first: a text may be megabytes. Twice as long, because characters are taken out afterwards.
    raw = str(text)[: 2 * most]
    seen = "".join(" " if c.isspace() else c for c in raw if c.isspace() or unicodedata.category(c) not in _UNSEEN)
    told: str = redact(None, "", {"text": _SPACES.sub(" ", seen).strip()})["text"]
    return told if len(told) <= most else f"{told[: most - 1].rstrip()}…"


def canonical(value: Any) -> bytes:
    """JSON in the one form that is hashed: sorted keys, no blanks, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def quoted(value: Any) -> str:
    """Canonical JSON that cannot end the block of a prompt, or of a page, in which it stands."""
    text = canonical(value).decode()
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def markdown_text(text: object, most: int = 2000) -> str:
    """Text as itself in Markdown: no markup, no HTML, no links, one line."""
    escaped = _MARKDOWN.sub(r"\\\g<0>", clean(text, most))
    return _LINE_START.sub(_escape_start, escaped, count=1) if _LINE_START.match(escaped) else escaped


def _escape_start(found: re.Match[str]) -> str:
    return f"{found[0]}\\" if found[0][0].isdigit() else f"\\{found[0]}"


def hours_told(hours: Iterable[int]) -> str:
    """Hours of a day as spans, e.g. `03:00 to 06:00, 09:00 to 10:00`."""
    spans: list[list[int]] = []
    for hour in sorted(set(hours)):
        if spans and spans[-1][1] == hour:
            spans[-1][1] = hour + 1
        else:
            spans.append([hour, hour + 1])
    told = [f"{start:02}:00 to {end:02}:00" for start, end in spans]
    more = len(told) - _MAX_SPANS
    return ", ".join(told[:_MAX_SPANS]) + (f" and {more} more" if more > 0 else "")


def number_told(text: str | None) -> str:
    """A number as text with its thousands, every digit kept: `375,007.03`; a dash where it is unknown."""
    whole, point, rest = (text or "–").partition(".")
    return f"{int(whole):,}{point}{rest}" if whole.isascii() and whole.isdigit() else f"{whole}{point}{rest}"


def count_of(number: int, one: str, many: str = "") -> str:
    """`1 hour`, `12,000 hours`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
