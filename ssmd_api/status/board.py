"""All streams' states and prices in one place: looked at once for everybody who asks."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import structlog

from ssmd_api.errors import RateLimitedError, UnavailableError
from ssmd_api.status.archive import ArchiveLook, look_at_archive
from ssmd_api.status.names import Names
from ssmd_api.status.prices import Prices, Quote
from ssmd_api.status.states import StreamStatus, judge, judge_archive, problems
from ssmd_api.status.streams import AwayError, StreamLook, Streams
from ssmd_core.clock import NS_PER_S
from ssmd_core.datasets.coverage import Manifests
from ssmd_core.errors import FrameError
from ssmd_core.feeds import FEEDS
from ssmd_core.feeds.subjects import StreamName
from ssmd_core.messages.headers import read_stamp

if TYPE_CHECKING:
    from ssmd_api.services import Services

log = structlog.get_logger()

TURN_S = 1.0
MAX_CLIENTS = 50
MAX_CLIENTS_PER_KEY = 10
# Ticker messages read per stream and turn; behind a busier feed the newest of these many sequences are taken.
_MAX_NEW = 2_000
_MAX_STREAMS = 32


class Board:
    """States and prices of every stream.

    A look is shared by all who ask within a second. While somebody watches, one task looks every second.

    Attributes:
        statuses: as of the last look, by feed and stream.
        checked_at: when that look began.
        turn: counts the looks.
        clients: those that watch, by key.
        ending: the process is about to end, and so is all watching.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        core = services.settings.core
        self._env = core.env
        self._streams = Streams(core.nats_url)
        self._manifests = Manifests(core.archive_root, core.dataset_root)
        self.names = Names(services)
        self.statuses: tuple[StreamStatus, ...] = ()
        self.checked_at = services.now
        self.turn = 0
        self.ending = False
        self.clients: Counter[str] = Counter()
        self._looked_at_s = -TURN_S
        self._looking = asyncio.Lock()
        self._turned = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._prices: dict[str, Prices] = {}
        self._read_to: dict[str, int] = {}

    async def look(self, feeds: Iterable[str]) -> list[StreamStatus]:
        """States of the feeds' streams, about as they were within the last second."""
        wanted = set(feeds)
        # While somebody watches, the newest look is never much older than a second.
        if self._task is None or not self.statuses:
            async with self._looking:
                if asyncio.get_running_loop().time() - self._looked_at_s >= TURN_S:
                    await self._look(prices=False)
        return [status for status in self.statuses if status.feed in wanted]

    def quotes(self, feed: str) -> list[tuple[int, Quote]]:
        """Newest quotes of a feed, the most recently changed first, each with the turn in which it changed."""
        found = [each for prices in self._prices.values() if prices.feed == feed for each in prices.quotes.values()]
        return sorted(found, key=lambda each: each[1].at, reverse=True)

    def check_room(self, key_prefix: str) -> None:
        """Refuse a watcher too many.

        Raises:
            RateLimitedError: of the same key.
            UnavailableError: of all.
        """
        if self.clients[key_prefix] >= MAX_CLIENTS_PER_KEY:
            raise RateLimitedError(f"this key watches {MAX_CLIENTS_PER_KEY} times already", retry_after_s=10)
        if self.clients.total() >= MAX_CLIENTS:
            raise UnavailableError(f"{MAX_CLIENTS} clients watch already; ask /v1/status instead")

    @contextmanager
    def watching(self, key_prefix: str) -> Iterator[None]:
        """Look every second meanwhile."""
        self.clients[key_prefix] += 1
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self.clients[key_prefix] -= 1
            if not self.clients[key_prefix]:
                del self.clients[key_prefix]
            if not self.clients and self._task is not None:
                self._task.cancel()
                self._task = None
                self._prices.clear()
                self._read_to.clear()

    async def turned(self) -> None:
        """Wait for the next look's end."""
        await self._turned.wait()

    def end(self) -> None:
        """Let everybody go who watches."""
        self.ending = True
        self._turned.set()

    async def close(self) -> None:
        """Stop looking."""
        self.end()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._streams.close()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            try:
                async with self._looking:
                    await self._look(prices=True)
            except Exception as error:  # nobody would ever look again
                log.error("look_failed", exc_info=error)
            done, self._turned = self._turned, asyncio.Event()
            done.set()
            await asyncio.sleep(max(0.1, began_s + TURN_S - loop.time()))

    async def _look(self, *, prices: bool) -> None:
        now = self._services.now
        archives = await asyncio.to_thread(self._look_at_archives, now.date())
        self.turn += 1
        self.checked_at, self.statuses = (
            now,
            tuple(
                await asyncio.gather(*(self._status(name, archive, now, prices=prices) for name, archive in archives))
            ),
        )
        self._looked_at_s = asyncio.get_running_loop().time()

    def _look_at_archives(self, today: date) -> list[tuple[StreamName, ArchiveLook]]:
        found = []
        for feed in FEEDS.values():
            for stream in self._manifests.streams(feed):
                archive = look_at_archive(self._manifests, feed.name, stream, today)
                found.append((StreamName(self._env, feed, stream), archive))
        return found[:_MAX_STREAMS]

    async def _status(self, name: StreamName, archive: ArchiveLook, now: datetime, *, prices: bool) -> StreamStatus:
        now_ns = int(now.timestamp() * NS_PER_S)
        look: StreamLook | None = None
        try:
            look = await self._streams.look(name)
            state, reason = judge(name.feed.liveness, look, archive, now_ns)
            away = False
            if prices and look is not None:
                await self._read_prices(name, look)
        except AwayError as error:
            state, reason = judge_archive(archive, now, str(error))
            away = True
        at_ns = look.market_ns if look is not None else None
        return StreamStatus(
            feed=name.feed.name,
            name=name.feed.display_name,
            stream=name.stream,
            state=state,
            reason=reason,
            source="archive" if away else "jetstream",
            last_message_at=None if at_ns is None else datetime.fromtimestamp(at_ns / NS_PER_S, UTC),
            last_message_age_s=None if at_ns is None else round(max(0, now_ns - at_ns) / NS_PER_S, 1),
            messages_per_s=None if look is None else round(look.market_per_s, 1),
            gaps_today=archive.gaps,
            lost_today=archive.lost,
            problems=problems(state, archive, now),
            sealed_until=archive.sealed_until,
            newest_dataset_hour=archive.dataset_hour,
        )

    async def _read_prices(self, name: StreamName, look: StreamLook) -> None:
        folder = name.folder
        if (prices := self._prices.get(folder)) is None:
            prices = self._prices[folder] = Prices(name.feed, name.stream)
        after = max(self._read_to.get(folder, 0), look.last_seq - _MAX_NEW)
        for message in await self._streams.newest(name, prices.tokens, after, _MAX_NEW):
            with contextlib.suppress(FrameError):  # a stranger's
                at = datetime.fromtimestamp(read_stamp(message.headers).recv_ns / NS_PER_S, UTC)
                prices.add(message.data, at, self.turn)
        self._read_to[folder] = max(after, look.last_seq)
