"""Every table of ssmd, once: alembic's models, and the one column list of the merge, its guard and the triggers.

Prices are dollars and sizes may be fractions, so both are NUMERIC without a scale: a column with one would round
what the venue wrote.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

metadata = sa.MetaData(
    naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s", "fk": "fk_%(table_name)s_%(column_0_N_name)s"}
)

LIVE = sa.text("deleted_at IS NULL")
_NOW = sa.text("ssmd_now()")
# The venues' ids: Kalshi's tickers are below 100 characters, Polymarket's token ids have up to 78 digits.
ID_CHARS = 128
_BOOKKEEPING = ("created_at", "updated_at")


def _id(name: str, *more: sa.schema.SchemaItem, nullable: bool = False, **options: object) -> sa.Column[str]:
    return sa.Column(name, sa.String(ID_CHARS), *more, nullable=nullable, **options)  # type: ignore[arg-type]  # passed on


def _text(name: str, *, nullable: bool = True) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=nullable)


def _word(name: str, chars: int = 32, *, nullable: bool = True, default: str | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.String(chars), nullable=nullable, server_default=default)


def _number(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.Numeric)


def _whole(name: str, *, nullable: bool = True) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=nullable)


def _flag(name: str, *, nullable: bool = True, default: bool | None = None) -> sa.Column[bool]:
    server_default = None if default is None else sa.text(str(default).lower())
    return sa.Column(name, sa.Boolean, nullable=nullable, server_default=server_default)


def _moment(name: str, *, nullable: bool = True, default: sa.TextClause | None = None) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable, server_default=default)


def _words(name: str) -> sa.Column[object]:
    return sa.Column(name, pg.ARRAY(sa.Text), nullable=False, server_default=sa.text("'{}'"))


def _json(name: str, *, nullable: bool = True, default: str | None = None) -> sa.Column[object]:
    server_default = None if default is None else sa.text(f"'{default}'::jsonb")
    return sa.Column(name, pg.JSONB, nullable=nullable, server_default=server_default)


def _made(*, deleted: bool = True) -> list[sa.Column[object]]:
    stamps = [_moment("created_at", nullable=False, default=_NOW), _moment("updated_at", nullable=False, default=_NOW)]
    return [*stamps, _moment("deleted_at")] if deleted else stamps


def _live_index(*columns: str) -> sa.Index:
    return sa.Index(None, *columns, postgresql_where=LIVE)


# -- the security master

series = sa.Table(
    "series",
    metadata,
    _id("ticker", primary_key=True),
    _text("title", nullable=False),
    _word("category", 128, nullable=False, default=""),
    _words("tags"),
    _word("frequency", 64),
    _flag("is_game", nullable=False, default=False),
    _number("volume"),
    _word("fee_type", 64),
    _number("fee_multiplier"),
    _whole("exchange_index"),
    _moment("venue_updated_at"),
    *_made(),
    _live_index("category", "is_game"),
    sa.Index(None, "tags", postgresql_using="gin", postgresql_where=LIVE),
)

events = sa.Table(
    "events",
    metadata,
    _id("event_ticker", primary_key=True),
    _id("series_ticker", server_default=""),
    _text("title", nullable=False),
    _text("sub_title"),
    _word("category", 128, nullable=False, default=""),
    _moment("strike_date"),
    _word("strike_period", 64),
    _flag("mutually_exclusive", nullable=False, default=False),
    _word("collateral_return_type", 64),
    _word("status", 16, nullable=False, default="active"),
    _word("fee_type_override", 64),
    _number("fee_multiplier_override"),
    _whole("exchange_index"),
    _moment("venue_updated_at"),
    *_made(),
    _live_index("category"),
    _live_index("series_ticker"),
    _live_index("status"),
    _live_index("strike_date"),
)

markets = sa.Table(
    "markets",
    metadata,
    _id("ticker", primary_key=True),
    _id("event_ticker", sa.ForeignKey("events.event_ticker")),
    _text("title", nullable=False),
    _text("yes_sub_title"),
    _text("no_sub_title"),
    _word("market_type", 16),
    _word("status", 16, nullable=False),
    _word("venue_status"),
    _moment("open_time"),
    _moment("close_time"),
    _moment("expected_expiration_time"),
    _moment("expiration_time"),
    _moment("latest_expiration_time"),
    _word("strike_type", 64),
    _number("floor_strike"),
    _number("cap_strike"),
    _text("functional_strike"),
    _json("custom_strike"),
    *map(_number, ("yes_bid", "yes_ask", "no_bid", "no_ask", "last_price")),
    *map(_number, ("volume", "volume_24h", "open_interest")),
    _word("result"),
    _number("settlement_value"),
    _moment("settled_at"),
    _text("expiration_value"),
    _flag("can_close_early"),
    _word("price_level_structure", 64),
    _json("price_ranges"),
    _id("mve_collection_ticker", nullable=True),
    _flag("is_provisional"),
    _whole("exchange_index"),
    _moment("venue_created_at"),
    _moment("venue_updated_at"),
    *_made(),
    _live_index("event_ticker"),
    _live_index("status"),
    _live_index("close_time"),
    # The sweep looks every ten seconds for what opens by itself.
    sa.Index(
        "ix_markets_opening", "open_time", postgresql_where=sa.text("status = 'initialized' AND deleted_at IS NULL")
    ),
)

FEE_TYPES = ("quadratic", "quadratic_with_maker_fees", "quadratic_with_combo_maker_fees", "flat")

series_fees = sa.Table(
    "series_fees",
    metadata,
    _id("source_id", primary_key=True),
    sa.Column("id", sa.BigInteger, sa.Identity(), unique=True, nullable=False),
    _id("series_ticker"),
    _word("fee_type", 64, nullable=False),
    sa.Column("fee_multiplier", sa.Numeric, nullable=False),
    _moment("effective_from", nullable=False),
    _moment("effective_to"),
    *_made(),
    sa.CheckConstraint(f"fee_type IN {FEE_TYPES}", name="series_fees_known_type"),
    # Intervals of a series are moved together, so they are compared at commit.
    pg.ExcludeConstraint(
        ("series_ticker", "="),
        (sa.text("tstzrange(effective_from, effective_to)"), "&&"),
        name="series_fees_no_overlap",
        using="gist",
        where=LIVE,
        deferrable=True,
        initially="DEFERRED",
    ),
    sa.Index(None, "series_ticker", "effective_from"),
)

market_lifecycle_events = sa.Table(
    "market_lifecycle_events",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    _word("stream", 64, nullable=False),
    sa.Column("nats_seq", sa.BigInteger, nullable=False),
    _id("market_ticker", index=True),
    _word("event_type", 64, nullable=False),
    _moment("open_ts"),
    _moment("close_ts"),
    _moment("settled_ts"),
    _word("result"),
    _number("settlement_value"),
    _json("metadata", nullable=False, default="{}"),
    _moment("received_at", nullable=False),
    sa.UniqueConstraint("stream", "nats_seq", name="market_lifecycle_events_once"),
    sa.Index(None, "event_type"),
    sa.Index(None, "received_at"),
)

pairs = sa.Table(
    "pairs",
    metadata,
    _id("pair_id", primary_key=True),
    _word("exchange", nullable=False),
    _id("native_id"),
    _word("base", nullable=False),
    _word("quote", nullable=False),
    _word("base_raw", nullable=False),
    _word("quote_raw", nullable=False),
    _word("ws_name", 64, nullable=False),
    _word("symbol", 64, nullable=False),
    _word("altname", 64),
    _word("market_type", 16, nullable=False),
    _word("status", 16, nullable=False),
    _word("venue_status"),
    *map(_whole, ("lot_decimals", "pair_decimals", "cost_decimals")),
    *map(_number, ("tick_size", "order_min", "cost_min", "contract_size", "max_position_size")),
    _word("underlying", 64),
    _word("contract_type", 64),
    _json("margin_levels"),
    _flag("tradeable", nullable=False, default=True),
    _flag("suspended", nullable=False, default=False),
    _moment("opening_date"),
    _moment("last_trading_time"),
    _word("fee_schedule_uid", 64),
    _json("fee_schedule"),
    _words("tags"),
    *map(_number, ("bid", "ask", "last_price", "mark_price", "index_price", "volume_24h", "open_interest")),
    *map(_number, ("funding_rate", "funding_rate_prediction")),
    *_made(),
    sa.Index(None, "base", "quote"),
    sa.Index(None, "exchange", "market_type", postgresql_where=sa.text("deleted_at IS NULL AND status = 'active'")),
)

pair_snapshots = sa.Table(
    "pair_snapshots",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    _id("pair_id", sa.ForeignKey("pairs.pair_id")),
    *map(_number, ("mark_price", "index_price", "last_price", "bid", "ask")),
    *map(_number, ("funding_rate", "funding_rate_prediction")),
    *map(_number, ("relative_funding_rate", "relative_funding_rate_prediction")),
    _moment("next_funding_time"),
    *map(_number, ("open_interest", "volume_24h")),
    _flag("suspended", nullable=False, default=False),
    _moment("source_time"),
    _moment("snapshot_at", nullable=False, default=_NOW),
    sa.Index("ix_pair_snapshots_latest", "pair_id", sa.text("snapshot_at DESC")),
    sa.Index(None, "snapshot_at"),
)

polymarket_conditions = sa.Table(
    "polymarket_conditions",
    metadata,
    _id("condition_id", primary_key=True),
    _id("market_id", nullable=True),
    _id("event_id", nullable=True),
    _text("question", nullable=False),
    _word("slug", 256),
    _word("category", 128),
    _words("tags"),
    _words("outcomes"),
    _word("status", 16, nullable=False),
    _flag("active", nullable=False, default=True),
    _flag("closed", nullable=False, default=False),
    _flag("accepting_orders"),
    _flag("neg_risk"),
    _moment("start_date"),
    _moment("end_date"),
    _moment("resolution_date"),
    _word("winning_outcome", 256),
    *map(_number, ("volume", "liquidity", "tick_size", "min_order_size")),
    _moment("venue_updated_at"),
    *_made(),
    _live_index("status"),
    _live_index("category"),
    _live_index("event_id"),
    sa.Index(None, "tags", postgresql_using="gin", postgresql_where=LIVE),
)

polymarket_tokens = sa.Table(
    "polymarket_tokens",
    metadata,
    _id("token_id", primary_key=True),
    _id("condition_id", sa.ForeignKey("polymarket_conditions.condition_id", ondelete="CASCADE"), index=True),
    _word("outcome", 256, nullable=False),
    sa.Column("outcome_index", sa.Integer, nullable=False),
    _flag("winner"),
    *map(_number, ("price", "bid", "ask", "volume")),
    *_made(),
)


@dataclass(frozen=True, slots=True)
class Synced:
    """A table that venues fill: merged with a guard, kept with history, published by CDC.

    Attributes:
        table: has one text column as its key.
        sticky: a null from a source leaves what is known in these columns: labels and results do not vanish because
            one answer left them out.
        deletable: SQL, with the table's columns: rows that may be deleted when a full sweep does not show them.
        effective: column that says when the venue made its change, if the venue tells.
    """

    table: sa.Table
    sticky: frozenset[str] = frozenset()
    deletable: str = "true"
    effective: str | None = None
    _columns: tuple[str, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        left_out = {self.key, *_BOOKKEEPING}
        own = tuple(str(c.name) for c in self.table.columns if c.name not in left_out and c.identity is None)
        object.__setattr__(self, "_columns", own)

    @property
    def name(self) -> str:
        """The table's name."""
        return str(self.table.name)

    @property
    def key(self) -> str:
        """Name of the key column."""
        return str(next(iter(self.table.primary_key.columns)).name)

    @property
    def columns(self) -> tuple[str, ...]:
        """What a merge writes and compares, triggers watch and history keeps: all but the key, `deleted_at` too."""
        return self._columns

    @property
    def history(self) -> str:
        """Name of the table that keeps every version of every row."""
        return f"{self.name}_history"


