"""Reading the members of a venue's record, whatever stands there.

Every reader gives None for what is missing in one of the ways that venues have (no member, null, "", NaN, an
infinity, year 1) and raises `FieldError` for what is there and cannot be meant. A `Record` notes such a member as a
problem and goes on with None: one bad price does not cost the market, but it is told. Only what a row cannot be
without, its ids, makes the record unusable.

A venue's module does it like this::

    record = Record(raw)                                  # FieldError: not an object
    ticker = record.id("ticker")                          # FieldError: missing, too long, not text
    volume = record.decimal("volume_fp", "volume")        # the first name that holds anything
    opened = record.moment("open_time")
    census.add(record)                                    # who had which member, and the problems
    ...
    census.report(run, "markets")
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Protocol, TypeVar

import msgspec

from ssmd_core.db.tables import ID_CHARS
from ssmd_core.errors import SsmdError

T = TypeVar("T")

# Prices, sizes and volumes of all venues lie within 10^-18 and 10^18; more is a mistake or an attack.
MAX_EXPONENT = 30
MAX_DIGITS = 60
MAX_TEXT_CHARS = 10_000
MAX_STRINGS = 1_000
MAX_JSON_BYTES = 64 * 1024
MAX_JSON_DEPTH = 16
_MAX_INT4 = 2**31 - 1
_SHOWN_CHARS = 60

_NUMBER = re.compile(r"[+-]?(?:\d{1,60}(?:\.\d{0,60})?|\.\d{1,60})(?:[eE][+-]?\d{1,4})?", re.ASCII)
_NOT_FINITE = frozenset({"nan", "inf", "infinity", "+inf", "-inf", "+infinity", "-infinity"})
_MOMENT = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?\s?([Zz]|[+-]\d\d(?::?\d\d)?)?)?",
    re.ASCII,
)
_UNWANTED = re.compile("[\x00\ud800-\udfff]")


class FieldError(SsmdError):
    """A member, or a whole record, is not what it must be; the text is the reason, with the value's beginning."""


def decimal_of(value: Any) -> Decimal | None:
    """An exact number from a JSON number or decimal text (`"0.4800"`, `".48"`, `"1e-08"`, `-3`).

    Raises:
        FieldError: not a number, or one beyond 10^±30 or 60 digits.
    """
    match value:
        case None | "":
            return None
        case bool():
            raise FieldError(f"{value} is not a number")
        case int():
            number = Decimal(value)
        case Decimal():
            number = value
        case float():
            number = Decimal(repr(value))
        case str() if _NUMBER.fullmatch(value):
            number = Decimal(value)
        case str() if value.strip().lower() in _NOT_FINITE:
            return None
        case _:
            raise FieldError(f"{_shown(value)} is not a number")
    if not number.is_finite():
        return None
    _, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    if not number:
        return Decimal(0) if abs(exponent) > MAX_EXPONENT else abs(number)
    if abs(number.adjusted()) > MAX_EXPONENT or exponent < -MAX_DIGITS or len(digits) > MAX_DIGITS:
        raise FieldError(f"number {_shown(value)} is out of bounds")
    return number


def whole_of(value: Any) -> int | None:
    """A whole number that a Postgres integer holds.

    Raises:
        FieldError: it has a fraction, or is beyond ±2^31.
    """
    number = decimal_of(value)
    if number is None:
        return None
    if number != number.to_integral_value() or abs(number) > _MAX_INT4:
        raise FieldError(f"{_shown(value)} is not a whole number of 32 bits")
    return int(number)


def moment_of(value: Any) -> datetime | None:
    """A moment, UTC, to the microsecond; further digits are cut.

    Takes RFC 3339 with zero to nine fractional digits, a blank instead of the T, an offset of hours only
    (`2026-07-25 00:15:18+00`) or none (UTC), a date alone (midnight UTC); and epoch time as a number or its text,
    seconds, milliseconds, microseconds or nanoseconds by its size. Year 1 and epoch 0 mean that there is none.

    Raises:
        FieldError: it is none of them.
    """
    match value:
        case None | "":
            return None
        case str() if (found := _MOMENT.fullmatch(value)) is not None:
            return _calendar(value, found)
        case _:
            pass
    try:
        epoch = decimal_of(value)
    except FieldError:
        raise FieldError(f"{_shown(value)} is not a time") from None
    return None if not epoch else _epoch(epoch)


