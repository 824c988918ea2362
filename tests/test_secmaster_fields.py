"""Reading members of records: whatever stands there gives a value that Postgres keeps, None, or a reason."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmd_stream.secmaster import fields
from ssmd_stream.secmaster.fields import Census, FieldError, Record

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.decimals() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
READERS = [
    fields.decimal_of, fields.whole_of, fields.moment_of, fields.flag_of, fields.text_of, fields.id_of,
    fields.strings_of, fields.json_of,
]  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
@given(value=JSON)
def test_any_value_is_read_or_refused_with_a_short_reason(reader: Any, value: Any) -> None:
    try:
        found = reader(value)
    except FieldError as error:
        assert 0 < len(str(error)) < 200
        return
    texts = found if isinstance(found, list) else [found]
    for text in texts:
        if isinstance(text, str):
            assert "\x00" not in text
            text.encode()  # no half of a surrogate pair


@given(st.decimals(min_value=-(10**18), max_value=10**18, places=8))
def test_decimals_are_exact(number: Decimal) -> None:
    assert fields.decimal_of(str(number)) == number
    assert fields.decimal_of(number) == number


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("0.4800", "0.4800"), (".48", "0.48"), ("1e-08", "1E-8"), ("5E-05", "0.00005"), (-3, "-3"), (0.5, "0.5"),
        ("-170750", "-170750"), ("-0.0", "0.0"), (Decimal("-0.0"), "0.0"), ("0e400", "0"), ("+1.", "1"),
    ],
)  # fmt: skip
def test_numbers(value: Any, number: str) -> None:
    assert str(fields.decimal_of(value)) == str(Decimal(number))


@pytest.mark.parametrize("value", [None, "", "NaN", "-Infinity", float("nan"), float("inf"), Decimal("sNaN")])
def test_no_number(value: Any) -> None:
    assert fields.decimal_of(value) is None


@pytest.mark.parametrize(
    "value",
    ["1e400", Decimal("1e400"), Decimal("1e-400"), 10**31, "9" * 61, "1_000", "0x10", "١", " 1", "1,5", True, [], {}],
)
def test_not_a_number(value: Any) -> None:
    with pytest.raises(FieldError):
        fields.decimal_of(value)


@given(
    st.datetimes(min_value=datetime(1900, 1, 2), max_value=datetime(9998, 1, 1)),
    st.integers(0, 9),
    st.integers(-840, 840),
    st.sampled_from("T t"),
)
def test_moments_of_any_precision_and_offset(moment: datetime, digits: int, offset: int, between: str) -> None:
    text = moment.strftime(f"%Y-%m-%d{between}%H:%M:%S").rjust(19, "0")
    fraction = f"{moment.microsecond:06d}000"[:digits]
    sign, minutes = "-" if offset < 0 else "+", abs(offset)
    zone = f"{sign}{minutes // 60:02d}:{minutes % 60:02d}"
    kept = int(fraction[:6].ljust(6, "0"))
    expected = moment.replace(microsecond=kept, tzinfo=timezone(timedelta(minutes=offset)))
    assert fields.moment_of(text + (f".{fraction}" if fraction else "") + zone) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-08-04T00:01:12.518832Z", "2026-08-04T00:01:12.518832"),
        ("2026-08-05T04:00:04.85425Z", "2026-08-05T04:00:04.854250"),
        ("2026-08-05T04:00:04.123456789Z", "2026-08-05T04:00:04.123456"),
        ("2026-07-25 00:15:18+00", "2026-07-25T00:15:18"),
        ("2026-07-25", "2026-07-25T00:00:00"),
        (1_786_845_515, "2026-08-16T01:58:35"),
        ("1786845515154", "2026-08-16T01:58:35.154000"),
        (Decimal("1786845515.154"), "2026-08-16T01:58:35.154000"),
        (1_786_845_515_154_321, "2026-08-16T01:58:35.154321"),
        (1_786_845_515_154_321_987, "2026-08-16T01:58:35.154321"),
    ],
)
def test_moments(value: Any, expected: str) -> None:
    assert fields.moment_of(value) == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@pytest.mark.parametrize("value", [None, "", 0, "0", "0001-01-01T00:00:00Z", "NaN"])
def test_no_moment(value: Any) -> None:
    assert fields.moment_of(value) is None


@pytest.mark.parametrize(
    "value", ["2026-02-30T00:00:00Z", "2026-01-01T24:00:00Z", "9999-12-31T23:59:59-10:00", "soon", -1, 10**20, True]
)
def test_not_a_moment(value: Any) -> None:
    with pytest.raises(FieldError):
        fields.moment_of(value)


def test_texts_and_ids_have_bounds_and_no_nul() -> None:
    assert fields.text_of("a\x00b\ud800") == "a\ufffdb\ufffd"
    assert fields.text_of(Decimal("4128.40")) == "4128.40"
    assert fields.id_of("x" * 128) == "x" * 128
    for value in ("x" * 129, "a\x00b", "", None, 1.5, True):
        with pytest.raises(FieldError):
            fields.id_of(value)


def test_arrays_inside_texts() -> None:
    assert fields.strings_of('["Yes", "No", null, ""]') == ["Yes", "No", ""]
    assert fields.strings_of(None) == fields.strings_of("") == []
    for value in ("not json", '{"a":1}', "[" * 5_000, ["x"] * 1_001, [["x"]]):
        with pytest.raises(FieldError):
            fields.strings_of(value)


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=3))
def test_json_columns_keep_exact_numbers_and_no_nul(value: dict[str, Any]) -> None:
    try:
        raw = fields.json_of(value)
    except FieldError:
        return
    assert raw is not None
    text = bytes(raw).decode()
    assert "\\u0000" not in text
    assert isinstance(json.loads(text), dict)


def test_json_columns() -> None:
    raw = fields.json_of({"floor": Decimal("84000.123456789012345678"), "round_digits": "2", "n": 12345678901234567890})
    assert bytes(raw or b"") == b'{"floor":84000.123456789012345678,"round_digits":"2","n":12345678901234567890}'
    deep: Any = {}
    for _ in range(20):
        deep = {"a": deep}
    for value in (deep, ["x" * 70_000], "text", 3):
        with pytest.raises(FieldError):
            fields.json_of(value)
    assert fields.json_of(None) is None
    assert isinstance(fields.json_of([]), msgspec.Raw)


class Warned:
    """Stands for a run where only its warnings matter."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}

    def warn(self, text: str, count: int = 1) -> None:
        self.texts[text] = self.texts.get(text, 0) + count


def test_a_bad_optional_member_is_told_and_does_not_cost_the_record() -> None:
    census = Census(("volume_fp", "volume"), ("title",))
    for number in range(3):
        record = Record({"ticker": f"A{number}", "price": "x", "title": ""})
        assert (record.id("ticker"), record.decimal("price"), record.text("title")) == (f"A{number}", None, None)
        census.add(record)
    run = Warned()
    census.report(run, "markets")
    assert run.texts == {
        "markets: none of 3 records has volume_fp or volume: was it renamed?": 1,
        "markets: unreadable, taken as missing: price: 'x' is not a number": 3,
    }


def test_the_first_name_that_holds_anything_gives_the_value() -> None:
    record = Record({"volume_fp": "", "volume": 7, "long": "x" * 129})
    assert record.decimal("volume_fp", "volume") == 7
    assert record.optional_id("missing") is None
    assert (record.optional_id("long"), len(record.problems)) == (None, 1)
    with pytest.raises(FieldError, match="ticker: is missing"):
        record.id("ticker")
    with pytest.raises(FieldError, match="is not an object"):
        Record([1])
