"""What a feed declares, once, for everybody: subscribing, routing, archiving, parquet, docs, quality and the API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Convert = Literal[
    "text",  # JSON string or number, kept as the venue wrote it
    "int",  # JSON number without fraction, or a string of digits
    "float",  # JSON number, or decimal text
    "bool",
    "decimal",  # decimal text or JSON number, exact; "" is null; more digits than the column holds is a reject
    "cents",  # integer cents of the old Kalshi generation, divided by 100 exactly
    "s",  # epoch seconds, number or text
    "ms",  # epoch milliseconds, number or text
    "us",  # epoch microseconds, JSON integer
    "iso",  # RFC 3339; fractional digits after the sixth are cut
    "json",  # any JSON value as compact text
    "cents_or_dollars",  # JSON integer: cents; text: dollars
    "levels",  # array of {price, qty|size} objects
    "pairs",  # array of [price, quantity]
    "cents_pairs",  # array of [integer cents, quantity]
    "is_snapshot",  # text "snapshot" is true, "update" is false
]


class Source(NamedTuple):
    """Where a column's value stands in the message, and how it is read.

    Attributes:
        path: dotted members from the message, e.g. `msg.price_dollars`. With `Schema.explode`, a path that
            starts with `item.` is taken from the exploded element.
        convert: how the JSON value becomes the column's type.
    """

    path: str
    convert: Convert


@dataclass(frozen=True, slots=True)
class Column:
    """One parquet column.

    Attributes:
        name: column name.
        type: `string`, `bool`, `int64`, `uint64`, `float64`, `timestamp` (µs, UTC), `decimal(P,S)`,
            `levels_decimal` or `levels_float` (list of {price, size}).
        sources: alternatives by generation of the wire format; the first whose key is present and not null
            (for decimals: not "") gives the value.
        nullable: False makes a message without the value a reject.
        unit: `dollars`, `contracts`, `shares`, `base units`, …; "" where none applies.
        description: one line for the schema docs.
        distinct: values hardly repeat (hashes, trade ids), so a parquet dictionary would only cost time and space.
    """

    name: str
    type: str
    sources: tuple[Source, ...]
    nullable: bool = True
    unit: str = ""
    description: str = ""
    distinct: bool = False


@dataclass(frozen=True, slots=True)
class Schema:
    """The parquet schema of one message type.

    Attributes:
        name: dataset name, e.g. `kalshi_ticker`.
        version: semantic version of the columns.
        columns: without the four members every schema ends with (see `META_COLUMNS`).
        explode: alternatives of a dotted path to an array; each element is a row (`item`). The first present
            path is used. An object at the path, or the path `.`, is one row. Empty: the message is the row.
    """

    name: str
    version: str
    columns: tuple[Column, ...]
    explode: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MessageType:
    """One of the venue's message types.

    Attributes:
        name: the venue's own word (`ticker`, `orderbook_delta`, `price_change`, …).
        token: subject token; `control` for what is about the connection rather than the market.
        schema: None for a type that is archived but has no dataset.
        description: one line for the docs.
        venue_time: column with the venue's time of the message, a timestamp or ms since 1970, by which clocks and ages
            are told; "" where there is none or where it is the time of something older than the message.
        instrument: column with what was subscribed to get the message; "" where it comes unasked or for all.
    """

    name: str
    token: str
    schema: Schema | None = None
    description: str = ""
    venue_time: str = ""
    instrument: str = ""


class Route(NamedTuple):
    """What the hot path reads of a message.

    Attributes:
        type: the venue's message type.
        id: the venue's instrument id as it stands in the message; "" where the type has none.
    """

    type: str
    id: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may carry, by the venue's rules or by measured caution.

    Attributes:
        instruments_per_connection: shard size.
        instruments_per_command: longest list in one subscribe command.
        commands_per_s: pace of commands on one connection.
        max_frame_bytes: largest frame accepted.
        connect_spacing_s: pause between opening two shards.
        ack_timeout_s: how long an acknowledgement may take.
        connections: shards at most, where their number follows the security master.
        acknowledges: whether the venue answers a subscribe command; if not, what was sent counts as acknowledged.
    """

    instruments_per_connection: int
    instruments_per_command: int
    commands_per_s: float
    max_frame_bytes: int = 16 * 1024 * 1024
    connect_spacing_s: float = 0.0
    ack_timeout_s: float = 30.0
    connections: int = 10
    acknowledges: bool = True


