"""One run of a sync: pages into temporary tables, then one transaction that changes only what differs.

A run holds an advisory lock on its scope, so two syncs of the same thing never interleave. Pages are copied into
temporary tables outside of any transaction (a venue may take minutes to list a hundred thousand markets); everything
that others can see, merge, deletes, watermarks and the run's own record, is one transaction at the end.

`INSERT … ON CONFLICT DO UPDATE … WHERE` is not used: it locks every row that it meets, and a lock is a WAL record. An
anti-join writes nothing for 100,000 unchanged rows.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

import msgspec
import psycopg
import structlog
from psycopg import sql
from psycopg.types.json import Jsonb, set_json_dumps

from ssmd_core.clock import Clock
from ssmd_core.db.connect import DatabaseError, connect, now_of, set_now
from ssmd_core.db.tables import ID_CHARS, SYNCED, Synced
from ssmd_core.errors import SsmdError

log = structlog.get_logger()

MIN_COVERAGE = 0.9
SWEEPS_BEFORE_DELETE = 2
FINISH_ATTEMPTS = 3
REJECT_EXAMPLES = 20
KEY_CHARS = 200
REASON_CHARS = 500

set_json_dumps(msgspec.json.encode)


class SyncBusyError(SsmdError):
    """Another run of the same scope is under way."""


class Reject(msgspec.Struct, frozen=True):
    """A record that could not be taken.

    Attributes:
        table: where it belonged.
        key: its id, as far as there was one; at most 200 characters.
        reason: what is wrong with it.
    """

    table: str
    key: str
    reason: str


@dataclass(slots=True)
class TableReport:
    """What a run did to one table; rows, but for the texts.

    Attributes:
        fetched: records that the venue sent and that could be read, repetitions included.
        repeated: records of a key that came again in the same run; the last one counts.
        inserted, changed, unchanged, resurrected: of the distinct records.
        newer: left alone, because another writer changed the row after the venue had been asked.
        rejected: records that could not be taken, those without a parent included.
        missing: rows that a full sweep did not show.
        deleted: rows marked deleted.
        refused: why nothing was deleted, "" if nothing had to be refused.
    """

    fetched: int = 0
    repeated: int = 0
    inserted: int = 0
    changed: int = 0
    unchanged: int = 0
    resurrected: int = 0
    newer: int = 0
    rejected: int = 0
    missing: int = 0
    deleted: int = 0
    refused: str = ""

    @property
    def touched(self) -> int:
        """Rows written."""
        return self.inserted + self.changed + self.resurrected + self.deleted


@dataclass(slots=True)
class SyncReport:
    """What a run did.

    Attributes:
        scope: `{feed}/{what}`.
        mode: `full` or `incremental`.
        tables: by name.
        rejects: examples, at most `REJECT_EXAMPLES`; counts stand in `tables`.
        warnings: what a person should know: unknown statuses, refused deletes, dropped columns.
        seconds: whole run; `database_s` of it in the final transaction.
    """

    scope: str
    mode: str
    tables: dict[str, TableReport] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)
    warnings: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    database_s: float = 0.0

    @property
    def touched(self) -> int:
        """Rows written, over all tables."""
        return sum(table.touched for table in self.tables.values())

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        document: dict[str, Any] = msgspec.to_builtins(self)
        return document


@dataclass(frozen=True, slots=True)
class Sweep:
    """A full listing of a part of a table: what it does not show may be deleted.

    Attributes:
        table: which.
        where: columns and the values that mark the part, e.g. `{"exchange": "kraken", "market_type": "spot"}`.
    """

    table: Synced
    where: Mapping[str, str] = field(default_factory=dict)


class SyncRun:
    """One run; use as `async with await SyncRun.begin(...) as run`.

    Leaving the block without `finish` changes nothing and records nothing but a log line.
    """

    def __init__(
        self, connection: psycopg.AsyncConnection, scope: str, mode: str, clock: Clock, ahead: timedelta
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._ahead = ahead
        self._started = self.now()
        self._started_s = time.monotonic()
        self._staged: dict[str, tuple[str, ...]] = {}
        self._shown: dict[str, set[str]] = {}
        self._unreadable: set[str] = set()
        self._merged: set[str] = set()
        self.report = SyncReport(scope, mode)

    @classmethod
    async def begin(cls, database_url: str, scope: str, mode: str, clock: Clock) -> SyncRun:
        """Connect and lock the scope.

        Raises:
            ConfigError, DatabaseError: no database.
            SyncBusyError: another run holds the scope.
        """
        connection = await connect(database_url, name=f"sync {scope}", clock=clock)
        # 100,000 markets are 46 MB: in memory their copy and the comparison take a third less time.
        await connection.execute("SET temp_buffers = '128MB'; SET work_mem = '64MB'")
        cursor = await connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 7353))", (scope,))
        row = await cursor.fetchone()
        if row is None or not row[0]:
            await connection.close()
            raise SyncBusyError(f"another sync of {scope} is running")
        cursor = await connection.execute("SELECT ssmd_now()")
        shown = await cursor.fetchone() or (now_of(clock),)
        # Rows carry the database's time, so the moment of a question to the venue must be of the same clock.
        ahead = shown[0] - now_of(clock) if clock.is_system else timedelta(0)
        return cls(connection, scope, mode, clock, ahead)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(psycopg.Error):
            # Closing ends the session too, lock and temporary tables with it, but the server takes its time.
            await self._connection.execute("SELECT pg_advisory_unlock_all()")
        await self._connection.close()
        if isinstance(error, psycopg.Error):
            raise DatabaseError(f"sync of {self.report.scope}: {str(error).strip()}") from error

    def now(self) -> datetime:
        """The database's time: note it before asking the venue, and hand it to `stage`."""
        return now_of(self._clock) + self._ahead

    def table(self, name: str) -> TableReport:
        """The report of a table."""
        return self.report.tables.setdefault(name, TableReport())

    def reject(self, reject: Reject) -> None:
        """Note a record that cannot be taken. The venue has shown its row all the same: no sweep counts it missing."""
        self.table(reject.table).rejected += 1
        self.shown(reject.table, reject.key)
        if len(self.report.rejects) < REJECT_EXAMPLES:
            key, reason = _storable(reject.key)[:KEY_CHARS], _storable(reject.reason)[:REASON_CHARS]
            self.report.rejects.append(Reject(reject.table, key, reason))

    def shown(self, table: str, key: str) -> None:
        """Note that the venue listed a record which is not staged; a key that nobody can read stops the sweep."""
        if key and len(key) <= ID_CHARS and _storable(key) == key:
            self._shown.setdefault(table, set()).add(key)
        else:
            self._unreadable.add(table)

    def warn(self, text: str, count: int = 1) -> None:
        """Note something that a person should know; equal texts are counted."""
        text = _storable(text)[:REASON_CHARS]
        self.report.warnings[text] = self.report.warnings.get(text, 0) + count

    async def query(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Read from the run's session, which sees its temporary tables `staged_{table}`."""
        cursor = await self._connection.execute(statement.encode(), values)
        return await cursor.fetchall()

    async def stage(
        self, table: Synced, columns: Sequence[str], rows: Iterable[Sequence[Any]], fetched_at: datetime
    ) -> None:
        """Copy one page's records into the table's temporary table.

        Args:
            columns: the columns that this source supplies, the same for every page; others of the row stay as they
                are. `deleted_at` is not among them: a record that is shown is alive.
            rows: key first, then a value for each of `columns`; dict and list-of-dict values go to JSON columns.
            fetched_at: when the venue was asked. A row that somebody else changed later is left alone.

        Raises:
            psycopg.Error: Postgres refused; the block's end turns it into DatabaseError.
        """
        names = tuple(columns)
        known = self._staged.get(table.name)
        if known is None:
            if unknown := set(names) - set(table.columns) | ({"deleted_at"} & set(names)):
                raise ValueError(f"not columns that a source of {table.name} may supply: {sorted(unknown)}")
            await self._make_stage(table, names)
        elif known != names:
            raise ValueError(f"{table.name} was staged with columns {known}, now {names}")
        jsons = [n for n, name in enumerate(names, 1) if type(table.table.c[name].type).__name__ == "JSONB"]
        target = sql.SQL("COPY {} ({}, fetched_at) FROM STDIN").format(
            _ident(f"staged_{table.name}"), _names((table.key, *names))
        )
        count = 0
        async with self._connection.cursor() as cursor, cursor.copy(target) as copy:
            for row in rows:
                values = list(row)
                for index in jsons:
                    if values[index] is not None:
                        values[index] = Jsonb(values[index])
                values.append(fetched_at)
                await copy.write_row(values)
                count += 1
        self.table(table.name).fetched += count

    async def orphans(self, table: Synced) -> list[str]:
        """Parents that staged rows of the table name and that are neither stored alive nor staged themselves."""
        column, parent = _parent(table)
        if table.name not in self._staged:
            return []
        staged = (
            sql.SQL("UNION ALL SELECT {} FROM {}").format(_ident(parent.key), _ident(f"staged_{parent.name}"))
            if parent.name in self._staged
            else sql.SQL("")
        )
        statement = sql.SQL(
            "SELECT DISTINCT s.{column} FROM {stage} s WHERE NOT EXISTS (SELECT FROM (SELECT {key} FROM {parent} "
            "WHERE deleted_at IS NULL {staged}) p WHERE p.{key} = s.{column}) ORDER BY 1"
        ).format(
            column=_ident(column),
            stage=_ident(f"staged_{table.name}"),
            key=_ident(parent.key),
            parent=_ident(parent.name),
            staged=staged,
        )
        cursor = await self._connection.execute(statement)
        return [row[0] for row in await cursor.fetchall()]

    async def watermark(self, name: str) -> datetime | None:
        """The watermark that the last successful run of this scope left; never in the future, if a clock once was."""
        rows = await self.query(
            "SELECT value FROM sync_watermarks WHERE scope = %s AND name = %s", (self.report.scope, name)
        )
        return min(rows[0][0], self.now()) if rows else None

    async def finish(
        self, *, sweeps: Sequence[Sweep] = (), watermarks: Mapping[str, datetime] | None = None
    ) -> SyncReport:
        """Merge everything that was staged, delete what sweeps allow, move the watermarks: one transaction.

        Args:
            sweeps: parts of tables of which the venue has listed everything in this run, every page of it.
            watermarks: new values by name; one never moves back, and none moves if a sweep had to be refused.

        Raises:
            psycopg.Error: Postgres refused or went away; nothing has changed. The block's end makes it DatabaseError.
        """
        before = copy.deepcopy(self.report)
        for attempt in range(1, FINISH_ATTEMPTS + 1):
            try:
                await self._finish(sweeps, watermarks or {})
                break
            except psycopg.errors.DeadlockDetected:
                # What was staged is still there; the listing need not be asked for again.
                if attempt == FINISH_ATTEMPTS:
                    raise
                log.warning("sync_deadlock", scope=self.report.scope, attempt=attempt)
                self.report = copy.deepcopy(before)
        log.info("synced", scope=self.report.scope, mode=self.report.mode, touched=self.report.touched)
        return self.report

    async def _finish(self, sweeps: Sequence[Sweep], watermarks: Mapping[str, datetime]) -> None:
        began_s = time.monotonic()
        async with self._connection.transaction():
            await set_now(self._connection, self._clock)
            for name in [name for name in SYNCED if name in self._staged]:  # parents stand before their children
                await self._merge(SYNCED[name])
            await self._note_shown()
            for sweep in sweeps:
                await self._delete(sweep)
            refused = any(table.refused for table in self.report.tables.values())
            for name, value in ({} if refused else watermarks).items():
                await self._connection.execute(
                    "INSERT INTO sync_watermarks AS w VALUES (%s, %s, %s) ON CONFLICT (scope, name) DO UPDATE "
                    "SET value = CASE WHEN w.value > %s THEN excluded.value ELSE greatest(w.value, excluded.value) END",
                    (self.report.scope, name, value, self.now()),
                )
            self.report.database_s = round(time.monotonic() - began_s, 3)
            self.report.seconds = round(time.monotonic() - self._started_s, 3)
            await self._connection.execute(
                "INSERT INTO sync_runs (scope, mode, started_at, finished_at, report) VALUES (%s, %s, %s, %s, %s)",
                (self.report.scope, self.report.mode, self._started, self.now(), Jsonb(self.report.as_dict())),
            )

    # -- one table

    async def _make_stage(self, table: Synced, names: tuple[str, ...]) -> None:
        await self._connection.execute(
            sql.SQL("CREATE TEMP TABLE {} AS SELECT {}, ssmd_now() AS fetched_at FROM {} WITH NO DATA").format(
                _ident(f"staged_{table.name}"), _names((table.key, *names)), _ident(table.name)
            )
        )
        await self._connection.execute(
            sql.SQL("ALTER TABLE {} ADD ordinal bigint GENERATED ALWAYS AS IDENTITY").format(
                _ident(f"staged_{table.name}")
            )
        )
        self._staged[table.name] = names

    async def _merge(self, table: Synced) -> None:
        names, report = self._staged[table.name], self.table(table.name)
        self._merged.add(table.name)
        stage, difference = _ident(f"staged_{table.name}"), _ident(f"difference_{table.name}")
        parts = {
            "stage": stage,
            "difference": difference,
            "table": _ident(table.name),
            "key": _ident(table.key),
            "names": _names((table.key, *names)),
        }
        execute = self._execute
        await execute("ANALYZE {stage} ({key})", parts)
        report.repeated += await execute(
            "DELETE FROM {stage} a USING (SELECT {key}, max(ordinal) AS last FROM {stage} GROUP BY 1 "
            "HAVING count(*) > 1) b WHERE a.{key} = b.{key} AND a.ordinal < b.last",
            parts,
        )
        if any(True for _ in table.table.foreign_keys):
            await self._drop_orphans(table, parts)
        ours = sql.SQL(", ").join([*(self._value(table, name) for name in names), sql.SQL("NULL")])
        theirs = sql.SQL(", ").join([sql.SQL("t.{}").format(_ident(name)) for name in (*names, "deleted_at")])
        now = sql.Literal(self.now())
        # A row dated in the future is one that a wrong clock has written; it must not keep the venue's word out.
        kept_out = sql.SQL("t.updated_at > s.fetched_at AND t.updated_at <= {}").format(now)
        parts |= {"ours": ours, "theirs": theirs, "kept_out": kept_out, "now": now}
        await execute(
            "CREATE TEMP TABLE {difference} ON COMMIT DROP AS SELECT * FROM (SELECT s.{key}, CASE "
            "WHEN t.{key} IS NULL THEN 'inserted' WHEN {kept_out} THEN 'newer' "
            "WHEN ({theirs}) IS NOT DISTINCT FROM ({ours}) THEN 'unchanged' "
            "WHEN t.deleted_at IS NULL THEN 'changed' ELSE 'resurrected' END AS what "
            "FROM {stage} s LEFT JOIN {table} t USING ({key})) d WHERE what <> 'unchanged'",
            parts,
        )
        await execute("ANALYZE {difference}", parts)
        counts = dict(await self.query(f"SELECT what, count(*) FROM difference_{table.name} GROUP BY 1"))
        staged = (await self.query(f"SELECT count(*) FROM staged_{table.name}"))[0][0]
        report.unchanged = staged - sum(counts.values())
        report.resurrected = counts.get("resurrected", 0)
        if expected := counts.get("changed", 0) + report.resurrected:
            assignments = sql.SQL(", ").join(
                sql.SQL("{} = {}").format(_ident(name), self._value(table, name)) for name in names
            )
            updated = await execute(
                "UPDATE {table} t SET {assignments}, deleted_at = NULL "
                "FROM {stage} s JOIN {difference} d USING ({key}) WHERE t.{key} = s.{key} "
                "AND d.what IN ('changed', 'resurrected') AND NOT ({kept_out})",
                {**parts, "assignments": assignments},
            )
            report.changed = updated - report.resurrected
            counts["newer"] = counts.get("newer", 0) + expected - updated
        if expected := counts.get("inserted", 0):
            report.inserted = await execute(
                "INSERT INTO {table} ({names}) SELECT {names} FROM {stage} JOIN {difference} d USING ({key}) "
                "WHERE d.what = 'inserted' ON CONFLICT ({key}) DO NOTHING",
                parts,
            )
            counts["newer"] = counts.get("newer", 0) + expected - report.inserted
        report.newer = counts.get("newer", 0)
        future = (await self.query(f"SELECT count(*) FROM {table.name} WHERE updated_at > %s", (self.now(),)))[0][0]
        if future:
            self.warn(f"{table.name}: rows are dated in the future, a clock was wrong", future)

    def _value(self, table: Synced, name: str) -> sql.Composable:
        """What a staged row makes of a column."""
        template = "coalesce(s.{0}, t.{0})" if name in table.sticky else "s.{0}"
        return sql.SQL(template).format(_ident(name))

    async def _drop_orphans(self, table: Synced, parts: Mapping[str, sql.Composable]) -> None:
        column, parent = _parent(table)
        cursor = await self._connection.execute(
            sql.SQL(
                "DELETE FROM {stage} s WHERE NOT EXISTS (SELECT FROM {parent} p WHERE p.{parent_key} = s.{column}) "
                "RETURNING s.{key}, s.{column}"
            ).format(**parts, parent=_ident(parent.name), parent_key=_ident(parent.key), column=_ident(column))
        )
        for key, missing in await cursor.fetchall():
            self.reject(Reject(table.name, key, f"{column} {missing!r} is unknown to the venue"))

    async def _note_shown(self) -> None:
        """What was listed in this run is not missing, whether or not it could be taken, and whatever the mode."""
        await self._connection.execute("DROP TABLE IF EXISTS shown")
        await self._connection.execute("CREATE TEMP TABLE shown (table_name text, key text) ON COMMIT DROP")
        rows = [(table, key) for table, keys in self._shown.items() for key in keys]
        await self._connection.execute(
            "INSERT INTO shown SELECT * FROM unnest(%s::text[], %s::text[])",
            ([table for table, _ in rows], [key for _, key in rows]),
        )
        await self._connection.execute(
            "DELETE FROM sync_missing m USING shown s WHERE m.table_name = s.table_name AND m.key = s.key"
        )
        for name in self._staged:
            parts = {
                "stage": _ident(f"staged_{name}"),
                "key": _ident(SYNCED[name].key),
                "name": sql.Literal(name),
            }
            await self._execute(
                "DELETE FROM sync_missing m USING {stage} s WHERE m.table_name = {name} AND m.key = s.{key}", parts
            )

    async def _delete(self, sweep: Sweep) -> None:
        """Soft-delete rows that two full sweeps in a row did not show, if this one showed enough of the rest."""
        table, report = sweep.table, self.table(sweep.table.name)
        if table.name not in self._staged:
            await self._make_stage(table, ())
        where = sql.SQL(" AND ").join(
            [sql.SQL("deleted_at IS NULL"), sql.SQL("({})").format(sql.SQL(table.deletable))]
            + [sql.SQL("{} = {}").format(_ident(name), sql.Literal(value)) for name, value in sweep.where.items()]
        )
        parts: dict[str, sql.Composable] = {
            "table": _ident(table.name),
            "key": _ident(table.key),
            "stage": _ident(f"staged_{table.name}"),
            "where": where,
            "name": sql.Literal(table.name),
            "sweeps": sql.Literal(SWEEPS_BEFORE_DELETE),
            "difference": _ident(f"difference_{table.name}"),
        }
        if table.name in self._unreadable:
            report.refused = f"{table.name}: the venue showed a record whose id cannot be read: nothing deleted"
            self.warn(report.refused)
            return
        # What this very run has brought says nothing of how much of the rest was shown.
        rest = "AND NOT EXISTS (SELECT FROM {difference} d WHERE d.{key} = t.{key} AND d.what <> 'changed') "
        parts["rest"] = sql.SQL(rest if table.name in self._merged else "").format(**parts)
        cursor = await self._connection.execute(
            sql.SQL(
                "SELECT count(*), count(s.{key}) FROM (SELECT {key} FROM {table} WHERE {where}) t "
                "LEFT JOIN (SELECT {key} FROM {stage} UNION SELECT key FROM shown WHERE table_name = {name}) s "
                "USING ({key}) WHERE true {rest}"
            ).format(**parts)
        )
        live, seen = await cursor.fetchone() or (0, 0)
        report.missing = live - seen
        if seen == live:
            return
        if seen < live * MIN_COVERAGE:
            report.refused = (
                f"{table.name}: the venue showed {seen} of {live} live rows, below {MIN_COVERAGE:.0%}: nothing deleted"
            )
            self.warn(report.refused)
            return
        await self._execute(
            "INSERT INTO sync_missing AS m (table_name, key, sweeps, first_missed_at) "
            "SELECT {name}, {key}, 1, ssmd_now() FROM {table} WHERE {where} "
            "AND NOT EXISTS (SELECT FROM {stage} s WHERE s.{key} = {table}.{key}) "
            "AND NOT EXISTS (SELECT FROM shown s WHERE s.table_name = {name} AND s.key = {table}.{key}) "
            "ON CONFLICT (table_name, key) DO UPDATE SET sweeps = m.sweeps + 1",
            parts,
        )
        report.deleted = await self._execute(
            "UPDATE {table} SET deleted_at = ssmd_now() FROM sync_missing m WHERE {where} AND m.table_name = {name} "
            "AND m.key = {table}.{key} AND m.sweeps >= {sweeps}",
            parts,
        )
        await self._execute("DELETE FROM sync_missing WHERE table_name = {name} AND sweeps >= {sweeps}", parts)

    async def _execute(self, template: str, parts: Mapping[str, sql.Composable]) -> int:
        cursor = await self._connection.execute(sql.SQL(template).format(**parts))
        return max(cursor.rowcount, 0)


def _storable(text: str) -> str:
    """What a venue wrote, without what Postgres cannot store in JSON: NUL and lone surrogates."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def _ident(name: str) -> sql.Identifier:
    return sql.Identifier(name)


def _names(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(_ident, names))


def _parent(table: Synced) -> tuple[str, Synced]:
    """The column that names a row's parent, and the parent's table."""
    foreign_key = next(iter(table.table.foreign_keys))
    return str(foreign_key.parent.name), SYNCED[foreign_key.column.table.name]
