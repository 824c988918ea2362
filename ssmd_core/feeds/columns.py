"""Short constructors for the schemas of the feeds."""

from __future__ import annotations

from ssmd_core.feeds.base import Column, Convert, Source

# 12 digits before the point and 6 after it: the finest tick seen is 0.0001 dollars and fees have up to 6 digits.
DECIMAL = "decimal(18,6)"


def text(name: str, *paths: str, required: bool = False, distinct: bool = False, about: str = "") -> Column:
    """A string column."""
    return Column(name, "string", _sources(paths, "text"), not required, "", about, distinct)


def integer(name: str, *paths: str, required: bool = False, unit: str = "", about: str = "") -> Column:
    """An int64 column."""
    return Column(name, "int64", _sources(paths, "int"), not required, unit, about)


def number(name: str, *paths: str, required: bool = False, unit: str = "", about: str = "") -> Column:
    """A float64 column, for venues that send JSON numbers."""
    return Column(name, "float64", _sources(paths, "float"), not required, unit, about)


def flag(name: str, *paths: str, about: str = "") -> Column:
    """A bool column."""
    return Column(name, "bool", _sources(paths, "bool"), True, "", about)


def json(name: str, *paths: str, about: str = "") -> Column:
    """A string column with any JSON value as compact text."""
    return Column(name, "string", _sources(paths, "json"), True, "JSON", about)


def decimal(name: str, unit: str, *sources: str | Source, required: bool = False, about: str = "") -> Column:
    """A decimal(18,6) column; a plain path is decimal text or a JSON number."""
    return Column(name, DECIMAL, _mixed(sources, "decimal"), not required, unit, about)


def moment(name: str, *sources: Source, required: bool = False, about: str = "") -> Column:
    """A timestamp column."""
    return Column(name, "timestamp", sources, not required, "µs, UTC", about)


def levels_decimal(name: str, unit: str, *sources: str | Source, about: str = "") -> Column:
    """Price levels with decimal prices and sizes; a plain path is an array of objects."""
    return Column(name, "levels_decimal", _mixed(sources, "levels"), True, unit, about)


def levels_float(name: str, unit: str, *paths: str, required: bool = False, about: str = "") -> Column:
    """Price levels with float64 prices and sizes."""
    return Column(name, "levels_float", _sources(paths, "levels"), not required, unit, about)


def cents(path: str) -> Source:
    """Integer cents of the generation before 2026-03-12."""
    return Source(path, "cents")


def seconds(path: str) -> Source:
    """Epoch seconds."""
    return Source(path, "s")


def milliseconds(path: str) -> Source:
    """Epoch milliseconds."""
    return Source(path, "ms")


def iso(path: str) -> Source:
    """RFC 3339 text."""
    return Source(path, "iso")


def _sources(paths: tuple[str, ...], convert: Convert) -> tuple[Source, ...]:
    return tuple(Source(path, convert) for path in paths)


def _mixed(sources: tuple[str | Source, ...], convert: Convert) -> tuple[Source, ...]:
    return tuple(source if isinstance(source, Source) else Source(source, convert) for source in sources)
