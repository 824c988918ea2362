"""Which of a model's claims are kept: those that cite rows which were shown to it, and nothing else."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TypeVar

from ssmd_core.reports.answers import MAX_CLAIM_CHARS, Claim
from ssmd_core.reports.evidence import Evidence
from ssmd_core.reports.texts import clean

_Claim = TypeVar("_Claim", bound=Claim)
# The rows hold no address that anybody needs to follow: one in an answer comes from a stranger's text, and a mail
# program makes a link of it even when it is escaped.
_LINK = re.compile(
    r"""(?ix) [a-z][a-z0-9+.-]*:\s*/\s*/ | \bwww\s*\. | \b(?:mailto|javascript): | [\w.+-]@[\w-]+\.[a-z]{2} | \]\s*\(
    | \b\d{1,3}(?:\.\d{1,3}){3}\b
    | [\w-]\.(?:com|net|org|io|xyz|ru|cn|info|biz|top|app|dev|link|click|site|online|me|co|ai|example)\b"""
)
_MARKUP = re.compile(r"<\s*[/!?a-zA-Z]")


class Sieve:
    """Keeps claims of one answer.

    Attributes:
        dropped: claims that were not kept.
    """

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self.dropped = 0

    def kept(self, claims: Iterable[_Claim], about: str = "") -> list[_Claim]:
        """The claims that hold; of several about one feed the first.

        Args:
            about: member with the feed that a claim is about: at least one of its rows must be of that feed, or a run.
        """
        found: list[_Claim] = []
        told = set()
        for claim in claims:
            if self._holds(claim, about) and (not about or getattr(claim, about) not in told):
                found.append(claim)
                told.add(getattr(claim, about, ""))
            else:
                self.dropped += 1
        return found

    def _holds(self, claim: Claim, about: str) -> bool:
        rows = [self._evidence.by_id.get(name) for name in claim.citations]
        if not rows or None in rows:
            return False
        if about:
            feed = getattr(claim, about)
            # A failed run may be about any feed, but not about one that no row knows.
            if feed not in self._evidence.statuses or not any(row and row.feed in {feed, ""} for row in rows):
                return False
        return not any(unsafe(text) for text in _texts(claim))


def unsafe(text: str) -> bool:
    """Whether a text holds a link or markup, as it will be shown and as a reader would take it."""
    seen = unicodedata.normalize("NFKC", clean(text, MAX_CLAIM_CHARS))
    return bool(_LINK.search(seen) or _MARKUP.search(seen))


def unique(citations: Iterable[str]) -> list[str]:
    """Each id once, in order."""
    return list(dict.fromkeys(citations))


def _texts(claim: Claim) -> Sequence[str]:
    return [value for name, value in claim if name != "citations" and isinstance(value, str)]
