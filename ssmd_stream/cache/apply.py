"""CDC events to what must change in Redis. Pure: reads nothing, writes nothing.

Events are applied in the order of the stream, each at least once. Applying one again, or an old one over newer data,
can show an old value for a moment; the later events of that row stand in the same stream and follow at once, so the
last one wins. Within a batch only the last state of a row is written. What a warm-up has seen already is skipped where
that can be proved (`Seen`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from ssmd_core.errors import SsmdError
from ssmd_stream.cache.layout import CONDITIONS, PLACES, TOKENS, Fields, Hash, Place, Row, RowError, unescape
from ssmd_stream.cdc.consume import Change
from ssmd_stream.cdc.names import PositionError, parse_lsn

POISON_REASONS = ("json", "table", "key", "row")  # `json`: the message is no change at all


class PoisonError(SsmdError):
    """A change that says nothing about a row that the cache could hold.

    Attributes:
        reason: one of `POISON_REASONS`.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Id(NamedTuple):
    """A row."""

    table: str
    key: str


@dataclass(frozen=True, slots=True)
class Event:
    """A CDC event.

    Attributes:
        place: of its table.
        op: what happened.
        key: of the row; "" for a truncate.
        row: the row of an insert or update, if it is whole. With neither this nor `changed` it must be read.
        changed: the columns of an update that leaves out large ones that did not change; None otherwise.
        columns: names of the table's columns when it happened; None for a delete or truncate.
        commit_lsn: position of the commit, `HI/LO`.
        xid: transaction id, its low 32 bits.
    """

    place: Place
    op: str
    key: str
    row: Row | None
    changed: Fields | None
    columns: frozenset[str] | None
    commit_lsn: str
    xid: int

    @property
    def id(self) -> Id:
        """The row."""
        return Id(self.place.table, self.key)


def parse(change: Change) -> Event:
    """What a change of the CDC stream means to the cache.

    Raises:
        PoisonError: nothing.
    """
    place = PLACES.get(change.table)
    if place is None:
        raise PoisonError("table", f"the cache holds no table {change.table[:100]!r}")
    key = "" if change.op == "truncate" else change.key.get(place.key)
    if not isinstance(key, str):
        raise PoisonError("key", f"{change.table}: no {place.key} in key {str(change.key)[:100]}")
    row, changed, columns = None, None, None
    if change.op in ("insert", "update"):
        try:
            json = bytes(change.data)
            fields = place.fields(json)
            columns = frozenset((*fields, *change.unchanged))
            if change.unchanged:
                changed = fields
            else:
                row = place.row(fields, json)
        except RowError as error:
            raise PoisonError("row", str(error)) from error
        if row is not None and row.key != key:
            raise PoisonError("row", f"{change.table}: key {key!r}, but the row's is {row.key!r}")
    return Event(place, change.op, key, row, changed, columns, change.commit_lsn, change.xid)


class Seen:
    """Which transactions a warm-up's snapshot has seen.

    Exact: what is committed at the snapshot's LSN is compared by transaction id, so neither one that wrote before the
    snapshot and committed after it is skipped, nor one that is in the WAL but was not yet visible.

    Args:
        snapshot: `pg_current_snapshot()` as text, `xmin:xmax:xip,…`.
        lsn: a position of the WAL read after the snapshot was taken.
    """

    def __init__(self, snapshot: str, lsn: str) -> None:
        _, xmax, running = snapshot.split(":")
        self._xmax = int(xmax)
        self._running = frozenset(map(int, filter(None, running.split(","))))
        self._lsn = parse_lsn(lsn)

    def over(self, event: Event) -> bool:
        """Whether neither this event nor one after it can have been seen."""
        try:
            return parse_lsn(event.commit_lsn) > self._lsn
        except PositionError:
            return True

    def has(self, event: Event) -> bool:
        """Whether the snapshot shows this event's transaction, given that it is not over."""
        # The event has the low 32 bits; transactions that run together are less than 2^31 apart.
        xid = self._xmax + (event.xid - self._xmax + 2**31) % 2**32 - 2**31
        return xid < self._xmax and xid not in self._running


@dataclass(slots=True)
class Batch:
    """Events folded to the last state of each row.

    Attributes:
        rows: last state; None is gone. A row may still be deleted or over: see `settle`.
        incomplete: rows whose columns are not all known: the row must be read from Postgres.
    """

    rows: dict[Id, Row | None] = field(default_factory=dict)
    incomplete: set[Id] = field(default_factory=set)