_LABELS = ("title", "yes_sub_title", "no_sub_title", "strike_type", "floor_strike", "cap_strike", "custom_strike")
_RESULTS = ("result", "settlement_value", "settled_at", "expiration_value")

SYNCED: dict[str, Synced] = {
    one.name: one
    for one in (
        Synced(series, effective="venue_updated_at"),
        Synced(
            events,
            sticky=frozenset({"title", "category", "series_ticker", "strike_date"}),
            deletable="status <> 'settled' AND NOT EXISTS (SELECT FROM markets m "
            "WHERE m.event_ticker = events.event_ticker AND m.deleted_at IS NULL)",
            effective="venue_updated_at",
        ),
        # Kalshi moves markets settled some months ago to /historical: their absence means nothing.
        Synced(
            markets,
            sticky=frozenset({*_LABELS, *_RESULTS, "open_time", "close_time"}),
            deletable="status IN ('initialized', 'active') AND (close_time IS NULL OR close_time > ssmd_now())",
            effective="venue_updated_at",
        ),
        Synced(series_fees, deletable="false", effective="effective_from"),
        # A dated contract past its end is expired, not missing.
        Synced(pairs, deletable="last_trading_time IS NULL OR last_trading_time > ssmd_now()"),
        Synced(
            polymarket_conditions,
            sticky=frozenset({"winning_outcome", "resolution_date", "event_id"}),
            deletable="status IN ('active', 'suspended', 'inactive')",
            effective="venue_updated_at",
        ),
        Synced(polymarket_tokens, sticky=frozenset({"winner"}), deletable="false"),
    )
}
#: Tables of CDC; none of them holds a secret.
PUBLISHED = tuple(SYNCED)


