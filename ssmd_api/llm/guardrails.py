"""What is kept from a language model: attempts to talk it out of its instructions, and personal data.

Pure functions on text, in linear time. Both look at the text as a reader would take it: compatibility forms (full-width
digits, mathematical letters) count as what they look like, and invisible characters do not count.

Numbers of markets are no personal data. A phone number needs separators, so that ten digits of epoch seconds are none;
a card needs a network's prefix and a valid check digit, so that epochs in s, ms, µs and ns before May 2040 (when
microseconds reach 2,221,…, Mastercard's second range) are none; and neither starts or ends inside of an id or a
decimal fraction.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from ssmd_core.errors import SsmdError

# Each round of redaction takes text away, and what is left could only then look like something; two rounds are usual.
_MAX_ROUNDS = 8


class Pii(StrEnum):
    """Kinds of personal data."""

    EMAIL = "EMAIL"
    CREDIT_CARD = "CREDIT_CARD"
    SSN = "SSN"
    PHONE = "PHONE"


class Span(NamedTuple):
    """Where something was found: a half-open range of the text, as it was given."""

    start: int
    end: int
    kind: Pii


class NotRedactableError(SsmdError):
    """Text that looks like personal data again and again, however often it is redacted."""


# Not inside of a word, of an id such as KX-555-123-4567, or of a decimal fraction.
_BEFORE = r"(?<!\w)(?<!\w-)(?<!\d\.)"
_AFTER = r"(?!\w)(?!-\w)(?!\.\d)"
_DOMAIN = re.compile(r"@(?:[\w-]++\.)+[^\W\d_]{2,}")
_IS_LOCAL = re.compile(r"[\w.%+-]")
_DIGIT = re.compile(r"[0-9]")
_CARD = re.compile(
    _BEFORE + r"(?:[2-6]\d{3}([ -]?)\d{4}\1\d{4}\1\d{4}|3[47]\d{2}([ -]?)\d{6}\2\d{5})" + _AFTER, re.ASCII
)
_SSN = re.compile(_BEFORE + r"(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}" + _AFTER, re.ASCII)
_PHONE = re.compile(
    _BEFORE + r"(?:\+?1[-. ])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[-. ])[2-9]\d{2}[-. ]\d{4}" + _AFTER, re.ASCII
)
_JSON_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"|-?[0-9][0-9.eE+-]*+')

#: Name, a word that the text must hold, shape; for text in lower case.
_INJECTIONS = tuple(
    (name, word, re.compile(pattern))
    for name, word, pattern in (
        (
            "ignore instructions",
            "ignore",
            r"\bignore\s++(?:all\s++)?(?:of\s++)?(?:the\s++|your\s++|my\s++)?(?:previous|prior|above)\s++"
            r"(?:instructions|prompts|rules)\b",
        ),
        (
            "disregard instructions",
            "disregard",
            r"\bdisregard\s++(?:all\s++)?(?:of\s++)?(?:the\s++|your\s++|my\s++)?"
            r"(?:previous|prior|above|everything)\b",
        ),
        (
            "forget instructions",
            "forget",
            r"\bforget\s++(?:all\s++)?(?:of\s++)?(?:the\s++)?(?:previous|prior|above|your)\s++"
            r"(?:instructions|rules|training)\b",
        ),
        ("new role", "now", r"\byou\s++are\s++now\s++(?:an?|dan|evil|unrestricted)\b"),
        (
            "pretence",
            "pretend",
            r"\bpretend\s++(?:that\s++)?you(?:['’]re|\s++are)\s++(?:an?|not)\s++(?:an?\s++)?(?:ai|assistant|bound)\b",
        ),
        ("bypass", "bypass", r"\bbypass\s++(?:your|all|any)\s++(?:restrictions|rules|safety|filters)\b"),
        ("jailbreak", "jailbreak", r"\bjailbreak\b"),
    )
)
# One after the other, not as one pattern: that would read to the end again from each `dan`.
_DAN = (re.compile(r"\bdan\b"), re.compile(r"\bdo\s++anything\s++now\b"))


def find_injection(text: str) -> str:
    """The name of the first shape of an injection in the text; "" if there is none."""
    folded = _fold(text).lower()
    for name, word, pattern in _INJECTIONS:
        if word in folded and pattern.search(folded):
            return name
    first, then = _DAN
    if "anything" in folded and (found := first.search(folded)) and then.search(folded, found.end()):
        return "DAN"
    return ""


def find_pii(text: str) -> list[Span]:
    """Personal data in the text, in order; spans that overlap are one, named after the longest of them."""
    folded = _fold(text)
    spans = sorted(_spans(folded))
    merged: list[Span] = []
    longest = 0
    for span in spans:
        if merged and span.start < merged[-1].end:
            last = merged.pop()
            kind = span.kind if span.end - span.start > longest else last.kind
            longest = max(longest, span.end - span.start)
            merged.append(Span(last.start, max(last.end, span.end), kind))
        else:
            longest = span.end - span.start
            merged.append(span)
    if folded is text or not merged:
        return merged
    origin = _origin(text)
    return [Span(origin[one.start], origin[one.end - 1] + 1, one.kind) for one in merged]


def redact_pii(text: str) -> tuple[str, list[Pii]]:
    """The text with `[REDACTED_EMAIL]` and so on in place of personal data, and what was found.

    Raises:
        NotRedactableError: what is left still looks like personal data.
    """
    kinds: list[Pii] = []
    for _ in range(_MAX_ROUNDS):
        spans = find_pii(text)
        if not spans:
            return text, kinds
        kinds += [span.kind for span in spans]
        parts, end = [], 0
        for span in spans:
            parts += [text[end : span.start], f"[REDACTED_{span.kind}]"]
            end = span.end
        text = "".join([*parts, text[end:]])
    raise NotRedactableError("the text cannot be redacted: what is left looks like personal data again")


def map_json_text(text: str, change: Callable[[str], str]) -> str:
    """JSON text with every member's name, every string and every number changed as people read them, so that escapes
    hide nothing; what is not touched stays as it was written. What is no JSON is changed as it stands.
    """
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return change(text)

    def one(found: re.Match[str]) -> str:
        token = found[0]
        read = json.loads(token) if token[0] == '"' else token
        return token if (changed := change(read)) == read else json.dumps(changed)

    return _JSON_TOKEN.sub(one, text)


def _spans(text: str) -> Iterator[Span]:
    yield from _emails(text)
    if not _DIGIT.search(text):
        return
    for found in _CARD.finditer(text):
        digits = [int(digit) for digit in found[0] if digit.isdigit()]
        if _is_network(digits) and _luhn(digits):
            yield Span(found.start(), found.end(), Pii.CREDIT_CARD)
    for kind, pattern in ((Pii.SSN, _SSN), (Pii.PHONE, _PHONE)):
        for found in pattern.finditer(text):
            yield Span(found.start(), found.end(), kind)


def _emails(text: str) -> Iterator[Span]:
    """From each dot back to the nearest @, because an @ without a dot behind it is none of an address."""
    end = 0
    dot = text.find(".")
    while dot >= 0:
        at = text.rfind("@", end, dot)
        if at >= 0 and (found := _DOMAIN.match(text, at)):
            start = at
            while start > end and _IS_LOCAL.match(text, start - 1):
                start -= 1
            end = found.end()
            if start < at:
                yield Span(start, end, Pii.EMAIL)
        following = text.find("@", max(dot, end))
        dot = text.find(".", following) if following >= 0 else -1


def _is_network(digits: list[int]) -> bool:
    """Whether the first digits are a card network's: Visa, Mastercard, Discover and UnionPay, American Express."""
    first = digits[0] * 1000 + digits[1] * 100 + digits[2] * 10 + digits[3]
    if len(digits) == 15:
        return first // 100 in {34, 37}
    return (
        first // 1000 == 4
        or 51 <= first // 100 <= 55
        or 2221 <= first <= 2720
        or first in {6011, *range(6440, 6600)}
        or first // 100 == 62
    )


