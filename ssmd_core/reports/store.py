"""The table `reports`: the last report of each kind and day."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Literal

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from ssmd_core.reports.evidence import Kind, Status

Source = Literal["model", "rules"]

_SAVE = """
INSERT INTO reports (kind, report_date, status, source, body, markdown, input_sha256, note, model, stop_reason,
  input_tokens, output_tokens, cost_usd, dropped_claims)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (kind, report_date) DO UPDATE SET
  status = EXCLUDED.status, source = EXCLUDED.source, body = EXCLUDED.body, markdown = EXCLUDED.markdown,
  input_sha256 = EXCLUDED.input_sha256, note = EXCLUDED.note, model = EXCLUDED.model,
  stop_reason = EXCLUDED.stop_reason, input_tokens = EXCLUDED.input_tokens, output_tokens = EXCLUDED.output_tokens,
  cost_usd = EXCLUDED.cost_usd, dropped_claims = EXCLUDED.dropped_claims, created_at = ssmd_now()
WHERE reports.source = 'rules' OR EXCLUDED.source = 'model' OR reports.input_sha256 <> EXCLUDED.input_sha256
"""
_LOAD = """
SELECT status, source, body, markdown, input_sha256, note, model, stop_reason, input_tokens, output_tokens, cost_usd,
  dropped_claims
FROM reports WHERE kind = %s AND report_date = %s
"""


@dataclass(frozen=True, slots=True)
class Report:
    """One report.

    Attributes:
        day: UTC.
        source: who wrote it.
        body: see `docs/diagnosis.md`.
        markdown: the same for people.
        input_sha256: of the evidence, see `Evidence.input_sha256`.
        note: how it came about, and why there is no model's if there is none.
        model: that was asked; None if none was.
        stop_reason, input_tokens, output_tokens, cost_usd: of the call; None where not known. They are there also if
            its answer could not be used.
        dropped_claims: claims of the model that cite no rows, or others than it was shown; None without an answer.
    """

    kind: Kind
    day: date
    status: Status
    source: Source
    body: Mapping[str, Any]
    markdown: str
    input_sha256: str
    note: str
    model: str | None = None
    stop_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: Decimal | None = None
    dropped_claims: int | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """What became of a request for a report.

    Attributes:
        asked: whether the model was called.
        needed: whether there is anything to tell; False where all is well, or nothing was traded.
        cached: whether the stored report is of the same input already; nothing was written.
    """

    report: Report
    asked: bool
    needed: bool
    cached: bool = False


async def load(connection: psycopg.AsyncConnection, kind: Kind, day: date) -> Report | None:
    """The stored report; None without one.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_LOAD, (kind, day))
        row = await cursor.fetchone()
    return None if row is None else Report(kind=kind, day=day, **row)


async def save(connection: psycopg.AsyncConnection, report: Report) -> bool:
    """Write the report in place of the one before.

    Returns:
        False if a model's report of the same rows has come in between, and this one is by rules: nothing was written.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    values = (
        report.kind, report.day, report.status, report.source, Jsonb(report.body), report.markdown,
        report.input_sha256, report.note, report.model, report.stop_reason, report.input_tokens, report.output_tokens,
        report.cost_usd, report.dropped_claims,
    )  # fmt: skip
    async with connection.transaction():
        cursor = await connection.execute(_SAVE, values)
    return cursor.rowcount == 1
