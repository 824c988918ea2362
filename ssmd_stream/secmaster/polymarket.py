"""Polymarket: Gamma's events with their markets into `polymarket_conditions` and `polymarket_tokens`.

Two listings of `GET /events/keyset`: the open events, then those that have closed lately, without which no winner
would ever be known. In this order, so that what closes in between stands in the second one. Markets that closed
inside of an event that is still open come with it.

The second listing is asked for newest first and read until an event that closed before the last run, less
`LATE_DAYS`. That Gamma sorts by `closedTime` is reported by users, not documented, and its `closed_time_min` is
accepted and ignored; so the order is checked, and if it is not kept the listing is read to its end, which
`end_date_min` bounds. What still has vanished without a trace (an event without an end date, say) is asked for by
its id before it counts as missing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import structlog

from ssmd_core.db.merge import Reject, Sweep, SyncReport, SyncRun
from ssmd_core.db.tables import SYNCED
from ssmd_stream.secmaster.fields import Census, FieldError, Record, clean, moment_of, reject_key
from ssmd_stream.secmaster.polymarket_mapping import (
    CONDITION_COLUMNS,
    EVENT_EXPECTED,
    EXPECTED,
    TOKEN_COLUMNS,
    Event,
    map_event,
    map_market,
)
from ssmd_stream.secmaster.rest import RestClient, RestError, batches
from ssmd_stream.secmaster.sync import Mode, SyncTask

log = structlog.get_logger()

PATH = "/events/keyset"
MARKETS_PATH = "/markets"
CONDITIONS, TOKENS = SYNCED["polymarket_conditions"], SYNCED["polymarket_tokens"]
# 500 are documented, 100 is what the server has been seen to give; an event may have a hundred markets of 5 kB each.
PAGE = 100
# A million events; only a cursor that leads nowhere gets there.
MAX_PAGES = 10_000
# How far the first run looks back.
FIRST_DAYS = 7
# Closing times and winners appear later than they say: disputes take days.
LATE_DAYS = 3
# Unresolved events were seen to stand open 39 days after their end.
END_DAYS = 90
# Vanished conditions that one run asks for by id, more than a tenth of all (beyond which a sweep is refused), and how
# many in one request at most.
MAX_VANISHED = 10_000
VANISHED_PAGE = 25
# Neighbours in a listing may be out of order by this much: ids are handed out some moments before events are made.
DISORDER = timedelta(minutes=10)
_KEY_CHARS = 200

Take = Callable[[datetime, list[Any]], Awaitable[bool]]


async def sync_conditions(rest: RestClient, run: SyncRun, mode: Mode) -> SyncReport:
    """See `Work`.

    `full` lists all that is open and deletes what two listings in a row did not show. `incremental` reads only the
    events that were made since the last run: newer markets of older events and prices wait for the next full one.
    """
    listing = _Listing(rest, run)
    began = run.now()
    if mode == "full":
        await listing.walk({"closed": "false", "order": "id", "ascending": "true"}, listing.take_all)
        if not listing.events:
            raise RestError(f"GET {PATH}: no open event is listed")
    else:
        listed = await run.watermark("listed")
        since = listed - timedelta(days=1) if listed is not None else None
        newest_first = {"closed": "false", "order": "id", "ascending": "false"}
        await listing.walk(newest_first, listing.take_since(since, "createdAt", "creationDate"))
    closed = await run.watermark("closed") or began - timedelta(days=FIRST_DAYS)
    since = closed - timedelta(days=LATE_DAYS)
    ends = since - timedelta(days=END_DAYS)
    await listing.walk(
        {"closed": "true", "order": "closedTime", "ascending": "false", "end_date_min": f"{ends:%Y-%m-%dT%H:%M:%SZ}"},
        listing.take_since(since, "closedTime"),
    )
    if mode == "full":
        await listing.count_unread_as_shown()
    asked_for_all = mode != "full" or await listing.ask_for_vanished()
    listing.report()
    return await run.finish(
        sweeps=[Sweep(CONDITIONS)] if mode == "full" and asked_for_all else [],
        watermarks={"listed": began, "closed": began} if asked_for_all else {},
    )


class _Listing:
    """Reads pages and stages what stands on them."""

    def __init__(self, rest: RestClient, run: SyncRun) -> None:
        self._rest = rest
        self._run = run
        self._census, self._event_census = Census(*EXPECTED), Census(*EVENT_EXPECTED)
        # Gamma's ids of listed markets without a readable condition id, and of listed events without readable markets.
        self._unread_markets: set[str] = set()
        self._unread_events: set[str] = set()
        #: Events read so far.
        self.events = 0

    async def walk(self, filters: dict[str, str], take: Take) -> None:
        """Read page after page until the last one, or until `take` has enough.

        Raises:
            RestError: a page is none, leads back to an earlier one, or shows only what earlier ones have shown.
        """
        params = filters | {"limit": str(PAGE)}
        cursors: set[str] = set()
        seen: set[str] = set()
        for _ in range(MAX_PAGES):
            asked = self._run.now()
            events, cursor = page_of(await self._rest.get(PATH, params))
            ids = {_id_of(event) for event in events}
            if events and not ids - seen:
                raise RestError(f"GET {PATH}: page {len(cursors) + 1} repeats earlier ones")
            seen |= ids
            self.events += len(events)
            if not await take(asked, events) or cursor is None:
                return
            if cursor in cursors:
                raise RestError(f"GET {PATH}: cursor {cursor[:80]!r} repeats after {len(cursors)} pages")
            cursors.add(cursor)
            params["after_cursor"] = cursor
        raise RestError(f"GET {PATH}: more than {MAX_PAGES} pages")

    async def take_all(self, asked: datetime, events: list[Any]) -> bool:
        """Stage a page and ask for the next one."""
        found: list[tuple[Any, Event]] = []
        for raw in events:
            try:
                record = Record(raw)
            except FieldError as error:
                self._run.reject(Reject(CONDITIONS.name, "", f"event: {error}"))
                continue
            event = map_event(record)
            markets = record.raw.get("markets")
            if not isinstance(markets, list):
                record.problems += ["markets: not an array"] if markets is not None else []
                markets = []
                self._unread_events.add(reject_key(record.raw.get("id")))
            self._event_census.add(record)
            found += [(market, event) for market in markets]
        await self._stage(asked, found)
        return True

    def take_since(self, since: datetime | None, *names: str) -> Take:
        """A `take` that stops after the first page that ends before a moment, if pages fall in that moment.

        Args:
            since: None: read everything.
            names: members of an event with its moment; the first that can be read counts.
        """
        last: datetime | None = None
        falling = True

        async def take(asked: datetime, events: list[Any]) -> bool:
            nonlocal last, falling
            await self.take_all(asked, events)
            for moment in (_moment(event, names) for event in events):
                if moment is None:
                    continue
                if last is not None and moment - last > DISORDER and falling:
                    falling = False
                    self._run.warn(f"events: not in the order of {names[0]}, read to the end")
                last = moment
            return since is None or last is None or not falling or last >= since

        return take

    async def ask_for_vanished(self) -> bool:
        """Look among the closed markets for the live conditions that no listing has shown.

        Gamma's market has no tags, so the stored ones stay.

        Returns:
            Whether all could be asked for. If not, other ones have their turn in the next run.

        Raises:
            RestError: an answer is no list of markets.
        """
        vanished = await self._run.query(
            f"SELECT condition_id, event_id, tags, category, count(*) OVER () FROM {CONDITIONS.name} c "
            f"WHERE deleted_at IS NULL AND {CONDITIONS.deletable} "
            f"AND NOT EXISTS (SELECT FROM staged_{CONDITIONS.name} s WHERE s.condition_id = c.condition_id) "
            "ORDER BY hashtextextended(condition_id, %s) LIMIT %s",
            (int(self._run.now().timestamp()), MAX_VANISHED),
        )
        rows = {row[0]: row for row in vanished}
        for page in batches(rows, VANISHED_PAGE, len("&condition_ids=")):
            asked = self._run.now()
            params = [("closed", "true"), ("limit", str(VANISHED_PAGE)), *(("condition_ids", each) for each in page)]
            markets = await self._rest.get(MARKETS_PATH, params)
            if not isinstance(markets, list):
                raise RestError(f"GET {MARKETS_PATH}: unexpected answer {str(markets)[:200]!r}")
            found = []
            for market in markets:
                row = rows.get(str(market.get("conditionId"))) if isinstance(market, dict) else None
                if row is not None:
                    found.append((market, Event(row[1], None, row[2], row[3], None)))
            await self._stage(asked, found)
        if not vanished or vanished[0][4] == len(vanished):
            return True
        self._run.warn(f"conditions: {vanished[0][4]} have vanished, {len(vanished)} were asked for, nothing deleted")
        return False

    async def _stage(self, asked: datetime, found: list[tuple[Any, Event]]) -> None:
        conditions, tokens = [], []
        for raw, event in found:
            try:
                record = Record(raw)
                mapped = map_market(record, event)
            except FieldError as error:
                market_id = reject_key(raw.get("id")) if isinstance(raw, dict) else ""
                self._run.reject(Reject(CONDITIONS.name, market_id, str(error)))
                self._unread_markets.add(market_id)
                continue
            self._census.add(record)
            conditions.append(_row("condition_id", CONDITION_COLUMNS, mapped.condition))
            tokens += [_row("token_id", TOKEN_COLUMNS, token) for token in mapped.tokens]
            if mapped.no_tokens:
                self._run.reject(Reject(TOKENS.name, clean(mapped.condition["condition_id"]), mapped.no_tokens))
        await self._run.stage(CONDITIONS, CONDITION_COLUMNS, conditions, asked)
        await self._run.stage(TOKENS, TOKEN_COLUMNS, tokens, asked)

    def report(self) -> None:
        """Tell of missing and unreadable members."""
        self._event_census.report(self._run, "events")
        self._census.report(self._run, "markets")

    async def count_unread_as_shown(self) -> None:
        """Note that the venue listed the stored conditions of markets and events that could not be read."""
        if "" in self._unread_events:
            self._run.shown(CONDITIONS.name, "")
        shown = await self._run.query(
            f"SELECT condition_id FROM {CONDITIONS.name} WHERE market_id = ANY(%s) OR event_id = ANY(%s)",
            (list(self._unread_markets), list(self._unread_events)),
        )
        for row in shown:
            self._run.shown(CONDITIONS.name, row[0])


def page_of(document: Any) -> tuple[list[Any], str | None]:
    """Events and cursor of the next page (None: this was the last one) of a body.

    Raises:
        RestError: it is no page.
    """
    if isinstance(document, dict) and isinstance(document.get("events"), list):
        cursor = document.get("next_cursor")
        if cursor is None or isinstance(cursor, str):
            return document["events"], cursor or None
    raise RestError(f"GET {PATH}: unexpected answer {str(document)[:200]!r}")


def _id_of(raw: Any) -> str:
    """What names an object in messages and tells it from others."""
    known = (raw.get(name) for name in ("id", "conditionId", "slug")) if isinstance(raw, dict) else ()
    return clean(str(next((value for value in known if value), raw)))[:_KEY_CHARS]


def _moment(event: Any, names: tuple[str, ...]) -> datetime | None:
    for name in names:
        try:
            moment = moment_of(event.get(name)) if isinstance(event, dict) else None
        except FieldError:
            continue
        if moment is not None:
            return moment
    return None


def _row(key: str, columns: tuple[str, ...], values: dict[str, Any]) -> list[Any]:
    return [values[name] for name in (key, *columns)]


TASKS = (
    SyncTask(
        "polymarket",
        "conditions",
        ("polymarket_conditions", "polymarket_tokens"),
        sync_conditions,
        modes=("full", "incremental"),
    ),
)
