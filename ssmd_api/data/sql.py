"""The queries over datasets. Names of columns come from the registry; whatever a client says is a parameter.

Every query takes `$files`, a list of paths.
"""

from __future__ import annotations

from collections.abc import Iterable

from ssmd_core.feeds.base import META_COLUMNS, Column, Quotes, Schema, Trades

#: Instruments that are shown of an event, and of a feed's volume.
TOP = 5
_TYPES = {
    "string": "VARCHAR",
    "bool": "BOOLEAN",
    "int64": "BIGINT",
    "uint64": "UBIGINT",
    "float64": "DOUBLE",
    "timestamp": "TIMESTAMPTZ",
}


def columns_of(schema: Schema) -> dict[str, Column]:
    """The dataset's columns by name."""
    return {column.name: column for column in (*schema.columns, *META_COLUMNS)}


def scan(schema: Schema, names: Iterable[str]) -> str:
    """A subquery with these columns of the files.

    Files of different versions of a schema are read together: a column that one lacks is null there, and each value
    comes in the registry's type, even if none of the files has the column.
    """
    known = columns_of(schema)
    types = {name: _TYPES.get(known[name].type, known[name].type.upper()) for name in dict.fromkeys(names)}
    empty = ", ".join(f"NULL::{kind} AS {_quoted(name)}" for name, kind in types.items())
    cast = ", ".join(f"{_quoted(name)}::{kind} AS {_quoted(name)}" for name, kind in types.items())
    return (
        f"(SELECT {cast} FROM (SELECT {empty} WHERE false UNION ALL BY NAME "
        "SELECT * FROM read_parquet($files, union_by_name = true)))"
    )


def trades_by_instrument(trades: Trades, schema: Schema) -> str:
    """Count, size and prices of each instrument, most trades first.

    Further parameters: `$instruments` (null: all), `$limit`, `$offset`.
    """
    price = _quoted(trades.price)
    return (
        f"SELECT {_quoted(trades.instrument)} AS ticker, count(*) AS trade_count, "
        f"{_sum(schema, trades.size)} AS total_volume, min({price}) AS min_price, max({price}) AS max_price, "
        f"{_sum(schema, trades.price)} AS price_sum "
        f"FROM {_trades(trades, schema, trades.price)} "
        f"WHERE {_among(trades.instrument)} GROUP BY ticker "
        "ORDER BY trade_count DESC, ticker LIMIT $limit OFFSET $offset"
    )


def volume(trades: Trades, schema: Schema) -> str:
    """The first `TOP` instruments, each with the sums of all: `all_trades`, `all_volume`, `all_tickers`."""
    return (
        f"WITH {_per_instrument(trades, schema)} "
        "SELECT ticker, trade_count, volume, (sum(trade_count) OVER ())::BIGINT AS all_trades, "
        "sum(volume) OVER () AS all_volume, count(*) OVER () AS all_tickers "
        f"FROM per ORDER BY {_rank(trades)}, ticker LIMIT {TOP}"
    )


def events(trades: Trades, schema: Schema) -> str:
    """The first events, each with a row for each of its first `TOP` instruments.

    Further parameter: `$limit`, of events.
    """
    return (
        f"WITH {_per_instrument(trades, schema)}, event AS ("
        "SELECT event_id, sum(trade_count)::BIGINT AS event_trade_count, sum(volume) AS event_volume, "
        f"count(*) AS market_count FROM per GROUP BY event_id "
        f"ORDER BY {_rank(trades, 'event_')}, event_id LIMIT $limit), "
        "place AS (SELECT per.*, row_number() OVER "
        f"(PARTITION BY event_id ORDER BY {_rank(trades)}, ticker) AS place FROM per SEMI JOIN event USING (event_id)) "
        "SELECT event_id, event_trade_count, event_volume, market_count, ticker, trade_count, volume "
        f"FROM event JOIN place USING (event_id) WHERE place <= {TOP} "
        f"ORDER BY {_rank(trades, 'event_')}, event_id, place"
    )


def latest(quotes: Quotes, schema: Schema) -> str:
    """The newest row of each instrument: by the venue's time, then by the time of receipt, then by sequence.

    First only the newest times are found, then their rows: ranking all rows would hold all of them in memory.

    Further parameters: `$instruments` (null: all), `$limit`, `$offset`.
    """
    instrument, time, rank = _quoted(quotes.instrument), _quoted(quotes.time), _quoted(quotes.rank)
    known = columns_of(schema)
    shown = dict.fromkeys((*quotes.columns, quotes.time, quotes.rank, "_received_at"))
    # A row without a time is older than any with one.
    oldest = "'-infinity'::TIMESTAMPTZ" if known[quotes.time].type == "timestamp" else str(-(2**63))
    packed = ", ".join(f"{_quoted(name)} := {_plain(known[name])}" for name in shown)
    rows = scan(schema, (quotes.instrument, *shown, "_nats_seq"))
    order = "DESC" if quotes.descending else "ASC"
    return (
        f"WITH quote AS NOT MATERIALIZED (SELECT *, coalesce({time}, {oldest}) AS moment FROM {rows} "
        f"WHERE {_among(quotes.instrument)}), "
        f"newest AS (SELECT {instrument} AS ticker, max(moment) AS moment FROM quote GROUP BY ticker), "
        f"picked AS (SELECT ticker, arg_max(struct_pack({packed}), (_received_at, _nats_seq)) AS found "
        f"FROM quote JOIN newest ON {instrument} = ticker AND quote.moment = newest.moment GROUP BY ticker) "
        f"SELECT ticker, unnest(found) FROM picked ORDER BY found.{rank} {order} NULLS LAST, ticker "
        "LIMIT $limit OFFSET $offset"
    )


def _per_instrument(trades: Trades, schema: Schema) -> str:
    """Part of a WITH: `per` with ticker, event_id, trade_count and volume."""
    # Once for each instrument: for each trade it would take longer than all the rest.
    event = f"array_to_string(string_split(about, '-')[1:{trades.event_parts}], '-')" if trades.event_parts else "about"
    return (
        f"per AS (SELECT ticker, {event} AS event_id, trade_count, volume FROM ("
        f"SELECT {_quoted(trades.instrument)} AS ticker, any_value({_quoted(trades.event)}) AS about, "
        f"count(*) AS trade_count, {_sum(schema, trades.size)} AS volume "
        f"FROM {_trades(trades, schema, trades.event)} GROUP BY ticker))"
    )


def _trades(trades: Trades, schema: Schema, *names: str) -> str:
    """The trades, each once."""
    repeats = (trades.repeats,) if trades.repeats else ()
    rows = scan(schema, (trades.instrument, trades.size, *names, *repeats))
    return f"(FROM {rows} WHERE {_quoted(trades.repeats)} IS NOT TRUE)" if trades.repeats else rows


def _rank(trades: Trades, of: str = "") -> str:
    """The order of instruments or events: by volume only where volumes are of one unit."""
    return f"{of}volume DESC" if trades.additive else f"{of}trade_count DESC"


def _among(column: str) -> str:
    return f"($instruments::VARCHAR[] IS NULL OR list_contains($instruments::VARCHAR[], {_quoted(column)}))"


def _sum(schema: Schema, name: str) -> str:
    """An exact sum of decimals; of floats one whose error does not grow with their number."""
    function = "fsum" if columns_of(schema)[name].type == "float64" else "sum"
    return f"{function}({_quoted(name)})"


def _plain(column: Column) -> str:
    """A column's value as Python gets it: times as µs since 1970, free of the session's time zone."""
    return f"epoch_us({_quoted(column.name)})" if column.type == "timestamp" else _quoted(column.name)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
