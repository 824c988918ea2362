"""Which of a model's claims are kept: those that cite rows which were shown to it, and nothing else."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TypeVar

from ssmd_core.feeds import FEEDS
from ssmd_core.reports.answers import MAX_CLAIM_CHARS, Claim, FeedClaim
from ssmd_core.reports.evidence import Evidence, Item, milder
from ssmd_core.reports.texts import DOMAIN_ENDS, canonical, clean

_Claim = TypeVar("_Claim", bound=Claim)
# The rows hold no address that anybody needs to follow: one in an answer comes from a stranger's text, and a mail
# program makes a link of it even when it is escaped.
_LINK = re.compile(
    r"""(?ix) [a-z][a-z0-9+.-]*:\s*/\s*/ | \bwww\s*\. | \b(?:mailto|javascript): | [\w.+-]@[\w-]+\.[a-z]{2} | \]\s*\(
    | \b\d{1,3}(?:\.\d{1,3}){3}\b
    | [\w-]\.[a-z]{2,24}/ | [\w-]\.(?:"""
    + DOMAIN_ENDS
    + r")\b"
)
_MARKUP = re.compile(r"<\s*[/!?a-zA-Z]")
_DATE = re.compile(r"(?a:\b\d{4}-\d\d-\d\d(?!\d))")
# The longest first: `kraken-futures` is not kraken.
_FEED = re.compile(
    rf"(?<![\w-])(?:{'|'.join(name.replace('-', '[ _-]?') for name in sorted(FEEDS, key=len, reverse=True))})(?!\w)"
)
_WORD = re.compile(r"\w+")
_LOOK_ALIKES = {"CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU"}


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

        A feed that a text names must be a cited row's, a date must stand in a cited row. What is said to be wrong with
        a feed must cite a row of the day that shows trouble, and be no milder than the rows.
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
        by_id = self._evidence.by_id
        if not claim.citations or not all(name in by_id for name in claim.citations):
            return False
        rows = [by_id[name] for name in claim.citations]
        if about:
            feed = getattr(claim, about)
            # A failed run may be about any feed, but not about one that no row knows.
            if feed not in self._evidence.statuses or not any(row.feed in {feed, ""} for row in rows):
                return False
        if isinstance(claim, FeedClaim) and not self._is_shown(claim, rows):
            return False
        return all(clean(text) and not unsafe(text) and _is_about(text, rows) for text in _texts(claim))

    def _is_shown(self, claim: FeedClaim, rows: Sequence[Item]) -> bool:
        least = self._evidence.statuses[claim.feed]
        if least and milder(claim.status, least):
            return False
        of_day = [row for row in rows if row.feed in {claim.feed, ""} and row.day in {"", str(self._evidence.day)}]
        return any(claim.status == "GREEN" or not row.good for row in of_day)


def _is_about(text: str, rows: Sequence[Item]) -> bool:
    """Whether the feeds and dates that a text names are those of its rows."""
    seen = unicodedata.normalize("NFKC", clean(text, MAX_CLAIM_CHARS)).casefold()
    feeds = {row.feed for row in rows}
    named = {re.sub(r"[ _-]", "", name) for name in _FEED.findall(seen)}
    if "" not in feeds and not named <= {feed.replace("-", "") for feed in feeds}:
        return False
    if not (dates := set(_DATE.findall(seen))):
        return True
    told = " ".join(f"{row.id} {canonical(row.facts).decode()}" for row in rows)
    return all(date in told for date in dates)


def unsafe(text: str) -> bool:
    """Whether a text holds a link or markup, as it will be shown and as a reader would take it."""
    shown = clean(text, MAX_CLAIM_CHARS)
    seen = unicodedata.normalize("NFKC", shown)
    if any(_is_mixed(word) for word in _WORD.findall(shown)):
        return True
    return bool(_LINK.search(seen) or _MARKUP.search(seen))


def _is_mixed(word: str) -> bool:
    """Whether Latin letters stand beside such that look like them: `krаken` with a Cyrillic letter."""
    if word.isascii():
        return False
    scripts = {unicodedata.name(letter, "").split(" ")[0] for letter in word}
    return "LATIN" in scripts and bool(scripts & _LOOK_ALIKES)


def unique(citations: Iterable[str]) -> list[str]:
    """Each id once, in order."""
    return list(dict.fromkeys(citations))


def _texts(claim: Claim) -> Sequence[str]:
    return [value for name, value in claim if name != "citations" and isinstance(value, str)]
