"""Values and strangers' text as people read them."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

#: A score of 0 to 100; None is unknown, which is not 0.
Score = Decimal | int | None


def shown(value: Any) -> str:
    """A value as people read it: UTC to the second, nothing for null, no control characters."""
    match value:
        case None:
            return ""
        case datetime():
            return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(shown, value))
        case _:
            text = str(value)
            # Most is printable, and 100 times as fast to be known as such.
            return text if text.isprintable() else "".join(map(_harmless, text))


def _harmless(character: str) -> str:
    # Cc and Cf: terminal escapes, and marks that turn the direction of what follows; Cs: nothing that UTF-8 could hold.
    return "\ufffd" if unicodedata.category(character) in {"Cc", "Cf", "Cs"} else character


def one_line(text: str, max_chars: int) -> str:
    """Text without control characters and on one line, whichever of Unicode's line ends it holds; cut if longer."""
    line = shown(" ".join(text[: 4 * max_chars].split()))
    return line if len(line) <= max_chars else line[: max_chars - 1].rstrip() + "…"


def whole(score: Score) -> str:
    """A score without decimals, halves up (42.5 is 43); a dash where it is unknown."""
    return "–" if score is None else str(Decimal(score).quantize(Decimal(1), ROUND_HALF_UP))


def lasted(seconds: float) -> str:
    """A duration in its two largest units, e.g. `2 h 05 min`."""
    minutes = int(max(0.0, seconds)) // 60
    if minutes < 1:
        return f"{int(max(0.0, seconds))} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min"
    return f"{hours // 24} d {hours % 24} h"