@dataclass(frozen=True, slots=True)
class Liveness:
    """When a connection counts as dead (liveness is data or pong received, never ping sent).

    Attributes:
        ping_interval_s: pause between our keepalives.
        ping_text: application keepalive to send; None sends a WebSocket Ping frame.
        pong_timeout_s: no frame and no pong for so long: reconnect.
        data_timeout_s: no market data on the connection for so long: reconnect.
        group_timeout_s: no market data of a subscription group for so long: resubscribe it.
    """

    ping_interval_s: float
    ping_text: str | None
    pong_timeout_s: float
    data_timeout_s: float
    group_timeout_s: float


@dataclass(frozen=True, slots=True)
class Trades:
    """Which message type holds a feed's trades, and which of its columns say what.

    Attributes:
        message_type: the venue's word.
        instrument, price, size: columns.
        additive: whether sizes of different instruments are of one unit, so that their sum means something.
        event: column with the id of what the instrument is about: an event, a condition, or the instrument itself.
        event_parts: how many parts of that column's text, split at `-`, are the id; 0 for all of it.
        master: table and column of the security master where the event's id stands.
        repeats: bool column, true where a row repeats a trade from before the subscription; "" if none does.
    """

    message_type: str
    instrument: str
    price: str
    size: str
    additive: bool
    event: str
    master: tuple[str, str]
    event_parts: int = 0
    repeats: str = ""


@dataclass(frozen=True, slots=True)
class Quotes:
    """Which message type holds an instrument's latest prices, and which of its columns say what.

    Attributes:
        message_type: the venue's word.
        instrument: column.
        time: column with the venue's time: a timestamp, or ms since 1970.
        columns: what is shown of a row.
        rank: column by which instruments are ordered.
        descending: whether the largest comes first.
    """

    message_type: str
    instrument: str
    time: str
    columns: tuple[str, ...]
    rank: str
    descending: bool = True


@dataclass(frozen=True, slots=True)
class Feed:
    """A venue's feed. Built once per venue in `ssmd_core/feeds/<venue>/`, found through `ssmd_core.feeds.get`.

    Attributes:
        name: the one name everywhere (`kalshi`, `kraken`, `kraken-futures`, `polymarket`).
        display_name: for people.
        websocket_urls: by environment (`prod`, `demo` where the venue has one).
        rest_url: base of the public REST interface.
        auth: `kalshi_rsa_pss` or `none`.
        type_key: top-level members that may hold the message type, in the order they are tried.
        default_stream: stream whose subjects carry no category, "" if every stream has one.
        streams: the streams that ssmd captures and makes into datasets unless told otherwise.
        default_channels: what is subscribed unless env.yaml says otherwise.
        default_instruments: likewise; empty means all markets, where the venue allows it, or discovery over REST.
        message_types: by the venue's word.
        route: reads type and id of one message's bytes; raises `FrameError` where it is not a JSON object
            of this feed.
        limits, liveness: see there.
        integrity_rule: name of the rule by which completeness is proved (spec: sequence numbers and gap detection).
        quality_weight: share of the daily score.
        trades, quotes: where queries find trades and latest prices.
        notes: facts with their source, for the docs.
    """

    name: str
    display_name: str
    websocket_urls: Mapping[str, str]
    rest_url: str
    auth: Literal["kalshi_rsa_pss", "none"]
    type_key: tuple[str, ...]
    default_stream: str
    streams: tuple[str, ...]
    default_channels: tuple[str, ...]
    default_instruments: tuple[str, ...]
    message_types: Mapping[str, MessageType] = field(repr=False)
    route: Callable[[bytes], Route]
    limits: Limits
    liveness: Liveness
    integrity_rule: str
    quality_weight: float
    trades: Trades
    quotes: Quotes
    aliases: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default_factory=tuple)

    def required_schema(self, message_type: str) -> Schema:
        """The schema of a message type that has one.

        Raises:
            KeyError: it has none.
        """
        schema = self.schema_of(message_type)
        if schema is None:
            raise KeyError(f"{self.name} has no dataset {message_type!r}")
        return schema

    def schema_of(self, message_type: str) -> Schema | None:
        """The schema of a message type, None where there is none or the type is unknown."""
        known = self.message_types.get(message_type)
        return known.schema if known else None


META_COLUMNS: tuple[Column, ...] = (
    Column("_nats_seq", "uint64", (Source("_nats_seq", "int"),), False, "", "JetStream stream sequence"),
    Column(
        "_received_at", "timestamp", (Source("_received_at", "us"),), False, "µs, UTC", "receive time at the socket"
    ),
    Column("_epoch", "string", (Source("_epoch", "text"),), False, "", "WebSocket connection the message came on"),
    Column(
        "_ordinal", "int64", (Source("_ordinal", "int"),), False, "", "position of the message in its epoch, from 0"
    ),
)
