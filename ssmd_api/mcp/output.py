"""What a tool gives: the API's answer, with its rows and bytes bounded and what was cut told."""

from __future__ import annotations

import unicodedata
from typing import Any

import orjson

#: Some 16,000 tokens.
MAX_BYTES = 64 * 1024
_MAX_TEXT_CHARS = 2_000
_MAX_ERROR_CHARS = 500

SCHEMA = {
    "type": "object",
    "properties": {
        "data": {"type": "object", "description": "The API's answer."},
        "truncated": {"type": "boolean", "description": "Whether there is more than is shown."},
        "shown": {"type": "integer", "description": "Rows shown."},
        "note": {"type": "string"},
    },
    "required": ["data", "truncated", "shown"],
}


def bounded(answer: dict[str, Any], rows: str, limit: int) -> dict[str, Any]:
    """An answer as a tool gives it.

    Args:
        rows: member with the list of which at most `limit` are shown, and fewer if they have too many bytes.
    """
    data: dict[str, Any] = clean(answer)
    listed = data.get(rows)
    every = listed if isinstance(listed, list) else []
    few, many = 0, min(limit, len(every))
    if _bytes_of(_shown(data, rows, every, many)) > MAX_BYTES:
        # The most rows that fit: each step encodes at most what the API gave.
        while many - few > 1:
            middle = (few + many) // 2
            if _bytes_of(_shown(data, rows, every, middle)) <= MAX_BYTES:
                few = middle
            else:
                many = middle
        many = few
    found = _shown(data, rows, every, many)
    if _bytes_of(found) > MAX_BYTES:
        note = f"the answer has more than {MAX_BYTES} bytes even without its rows; ask for less"
        return {"data": {}, "truncated": True, "shown": 0, "note": note}
    return found


def _shown(data: dict[str, Any], rows: str, every: list[Any], count: int) -> dict[str, Any]:
    cut = count < len(every)
    more = cut or data.get("nextCursor") is not None
    found: dict[str, Any] = {"data": data, "truncated": more, "shown": count}
    if cut:
        # Its cursor stands behind rows that are not shown.
        found["data"] = {**data, rows: every[:count]}
        if found["data"].pop("nextCursor", None) is not None:
            found["note"] = "rows were left out for their size; ask again with a smaller limit to page on from here"
    return found


def clean(value: Any) -> Any:
    """The value with every text printable and short: no terminal escapes, no invisible or direction-turning marks."""
    if isinstance(value, str):
        return printable(value, _MAX_TEXT_CHARS)
    if isinstance(value, list):
        return [clean(each) for each in value]
    if isinstance(value, dict):
        return {printable(name, _MAX_TEXT_CHARS): clean(each) for name, each in value.items()}
    return value


def error_text(text: str) -> str:
    """An error as it may be shown."""
    return printable(text, _MAX_ERROR_CHARS)


def printable(text: str, most: int) -> str:
    """Text without control and format characters, cut where it is longer than `most`."""
    if not text.isprintable():
        text = "".join("\ufffd" if unicodedata.category(c) in {"Cc", "Cf", "Co", "Cs"} else c for c in text)
    return text if len(text) <= most else text[:most] + "…"


def encode(value: Any) -> str:
    """As JSON text."""
    return orjson.dumps(value).decode()


def _bytes_of(value: Any) -> int:
    return len(orjson.dumps(value))
