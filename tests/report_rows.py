"""Rows that reports are made from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg

DAY = date(2026, 11, 21)
FEEDS = {"kraken": "spot", "kalshi": "crypto"}


def score(connection: psycopg.Connection, feed: str, day: date, value: str, **details: Any) -> None:
    connection.execute(
        "INSERT INTO dq_daily_scores (check_date, feed, score, details, gap_count, gap_total_minutes, coverage_pct, "
        "expected_messages, actual_messages) VALUES (%s, %s, %s, %s, 0, 0, 100, 1000, 990)",
        (day, feed, value, json.dumps(details)),
    )


def hour(
    connection: psycopg.Connection,
    where: str,
    moment: datetime,
    word: str,
    value: str = "100",
    reasons: Sequence[Mapping[str, Any]] = (),
) -> None:
    """An hour with its score, and with a ledger unless it is missing."""
    feed, stream = where.split("/")
    inputs = json.dumps({"word": word})
    connection.execute(
        "INSERT INTO dq_hourly_scores (feed, stream, hour, message_type, score, components, inputs) "
        "VALUES (%s, %s, %s, '*', %s, '{}', %s)",
        (feed, stream, moment, value, inputs),
    )
    if word != "missing":
        connection.execute(
            "INSERT INTO ledger_hours (feed, stream, hour, word, reasons, ledger_sha256, chain_number, sealed_at) "
            "VALUES (%s, %s, %s, %s, %s, %s, 0, %s)",
            (feed, stream, moment, word, json.dumps(list(reasons)), "0" * 64, moment + timedelta(hours=1)),
        )


def untrusted(connection: psycopg.Connection, where: str, moment: datetime, instrument: str, reason: str) -> None:
    feed, stream = where.split("/")
    connection.execute(
        "INSERT INTO untrusted_intervals (feed, stream, hour, instrument, check_name, epoch, started_at, reason, "
        "detail, nats_seq) VALUES (%s, %s, %s, %s, 'book', 'c0', %s, %s, 'seq 41 after 38', 7)",
        (feed, stream, moment, instrument, moment, reason),
    )


def drift(connection: psycopg.Connection, feed: str, path: str, detail: str, moment: datetime) -> None:
    connection.execute(
        "INSERT INTO drift_findings (id, feed, source, message_type, path, kind, found_at, detail, evidence) "
        "OVERRIDING SYSTEM VALUE VALUES ((SELECT coalesce(max(id), 0) + 1 FROM drift_findings), "
        "%s, 'websocket', 'ticker', %s, 'new_field', %s, %s, 'seq:1')",
        (feed, path, moment, detail),
    )


def reconciliation(connection: psycopg.Connection, where: str, moment: datetime, missing: int, status: str) -> None:
    feed, stream = where.split("/")
    connection.execute(
        "INSERT INTO trade_reconciliations (id, feed, stream, instrument, started_at, ended_at, checked_at, status, "
        "venue_trades, archived_trades, matched, missing, extra, differing, backfilled, match_rate, detail) "
        "OVERRIDING SYSTEM VALUE VALUES ((SELECT coalesce(max(id), 0) + 1 FROM trade_reconciliations), "
        "%s, %s, 'BTC/USD', %s, %s, %s, %s, 100, %s, %s, %s, 0, 0, 0, %s, '')",
        (
            feed, stream, moment, moment + timedelta(minutes=10), moment + timedelta(days=1), status, 100 - missing,
            100 - missing, missing, 100 - missing,
        ),
    )  # fmt: skip


def good_day(connection: psycopg.Connection, day: date = DAY) -> None:
    """A day on which all is well, and the six before it."""
    for n in range(7):
        for feed in FEEDS:
            score(connection, feed, day - timedelta(days=n), "97", status="GREEN", issues=[], components={"sla": 100})
    for feed, stream in FEEDS.items():
        for n in range(24):
            hour(connection, f"{feed}/{stream}", at(n, day), "complete")


def bad_day(connection: psycopg.Connection) -> None:
    """kraken falls and has a degraded, a missing and an untrusted hour and missing trades; kalshi has drift."""
    for n in range(7):
        day = DAY - timedelta(days=n)
        value = 52 + 6 * n
        issues = ["1 of 24 hours are degraded"] if n == 0 else []
        score(connection, "kraken", day, str(value), status="RED" if n == 0 else "YELLOW", issues=issues,
              components={"coverage": value, "integrity": 80})  # fmt: skip
        score(connection, "kalshi", day, "91", status="GREEN", issues=[], components={"coverage": 99})
    lost = {"code": "not_connected", "detail": "c0 was closed for 312 s", "count": 312, "evidence": ["archive:x#1"]}
    for n in range(24):
        hour(connection, "kalshi/crypto", at(n), "complete")
        if n == 14:
            hour(connection, "kraken/spot", at(n), "degraded", "61", [lost, {"code": "untrusted", "detail": "2 books"}])
        elif n == 15:
            hour(connection, "kraken/spot", at(n), "missing", "0")
        elif n != 23:
            hour(connection, "kraken/spot", at(n), "complete")
    untrusted(connection, "kraken/spot", at(14), "BTC/USD", "checksum")
    untrusted(connection, "kraken/spot", at(14), "ETH/USD", "checksum")
    drift(connection, "kalshi", "msg.yes_bid_dollars", "a new field since 14:37", at(14) + timedelta(minutes=37))
    reconciliation(connection, "kraken/spot", at(15), 12, "missing")


def at(n: int, day: date = DAY) -> datetime:
    return datetime(day.year, day.month, day.day, n, tzinfo=UTC)