def _calendar(text: str, found: re.Match[str]) -> datetime | None:
    year, month, day, hour, minute, second, fraction, offset = found.groups()
    if year == "0001":
        return None
    zone = UTC
    if offset and offset not in "Zz":
        digits = offset[1:].replace(":", "")
        minutes = int(digits[:2]) * 60 + int(digits[2:] or 0)
        if minutes >= 24 * 60:
            raise FieldError(f"{_shown(text)} is not a time")
        zone = timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))
    try:
        return datetime(
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0),
            int((fraction or "0")[:6].ljust(6, "0")), zone,
        ).astimezone(UTC)  # fmt: skip
    except (ValueError, OverflowError):
        raise FieldError(f"{_shown(text)} is not a time") from None


def _epoch(epoch: Decimal) -> datetime:
    if epoch < 0 or epoch >= Decimal(10) ** 20:
        raise FieldError(f"{_shown(epoch)} is not a time")
    # 10^11 s is the year 5138, 10^11 ms is 1973.
    per_s = next(10**power for power, bound in ((0, 11), (3, 14), (6, 17), (9, 20)) if epoch < Decimal(10) ** bound)
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=int(epoch * 1_000_000 / per_s))


def flag_of(value: Any) -> bool | None:
    """A truth value: JSON's, its text, or 0 and 1.

    Raises:
        FieldError: it is none.
    """
    match value:
        case None | "":
            return None
        case bool():
            return value
        case "true" | "True" | "1":
            return True
        case "false" | "False" | "0":
            return False
        case int() if value in (0, 1):
            return bool(value)
    raise FieldError(f"{_shown(value)} is not true or false")


def text_of(value: Any, chars: int = MAX_TEXT_CHARS) -> str | None:
    """Text, or a number as text; NUL and halves of surrogate pairs, which Postgres cannot keep, become U+FFFD.

    Raises:
        FieldError: it is neither, or longer than `chars`.
    """
    match value:
        case None | "":
            return None
        case str():
            text = clean(value)
        case bool():
            raise FieldError(f"{value} is not text")
        case int() | Decimal():
            text = str(value)
        case _:
            raise FieldError(f"{_shown(value)} is not text")
    if len(text) > chars:
        raise FieldError(f"{len(text)} characters, more than {chars}: {_shown(text)}")
    return text


def id_of(value: Any, chars: int = ID_CHARS) -> str:
    """An id: text of 1 to `chars` characters, kept as it is.

    Raises:
        FieldError: it is missing, not text, too long, or holds what Postgres cannot keep.
    """
    if value is None or value == "":
        raise FieldError("is missing")
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise FieldError(f"{_shown(value)} is not text")
    if len(value) > chars:
        raise FieldError(f"{len(value)} characters, more than {chars}: {_shown(value)}")
    if _UNWANTED.search(value):
        raise FieldError(f"{_shown(value)} holds a character that no id has")
    return value


def reject_key(value: Any) -> str:
    """The key to report a refused record by: its id, or "" where that cannot be read, so that no sweep deletes."""
    try:
        return id_of(value)
    except FieldError:
        return ""


def strings_of(value: Any, chars: int = MAX_TEXT_CHARS) -> list[str]:
    """An array of texts, or such an array as JSON inside a text (Gamma); nulls in it are left out, [] if missing.

    Raises:
        FieldError: it is neither, or longer than 1,000 elements.
    """
    if isinstance(value, str) and value:
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise FieldError(f"{_shown(value)} is not a JSON array") from None
    if value is None or value == "":
        return []
    if not isinstance(value, list) or len(value) > MAX_STRINGS:
        raise FieldError(f"{_shown(value)} is not an array of at most {MAX_STRINGS} texts")
    texts = [text_of(each, chars) if each != "" else "" for each in value]
    return [text for text in texts if text is not None]


_ENCODER = msgspec.json.Encoder(decimal_format="number")


def json_of(value: Any) -> msgspec.Raw | None:
    """An object or array for a JSON column, already encoded so that its numbers stay what the venue wrote.

    Raises:
        FieldError: another kind of value, deeper than 16 levels, or longer than 64 KiB.
    """
    if value is None or value == "":
        return None
    if not isinstance(value, dict | list):
        raise FieldError(f"{_shown(value)} is not an object or array")
    encoded = _ENCODER.encode(_storable(value, MAX_JSON_DEPTH))
    if len(encoded) > MAX_JSON_BYTES:
        raise FieldError(f"JSON of {len(encoded)} bytes, more than {MAX_JSON_BYTES}")
    return msgspec.Raw(encoded)


