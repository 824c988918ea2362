"""The first-seen log of members, and what the sentinel found, in Postgres."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import psycopg
import structlog

from ssmd_core.drift.findings import Finding
from ssmd_core.drift.hour import findings_of, shapes_of
from ssmd_core.drift.shapes import Shapes

log = structlog.get_logger()

#: Widths of the columns; a venue's real paths have below 100 characters.
MAX_PATH_CHARS = 256
MAX_TYPE_CHARS = 128
_US_PER_S = 1_000_000

# Hours may come in any order, and again: what is kept is the earliest first time, and the presence of the latest hour.
_SHAPE = """
INSERT INTO wire_shapes
    (feed, source, message_type, path, json_type, first_seen_at, last_seen_at, first_evidence, presence)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (feed, source, message_type, path, json_type) DO UPDATE SET
    first_evidence = CASE WHEN EXCLUDED.first_seen_at < wire_shapes.first_seen_at
        THEN EXCLUDED.first_evidence ELSE wire_shapes.first_evidence END,
    presence = CASE WHEN EXCLUDED.last_seen_at >= wire_shapes.last_seen_at
        THEN EXCLUDED.presence ELSE wire_shapes.presence END,
    first_seen_at = LEAST(wire_shapes.first_seen_at, EXCLUDED.first_seen_at),
    last_seen_at = GREATEST(wire_shapes.last_seen_at, EXCLUDED.last_seen_at)
"""
_FINDING = """
INSERT INTO drift_findings (feed, source, message_type, path, kind, found_at, detail, evidence)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT ON CONSTRAINT drift_findings_once DO UPDATE SET detail = EXCLUDED.detail, evidence = EXCLUDED.evidence
"""
_OTHERS = """
DELETE FROM drift_findings
WHERE feed = %s AND source = %s AND found_at >= %s AND found_at < %s
    AND NOT (message_type, path, kind, found_at) = ANY (
        SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::timestamptz[])
    )
"""


async def store_hour(
    connection: psycopg.AsyncConnection,
    feed: str,
    stream: str,
    hour: datetime,
    content: bytes,
    more: Sequence[Finding] = (),
) -> None:
    """Store an hour's shapes and findings in one transaction; findings that an earlier build of it had are removed.

    Args:
        hour: start, UTC.
        content: of its `shapes_HH00.json`.
        more: findings that stand elsewhere, as of `null_columns`.

    Raises:
        ArchiveError: `content` is not the shapes of an hour.
        psycopg.Error: Postgres refused or went away; nothing was stored.
    """
    evidence = f"hour:{feed}/{stream}/{hour:%Y-%m-%dT%H}"
    findings = [*findings_of(content), *more]
    rows = [_finding_row(feed, stream, finding, hour, evidence) for finding in findings]
    kept = [list(column) for column in zip(*(row[2:6] for row in rows), strict=True)] or [[], [], [], []]
    async with connection.transaction(), connection.cursor() as cursor:
        await store_shapes(connection, feed, stream, shapes_of(content), hour, evidence)
        await cursor.execute(_OTHERS, (feed, stream, hour, hour + timedelta(hours=1), *kept))
        await cursor.executemany(_FINDING, rows)


async def store_shapes(
    connection: psycopg.AsyncConnection, feed: str, source: str, shapes: Shapes, at: datetime, evidence: str
) -> None:
    """Note what was seen, and when first.

    Args:
        source: stream, or `rest`.
        at: when, e.g. the start of the hour.
        evidence: where to look.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    rows: list[tuple[Any, ...]] = []
    too_long = 0
    for message_type, said in shapes.document().items():
        for path, of_path in said["paths"].items():
            if len(path) > MAX_PATH_CHARS:
                too_long += 1
                continue
            presence = 1.0 if of_path["presence"] is None else of_path["presence"]
            rows += [(feed, source, message_type, path, kind, at, at, evidence, presence) for kind in of_path["types"]]
    if too_long:
        log.warning("paths too long for the first-seen log", feed=feed, source=source, paths=too_long)
    async with connection.transaction(), connection.cursor() as cursor:
        await cursor.executemany(_SHAPE, rows)


async def store_findings(
    connection: psycopg.AsyncConnection, feed: str, source: str, findings: Sequence[Finding], at: datetime
) -> None:
    """Store findings; the same ones again change nothing.

    Args:
        source: stream, or `rest`.
        at: when, for those that have no time of their own.

    Raises:
        psycopg.Error: Postgres refused or went away; nothing was stored.
    """
    rows = [_finding_row(feed, source, finding, at, "") for finding in findings]
    async with connection.transaction(), connection.cursor() as cursor:
        await cursor.executemany(_FINDING, rows)


def _finding_row(feed: str, source: str, finding: Finding, at: datetime, evidence: str) -> tuple[Any, ...]:
    found_at = at
    if finding.at_us:
        found_at = datetime.fromtimestamp(finding.at_us // _US_PER_S, at.tzinfo)
        found_at = found_at.replace(microsecond=finding.at_us % _US_PER_S)
    return (
        feed,
        source,
        finding.message_type[:MAX_TYPE_CHARS],
        finding.path[:MAX_PATH_CHARS],
        finding.kind,
        found_at,
        finding.detail,
        finding.evidence or evidence,
    )