def _history(one: Synced) -> sa.Table:
    source = one.table
    columns = [
        sa.Column(c.name, c.type, nullable=c.name != one.key)
        for c in source.columns
        if c.name in {one.key, *one.columns}
    ]
    return sa.Table(
        one.history,
        metadata,
        sa.Column("version", sa.BigInteger, sa.Identity(), primary_key=True),
        *columns,
        _moment("effective_at"),
        _moment("known_from", nullable=False),
        sa.Index(f"ix_{one.history}_key", one.key, "known_from", "version"),
    )


HISTORY: dict[str, sa.Table] = {name: _history(one) for name, one in SYNCED.items()}

# -- the sync's own books

sync_runs = sa.Table(
    "sync_runs",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    _word("scope", 64, nullable=False),
    _word("mode", nullable=False),
    _moment("started_at", nullable=False),
    _moment("finished_at", nullable=False),
    _json("report", nullable=False, default="{}"),
    sa.Index("ix_sync_runs_latest", "scope", sa.text("finished_at DESC")),
)

sync_watermarks = sa.Table(
    "sync_watermarks",
    metadata,
    sa.Column("scope", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    _moment("value", nullable=False),
)

# Beside the tables, not in them: a row that is missed once must not become a change.
sync_missing = sa.Table(
    "sync_missing",
    metadata,
    sa.Column("table_name", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(ID_CHARS), primary_key=True),
    sa.Column("sweeps", sa.Integer, nullable=False),
    _moment("first_missed_at", nullable=False),
)

# -- keys, settings, audit

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    _word("user_id", 255, nullable=False),
    _word("user_email", 255, nullable=False),
    sa.Column("key_prefix", sa.String(30), nullable=False, unique=True),
    _word("key_hash", 64, nullable=False),
    _word("name", 255, nullable=False),
    sa.Column("scopes", pg.ARRAY(sa.Text), nullable=False),
    _word("rate_limit_tier", 20, nullable=False, default="standard"),
    sa.Column("allowed_feeds", pg.ARRAY(sa.Text), nullable=False, server_default=sa.text("'{}'")),
    sa.Column("date_range_start", sa.Date, nullable=False, server_default=sa.text("'1970-01-01'")),
    sa.Column("date_range_end", sa.Date, nullable=False, server_default=sa.text("'1970-01-01'")),
    _moment("last_used_at"),
    _moment("created_at", nullable=False, default=_NOW),
    _moment("revoked_at"),
    _moment("expires_at"),
    sa.Column("created_by", sa.String(30)),
    sa.Column("rotated_from", sa.String(30)),
    sa.CheckConstraint("key_prefix ~ '^sk_(live|test)_[A-Za-z0-9_-]+$'", name="api_keys_prefix_shape"),
    sa.Index(None, "user_id"),
    sa.Index(None, "expires_at", postgresql_where=sa.text("revoked_at IS NULL")),
    sa.Index(None, "allowed_feeds", postgresql_using="gin"),
)

