"""A small security master with a past, written down by hand."""

from __future__ import annotations

from typing import Any

import psycopg

#: When the story has been told; `SSMD_CLOCK` of whoever looks at it.
NOW = "2026-11-22T11:00:00Z"
CONDITION, TOKENS = "0xc0ffee", ("7001", "7002")
_PAIR = (
    "INSERT INTO pairs (pair_id, exchange, native_id, base, quote, base_raw, quote_raw, ws_name, symbol, market_type, "
    "status, volume_24h, tick_size) VALUES (%s, 'kraken', %s, 'BTC', 'USD', 'XXBT', 'ZUSD', 'XBT/USD', 'BTC/USD', %s, "
    "'active', 12.50, 0.10)"
)
_SCORES = (
    "INSERT INTO dq_daily_scores (check_date, feed, score, composite_score, gap_count, coverage_pct, details) "
    "VALUES ('2026-11-20', 'kalshi', 91.50, NULL, 1, 97.25, %s), ('2026-11-21', 'kalshi', 99, 0, NULL, NULL, %s), "
    "('2026-11-21', 'kraken', 50, NULL, 3, 40, '{}')"
)
_FLAT_DETAILS = '{"gaps": [{"start": "a", "end": "b", "duration_minutes": 15}], "freshness_minutes": 4}'
_NESTED_DETAILS = (
    '{"completeness": {"gaps": [{"start": "c", "end": "d", "durationMinutes": 30}, 7]}, "sla": {"freshnessMins": 8}}'
)


def fill(database_url: str) -> None:
    """Tell the story: five markets of an event, one of which settles; one of another event, which is deleted."""
    with psycopg.connect(database_url, autocommit=True) as connection:

        def at(moment: str, statement: str, *values: object) -> None:
            connection.execute("SELECT set_config('ssmd.now', %s, false)", (moment,))
            connection.execute(statement.encode(), values or None)

        _kalshi(at)
        for pair_id, kind in (("XXBTZUSD", "spot"), ("PF_XBTUSD", "perpetual"), ("FF_XBTUSD_261225", "future")):
            at("2026-11-20T12:00Z", _PAIR, f"kraken:{pair_id}", pair_id, kind)
        for minute in range(0, 15, 5):
            at(
                "2026-11-21T12:00Z",
                "INSERT INTO pair_snapshots (pair_id, mark_price, funding_rate, snapshot_at) "
                "VALUES ('kraken:PF_XBTUSD', 90000.50, 0, %s)",
                f"2026-11-21T12:{minute:02d}Z",
            )
        at(
            "2026-11-20T12:00Z",
            "INSERT INTO polymarket_conditions (condition_id, question, status, category, tags, end_date, volume) "
            "VALUES (%s, 'Will BTC rise 100%%?', 'active', 'Crypto', '{crypto,up-or-down}', '2026-11-22T12:00Z', "
            "1500.25)",
            CONDITION,
        )
        for index, token in enumerate(TOKENS):
            at(
                "2026-11-20T12:00Z",
                "INSERT INTO polymarket_tokens (token_id, condition_id, outcome, outcome_index, price) "
                "VALUES (%s, %s, %s, %s, 0.5)",
                token, CONDITION, ("Up", "Down")[index], index,
            )  # fmt: skip
        at(
            "2026-11-20T12:00Z",
            "INSERT INTO sync_runs (scope, mode, started_at, finished_at) VALUES "
            "('kalshi/markets', 'full', '2026-11-20T12:00Z', '2026-11-20T12:01Z')",
        )
        at("2026-11-22T00:00Z", _SCORES, _FLAT_DETAILS, _NESTED_DETAILS)


def _kalshi(at: Any) -> None:
    at(
        "2026-11-17T10:00Z",
        "INSERT INTO series (ticker, title, category, tags, is_game, fee_type, fee_multiplier) VALUES "
        "('KXBTC', 'Bitcoin', 'Crypto', '{BTC,Hourly}', false, 'quadratic', 1), "
        "('KXNFL', 'Football', 'Sports', '{}', true, 'flat', 1)",
    )
    at(
        "2026-11-17T10:00Z",
        "INSERT INTO series_fees (source_id, series_ticker, fee_type, fee_multiplier, effective_from, effective_to) "
        "VALUES ('seed:KXBTC', 'KXBTC', 'quadratic', 1, '2020-01-01Z', '2026-11-20Z'), "
        "('f1', 'KXBTC', 'quadratic', 0.5, '2026-11-20Z', '2026-12-01Z'), "
        "('f2', 'KXBTC', 'quadratic', 2, '2026-12-01Z', NULL), "
        "('seed:KXNFL', 'KXNFL', 'flat', 1, '2020-01-01Z', NULL)",
    )
    at(
        "2026-11-17T10:00Z",
        "INSERT INTO events (event_ticker, series_ticker, title, category) VALUES "
        "('KXBTC-1', 'KXBTC', 'Bitcoin today', 'Crypto'), ('KXNFL-1', 'KXNFL', 'Bears at Packers', 'Sports')",
    )
    for number in range(5):
        at(
            f"2026-11-17T11:0{number}Z",
            "INSERT INTO markets (ticker, event_ticker, title, status, open_time, close_time, floor_strike, yes_bid, "
            "volume) VALUES (%s, 'KXBTC-1', 'Up?', 'active', '2026-11-17T11:30Z', %s, 90000, 0.4300, 17.50)",
            f"KXBTC-1-{number}", f"2026-11-22T1{number}:30Z",
        )  # fmt: skip
    at(
        "2026-11-17T12:00Z",
        "INSERT INTO markets (ticker, event_ticker, title, status, open_time) "
        "VALUES ('KXNFL-1-X', 'KXNFL-1', 'Bears?', 'active', '2026-11-18T00:00Z')",
    )
    at(
        "2026-11-19T12:00Z",
        "UPDATE markets SET status = 'settled', yes_bid = NULL, settled_at = '2026-11-19T11:59Z' "
        "WHERE ticker = 'KXBTC-1-0'",
    )
    at("2026-11-19T12:00Z", "UPDATE events SET fee_multiplier_override = 2 WHERE event_ticker = 'KXBTC-1'")
    at("2026-11-20T12:00Z", "UPDATE markets SET deleted_at = ssmd_now() WHERE ticker = 'KXNFL-1-X'")