def fold(events: Iterable[Event], stored: Mapping[Id, bytes]) -> Batch:
    """Fold events, none of them a truncate.

    Args:
        stored: rows in Redis of those events that are not whole, as far as they are there.
    """
    batch = Batch()
    for event in events:
        row_id = event.id
        row = event.row
        if event.changed is not None:
            before = batch.rows.get(row_id)
            json = before.json if before is not None else None if row_id in batch.rows else stored.get(row_id)
            row = _merged(event, json)
        batch.rows[row_id] = row
        if row is None and event.op != "delete":
            batch.incomplete.add(row_id)
        else:
            batch.incomplete.discard(row_id)
    return batch


def _merged(event: Event, json: bytes | None) -> Row | None:
    """The row of an event that is not whole; None if what it leaves out is not known."""
    if json is None or event.changed is None:
        return None
    try:
        return event.place.read(msgspec.json.encode({**event.place.fields(json), **event.changed}))
    except RowError:  # what stands in Redis is damaged; Postgres knows
        return None


@dataclass(slots=True)
class Commands:
    """What to do in Redis, in one transaction.

    Attributes:
        hset: fields to set, by key.
        hdel: fields to remove, by key.
        zadd: members of the expiry set with their times.
        zrem: members to remove from it.
        categories: last parts of the keys of categories whose series must be counted again.
        written, removed: rows, by table.
    """

    hset: dict[str, Hash] = field(default_factory=dict)
    hdel: dict[str, list[str]] = field(default_factory=dict)
    zadd: dict[str, float] = field(default_factory=dict)
    zrem: list[str] = field(default_factory=list)
    categories: set[str] = field(default_factory=set)
    written: dict[str, int] = field(default_factory=dict)
    removed: dict[str, int] = field(default_factory=dict)


def stays(row: Row | None, now_s: float) -> bool:
    """Whether a row belongs into the cache."""
    return row is not None and row.live and (row.expires_s is None or row.expires_s > now_s)


def condition_of(row: Row) -> Id:
    """The condition of a token's row."""
    return Id(CONDITIONS.table, unescape(row.parent) or "")


def commands(rows: Mapping[Id, Row | None], where: Mapping[Id, str], now_s: float) -> Commands:
    """What brings rows into their last state.

    Args:
        rows: last states.
        where: last part of the key of the hash in which a row stands now, of all of them and of the conditions of
            tokens; those that are absent stand nowhere.
        now_s: rows that are over by then go.
    """
    out = Commands()
    for row_id, row in rows.items():
        place = PLACES[row_id.table]
        before = where.get(row_id)
        keep = row if stays(row, now_s) else None
        if keep is not None and place is TOKENS:
            condition = condition_of(keep)
            here = stays(rows[condition], now_s) if condition in rows else condition in where
            keep = keep if here else None
        if before is not None and (keep is None or keep.parent != before):
            out.hdel.setdefault(place.hash_key(before), []).append(row_id.key)
            _count(out, place, before)
        if keep is None:
            if place.ends:
                out.zrem.append(member(row_id))
            if before is not None:
                out.hdel.setdefault(place.where, []).append(row_id.key)
                out.removed[place.table] = out.removed.get(place.table, 0) + 1
            continue
        out.hset.setdefault(place.hash_key(keep.parent), {})[row_id.key] = keep.json
        out.written[place.table] = out.written.get(place.table, 0) + 1
        if keep.parent != before:
            out.hset.setdefault(place.where, {})[row_id.key] = keep.parent
            _count(out, place, keep.parent)
        if keep.expires_s is not None:
            out.zadd[member(row_id)] = keep.expires_s
        elif place.ends:
            out.zrem.append(member(row_id))
    return out


def _count(out: Commands, place: Place, parent: str) -> None:
    if place.table == "series":
        out.categories.add(parent)


def member(row_id: Id) -> str:
    """A row's member of the expiry set."""
    return f"{row_id.table}:{row_id.key}"


def row_of(expiry_member: str) -> Id | None:
    """The row of a member of the expiry set; None if it is none."""
    table, _, key = expiry_member.partition(":")
    return Id(table, key) if table in PLACES else None