settings = sa.Table(
    "settings",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    _json("value", nullable=False),
    _text("description"),
    _moment("updated_at", nullable=False, default=_NOW),
)

data_access_log = sa.Table(
    "data_access_log",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    _word("key_prefix", 30, nullable=False),
    _word("user_email", 255, nullable=False),
    _word("feed", 64, nullable=False),
    sa.Column("date_from", sa.Date, nullable=False),
    sa.Column("date_to", sa.Date, nullable=False),
    _word("msg_type", 64),
    sa.Column("files_count", sa.Integer, nullable=False),
    _word("route", 128),
    _word("request_id", 64),
    _moment("created_at", nullable=False, default=_NOW),
    sa.Index(None, "created_at"),
    sa.Index(None, "user_email", "created_at"),
)

#: What each key did on a day (UTC); counted in the API's processes and added here every few seconds.
api_usage_daily = sa.Table(
    "api_usage_daily",
    metadata,
    sa.Column("key_prefix", sa.String(30), primary_key=True),
    sa.Column("date", sa.Date, primary_key=True),
    sa.Column("requests", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("rate_limit_hits", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("response_bytes", sa.BigInteger, nullable=False, server_default="0"),
)

llm_usage_daily = sa.Table(
    "llm_usage_daily",
    metadata,
    sa.Column("key_prefix", sa.String(30), primary_key=True),
    sa.Column("date", sa.Date, primary_key=True),
    sa.Column("model", sa.String(128), primary_key=True),
    sa.Column("requests", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("completion_tokens", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("cost_usd", sa.Numeric, nullable=False, server_default="0"),
)

#: Columns of tables without history whose change is told on `triggers.CHANGES`; `last_used_at` is not among them.
NOTIFIED = {
    "api_keys": tuple(column.name for column in api_keys.columns if column.name != "last_used_at"),
    "settings": tuple(column.name for column in settings.columns),
}

# -- quality

dq_daily_scores = sa.Table(
    "dq_daily_scores",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("check_date", sa.Date, nullable=False),
    _word("feed", 64, nullable=False),
    sa.Column("score", sa.Numeric(5, 2), nullable=False),
    sa.Column("composite_score", sa.Numeric(5, 2)),
    _json("details", nullable=False, default="{}"),
    _whole("gap_count"),
    sa.Column("gap_total_minutes", sa.Numeric(10, 2)),
    sa.Column("coverage_pct", sa.Numeric(5, 2)),
    sa.Column("expected_messages", sa.BigInteger),
    sa.Column("actual_messages", sa.BigInteger),
    *_made(deleted=False),
    sa.UniqueConstraint("check_date", "feed", name="dq_daily_scores_once"),
)

dq_parquet_stats = sa.Table(
    "dq_parquet_stats",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("path", sa.Text, nullable=False, unique=True),
    _word("feed", 64, nullable=False),
    _word("msg_type", 64, nullable=False),
    sa.Column("date", sa.Date, nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("file_size_bytes", sa.BigInteger, nullable=False),
    sa.Column("compression_ratio", sa.Numeric(8, 4)),
    sa.Column("duplicates_filtered", sa.BigInteger, nullable=False, server_default="0"),
    _flag("schema_valid", nullable=False, default=True),
    _json("null_violations", nullable=False, default="{}"),
    _moment("created_at", nullable=False, default=_NOW),
    sa.Index(None, "feed", "date"),
)

archiver_sync_log = sa.Table(
    "archiver_sync_log",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    _text("archiver_name", nullable=False),
    _moment("synced_at", nullable=False, default=_NOW),
    _flag("success", nullable=False, default=True),
    _whole("duration_ms"),
    _json("details", nullable=False, default="{}"),
    sa.Index("ix_archiver_sync_log_latest", "archiver_name", sa.text("synced_at DESC")),
)

# -- proof; hours and minutes are UTC, by receive time

#: The newest ledger of every hour that has one.
ledger_hours = sa.Table(
    "ledger_hours",
    metadata,
    sa.Column("feed", sa.String(64), primary_key=True),
    sa.Column("stream", sa.String(64), primary_key=True),
    sa.Column("hour", sa.DateTime(timezone=True), primary_key=True),
    _word("word", nullable=False),
    _json("reasons", nullable=False, default="[]"),
    _json("totals", nullable=False, default="{}"),
    _word("ledger_sha256", 64, nullable=False),
    sa.Column("chain_number", sa.BigInteger, nullable=False),
    _moment("sealed_at", nullable=False),
    sa.CheckConstraint("word IN ('complete', 'degraded', 'empty')", name="ledger_hours_words"),
    sa.Index("ix_ledger_hours_hour", "hour"),
)

ledger_minutes = sa.Table(
    "ledger_minutes",
    metadata,
    sa.Column("feed", sa.String(64), primary_key=True),
    sa.Column("stream", sa.String(64), primary_key=True),
    sa.Column("minute", sa.DateTime(timezone=True), primary_key=True),
    sa.Column("epoch", sa.String(80), primary_key=True),
    _word("connection", 64, nullable=False),
    sa.Column("open_s", sa.Numeric(5, 2), nullable=False),
    *(_whole(name, nullable=False) for name in ("asked", "acknowledged", "refused", "delivered")),
    sa.Column("messages", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    _json("by_type", nullable=False, default="{}"),
    *(sa.Column(name, sa.BigInteger) for name in ("first_ordinal", "last_ordinal")),
    sa.Column("missing_ordinals", sa.BigInteger, nullable=False),
    _json("counters", nullable=False, default="[]"),
    *(
        sa.Column(name, sa.BigInteger, nullable=False)
        for name in ("sequence_gaps", "sequence_missing", "passed", "failed", "unverifiable")
    ),
    *(sa.Column(name, sa.Double) for name in ("offset_ms", "age_p50_ms", "age_p99_ms", "age_max_ms")),
    *(_whole(name, nullable=False) for name in ("opens", "resubscribes", "errors")),
    sa.Column("live_messages", sa.BigInteger),
    sa.Index("ix_ledger_minutes_minute", "minute"),
)

untrusted_intervals = sa.Table(
    "untrusted_intervals",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    _word("feed", 64, nullable=False),
    _word("stream", 64, nullable=False),
    _moment("hour", nullable=False),
    sa.Column("instrument", sa.String(ID_CHARS), nullable=False),
    _word("check_name", 64, nullable=False),
    _word("epoch", 80, nullable=False),
    _moment("started_at", nullable=False),
    _moment("ended_at"),
    _word("reason", 64, nullable=False),
    _text("detail", nullable=False),
    sa.Column("nats_seq", sa.BigInteger, nullable=False),
    sa.Index("ix_untrusted_intervals_instrument", "feed", "stream", "instrument", "started_at"),
    sa.Index("ix_untrusted_intervals_hour", "feed", "stream", "hour"),
)

#: The truth of quality: one score an hour, stream and message type; type `*` is the stream's own.
dq_hourly_scores = sa.Table(
    "dq_hourly_scores",
    metadata,
    sa.Column("feed", sa.String(64), primary_key=True),
    sa.Column("stream", sa.String(64), primary_key=True),
    sa.Column("hour", sa.DateTime(timezone=True), primary_key=True),
    sa.Column("message_type", sa.String(64), primary_key=True),
    sa.Column("score", sa.Numeric(5, 2), nullable=False),
    _json("components", nullable=False, default="{}"),
    _json("inputs", nullable=False, default="{}"),
    *_made(deleted=False),
    sa.Index("ix_dq_hourly_scores_hour", "hour"),
)

#: When a member of a message or body was first seen, and with what.
wire_shapes = sa.Table(
    "wire_shapes",
    metadata,
    sa.Column("feed", sa.String(64), primary_key=True),
    sa.Column("source", sa.String(128), primary_key=True),
    sa.Column("message_type", sa.String(128), primary_key=True),
    sa.Column("path", sa.String(256), primary_key=True),
    sa.Column("json_type", sa.String(16), primary_key=True),
    _moment("first_seen_at", nullable=False),
    _moment("last_seen_at", nullable=False),
    _text("first_evidence", nullable=False),
    sa.Column("presence", sa.Double, nullable=False),
)

drift_findings = sa.Table(
    "drift_findings",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    _word("feed", 64, nullable=False),
    _word("source", 128, nullable=False),
    _word("message_type", 128, nullable=False),
    _word("path", 256, nullable=False),
    _word("kind", 32, nullable=False),
    _moment("found_at", nullable=False),
    _text("detail", nullable=False),
    _text("evidence", nullable=False),
    sa.UniqueConstraint("feed", "source", "message_type", "path", "kind", "found_at", name="drift_findings_once"),
    sa.Index("ix_drift_findings_found", "found_at"),
)

trade_reconciliations = sa.Table(
    "trade_reconciliations",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    _word("feed", 64, nullable=False),
    _word("stream", 64, nullable=False),
    sa.Column("instrument", sa.String(ID_CHARS), nullable=False),
    _moment("started_at", nullable=False),
    _moment("ended_at", nullable=False),
    _moment("checked_at", nullable=False),
    _word("status", 32, nullable=False),
    *(
        _whole(name, nullable=False)
        for name in ("venue_trades", "archived_trades", "matched", "missing", "extra", "differing", "backfilled")
    ),
    sa.Column("match_rate", sa.Numeric(7, 4)),
    _json("sample", nullable=False, default="[]"),
    _text("detail", nullable=False),
    sa.UniqueConstraint("feed", "stream", "instrument", "started_at", "ended_at", name="trade_reconciliations_once"),
    sa.Index("ix_trade_reconciliations_started", "started_at"),
)

#: The last report of each kind and day; `source` is `model` or `rules`.
reports = sa.Table(
    "reports",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    _word("kind", nullable=False),
    sa.Column("report_date", sa.Date, nullable=False),
    _word("status", 16, nullable=False),
    _word("source", 16, nullable=False),
    _json("body", nullable=False, default="{}"),
    _text("markdown", nullable=False),
    _word("input_sha256", 64, nullable=False),
    _text("note", nullable=False),
    sa.Column("model", sa.String(128)),
    sa.Column("stop_reason", sa.String(32)),
    *(_whole(name) for name in ("input_tokens", "output_tokens")),
    sa.Column("cost_usd", sa.Numeric(12, 6)),
    _whole("dropped_claims"),
    _moment("created_at", nullable=False, default=_NOW),
    sa.UniqueConstraint("kind", "report_date", name="reports_once"),
)
