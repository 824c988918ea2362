"""What reading the rows of all venues has in common."""

from __future__ import annotations

from decimal import Context, Decimal
from typing import Any

import msgspec

from ssmd_stream.reconcile.trades import us_of
from ssmd_stream.secmaster.fields import FieldError, Record
from ssmd_stream.secmaster.rest import RestFatalError

# A row of Polymarket's, with its texts and icon, takes 1 KB.
MAX_ROW_BYTES = 16 * 1024
# Ten times what is asked for at most. All pages together stay within 100 of a thousand rows, some 250 MB.
MAX_PAGE_ROWS = 10_000
_COLUMN_BELOW = Decimal(10) ** 12
_COLUMN_UNIT = Decimal("0.000001")
# Sixty digits are the most that a field has, see `decimal_of`.
_WIDE = Context(prec=80)
_ENCODER = msgspec.json.Encoder(decimal_format="number")


def bounded(rows: list[Any], path: str) -> list[Any]:
    """A page, unless it has far more rows than any venue's.

    Raises:
        RestFatalError: it has more than `MAX_PAGE_ROWS`.
    """
    if len(rows) > MAX_PAGE_ROWS:
        raise RestFatalError(f"GET {path}: a page of {len(rows)} rows, more than {MAX_PAGE_ROWS}", 200)
    return rows


def raw_text(row: Any) -> str:
    """The row as compact JSON, numbers as the venue wrote them.

    Raises:
        FieldError: it is longer than 16 KiB.
    """
    try:
        encoded = _ENCODER.encode(row)
    except (ValueError, TypeError) as error:
        # Half of a surrogate pair, which no UTF-8 holds.
        raise FieldError(f"row cannot be kept as text: {error}") from None
    if len(encoded) > MAX_ROW_BYTES:
        raise FieldError(f"row of {len(encoded)} bytes, more than {MAX_ROW_BYTES}")
    return encoded.decode("utf-8", "replace")


def required_decimal(record: Record, *names: str) -> Decimal:
    """A number that a trade cannot be without.

    Raises:
        FieldError: it is missing or none.
    """
    value = record.decimal(*names)
    if value is None:
        raise _missing(record, names)
    return value


def fitting(number: Decimal, name: str) -> Decimal:
    """The number, if a decimal(18,6) column holds it.

    Raises:
        FieldError: it has more digits.
    """
    if number.copy_abs() >= _COLUMN_BELOW or number != number.quantize(_COLUMN_UNIT, context=_WIDE):
        raise FieldError(f"{name}: {number} does not fit into 12 digits and 6 decimals")
    return number


def required_us(record: Record, *names: str) -> int:
    """A time that a trade cannot be without, epoch µs; further digits are cut.

    Raises:
        FieldError: it is missing or none.
    """
    value = record.moment(*names)
    if value is None:
        raise _missing(record, names)
    return us_of(value)


def _missing(record: Record, names: tuple[str, ...]) -> FieldError:
    return FieldError(record.problems[-1] if record.problems else f"{names[0]}: is missing")