def _luhn(digits: list[int]) -> bool:
    """The check digit of ISO/IEC 7812-1."""
    doubled = [2 * digit - 9 * (digit > 4) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _fold(text: str) -> str:
    """The text as a reader takes it."""
    return text if text.isascii() else text.translate(_changed())


def _origin(text: str) -> list[int]:
    """For each character of the folded text the place of the one that it came from."""
    return [place for place, character in enumerate(text) for _ in _folded(character)]


@lru_cache(maxsize=8192)
def _folded(character: str) -> str:
    # Cf: zero-width space and joiners, marks of direction, soft hyphen; Mn: variation selectors, combining marks.
    if unicodedata.category(character) in {"Cf", "Mn"}:
        return ""
    folded = unicodedata.normalize("NFKC", character)
    # Longer ones are ligatures of whole phrases, up to 18 letters of no alphabet that is looked for.
    return folded if len(folded) <= 4 else character


@lru_cache(maxsize=1)
def _changed() -> dict[int, str]:
    """Code points that folding changes, and what to; made once, from the planes that have any."""
    planes = (range(0x80, 0xD800), range(0xE000, 0x30000), range(0xE0000, 0xE0200))
    fold = _folded.__wrapped__
    return {code: folded for plane in planes for code in plane if (folded := fold(chr(code))) != chr(code)}