def _storable(value: Any, depth: int) -> Any:
    if depth < 0:
        raise FieldError(f"JSON deeper than {MAX_JSON_DEPTH} levels")
    match value:
        case dict():
            return {clean(str(key)): _storable(each, depth - 1) for key, each in value.items()}
        case list():
            return [_storable(each, depth - 1) for each in value]
        case str():
            return clean(value)
        case bool() | None:
            return value
        case _:
            return decimal_of(value)


def clean(text: str) -> str:
    """The text with U+FFFD for NUL and for halves of surrogate pairs."""
    return _UNWANTED.sub("\ufffd", text)


class Record:
    """One object of a listing.

    The optional readers take several names, newest generation first; the first that holds anything gives the value.

    Args:
        raw: what the listing holds.

    Raises:
        FieldError: it is not an object.
    """

    __slots__ = ("problems", "raw")

    def __init__(self, raw: Any) -> None:
        if not isinstance(raw, dict):
            raise FieldError(f"{_shown(raw)} is not an object")
        self.raw: Mapping[str, Any] = raw
        #: What could not be read, `name: reason`.
        self.problems: list[str] = []

    def id(self, *names: str) -> str:
        """See `id_of`; the text of the error begins with the name.

        Raises:
            FieldError: see `id_of`.
        """
        name, value = self._first(names)
        try:
            return id_of(value)
        except FieldError as error:
            raise FieldError(f"{name}: {error}") from None

    def optional_id(self, *names: str) -> str | None:
        """An id that may be missing; an unusable one is a problem."""
        return self._read(id_of, names) if self._first(names)[1] not in (None, "") else None

    def decimal(self, *names: str) -> Decimal | None:
        """See `decimal_of`."""
        return self._read(decimal_of, names)

    def whole(self, *names: str) -> int | None:
        """See `whole_of`."""
        return self._read(whole_of, names)

    def moment(self, *names: str) -> datetime | None:
        """See `moment_of`."""
        return self._read(moment_of, names)

    def flag(self, *names: str) -> bool | None:
        """See `flag_of`."""
        return self._read(flag_of, names)

    def text(self, *names: str, chars: int = MAX_TEXT_CHARS) -> str | None:
        """See `text_of`."""
        return self._read(lambda value: text_of(value, chars), names)

    def strings(self, *names: str, chars: int = MAX_TEXT_CHARS) -> list[str]:
        """See `strings_of`; [] also for what is unusable."""
        return self._read(lambda value: strings_of(value, chars), names) or []

    def json(self, *names: str) -> msgspec.Raw | None:
        """See `json_of`."""
        return self._read(json_of, names)

    def _first(self, names: tuple[str, ...]) -> tuple[str, Any]:
        for name in names:
            value = self.raw.get(name)
            if value is not None and value != "":
                return name, value
        return names[0], None

    def _read(self, reader: Callable[[Any], T | None], names: tuple[str, ...]) -> T | None:
        name, value = self._first(names)
        try:
            return reader(value)
        except FieldError as error:
            self.problems.append(f"{name}: {error}")
            return None


class _Warned(Protocol):
    def warn(self, text: str, count: int = 1) -> None: ...


class Census:
    """Which members the records of one listing had, and what could not be read of them.

    Args:
        expected: groups of names of which every record has always had one, e.g. `("volume_fp", "volume")`.
    """

    def __init__(self, *expected: tuple[str, ...]) -> None:
        self._expected = expected
        self._records = 0
        self._present: Counter[tuple[str, ...]] = Counter()
        self._problems: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, record: Record) -> None:
        """Count a record, after it has been read."""
        self._records += 1
        for names in self._expected:
            self._present[names] += any(name in record.raw for name in names)
        for problem in record.problems:
            name = problem.partition(":")[0]
            self._problems[name] += 1
            self._examples.setdefault(name, problem)

    def report(self, run: _Warned, what: str) -> None:
        """Warn of members that all records lack though they never did, and of those that could not be read."""
        for names in self._expected:
            if self._records and not self._present[names]:
                run.warn(f"{what}: none of {self._records} records has {' or '.join(names)}: was it renamed?")
        for name, count in self._problems.items():
            run.warn(f"{what}: unreadable, taken as missing: {self._examples[name]}", count)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"
