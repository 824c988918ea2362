"""Server-sent events: an answer that goes on for as long as somebody listens."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import msgspec
import psycopg
import structlog
from msgspec import Meta
from psycopg_pool import PoolTimeout
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ssmd_api.auth.access import Principal
from ssmd_api.errors import ApiError
from ssmd_api.jsons import encode
from ssmd_api.status.prices import Quote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ssmd_api.services import Services

log = structlog.get_logger()

Key: TypeAlias = tuple[str, str, str]
"""Feed, stream, instrument."""

MAX_INSTRUMENTS = 100
HEARTBEAT_S = 10.0
_STUCK_S = 20.0


class StatusQuery(msgspec.Struct):
    """Which streams.

    Attributes:
        feed: one feed; without it all that the key reaches.
    """

    feed: str | None = None


class LiveQuery(StatusQuery):
    """Which streams, how many prices, for how long.

    Attributes:
        instruments: how many instruments' prices to send at most, shared out among the feeds.
        seconds: when to end; without it only with the connection or the key.
    """

    instruments: Annotated[int, Meta(ge=0, le=MAX_INSTRUMENTS)] = 20
    seconds: Annotated[int, Meta(ge=1, le=86_400)] | None = None


class EventStream(Response):
    """Sends what a generator gives until it ends, the client goes, or nothing could be sent for 20 s."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await self._events.aclose()
            await send({"type": "http.response.body", "body": b""})
            return
        talking, gone = asyncio.create_task(self._talk(send)), asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({talking, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            talking.cancel()
            gone.cancel()
            results = await asyncio.gather(talking, gone, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _talk(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            async for event in events:
                try:
                    async with asyncio.timeout(_STUCK_S):
                        await send({"type": "http.response.body", "body": event, "more_body": True})
                except TimeoutError:
                    log.info("watcher_stuck", seconds=_STUCK_S)
                    return
        await send({"type": "http.response.body", "body": b""})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def event(name: str, value: Any) -> bytes:
    """One event; JSON holds no line break, so one `data` line is enough."""
    return b"event: " + name.encode() + b"\ndata: " + encode(value) + b"\n\n"


async def watch(
    services: Services, principal: Principal, request: Request, feeds: Iterable[str], query: LiveQuery
) -> AsyncGenerator[bytes]:
    """The feeds' states every second, and prices as they change, until the key no longer allows it.

    Nothing is queued: whoever is slow gets the newest state and the newest price of each instrument.

    Args:
        request: by whose headers the key is checked again every second.
    """
    board, chosen = services.board, Chosen(tuple(feeds), query.instruments)
    address = request.client.host if request.client else ""
    loop = asyncio.get_running_loop()
    beat_at_s = loop.time() + HEARTBEAT_S
    end_at_s = math.inf if query.seconds is None else loop.time() + query.seconds
    with board.watching(principal.key_prefix):
        while True:
            await board.turned()
            if board.ending:
                yield event("end", {"reason": "the API is stopping"})
                return
            try:
                if await services.authenticator.principal(request.headers, address) != principal:
                    raise ApiError("the key has changed")
                principal.check_moment(services.now)
            except (ApiError, psycopg.Error, PoolTimeout) as error:
                reason = str(error) if isinstance(error, ApiError) else "the key cannot be checked now"
                yield event("end", {"reason": reason})
                return
            states = [status for status in board.statuses if status.feed in chosen.feeds]
            told = event("status", {"checkedAt": board.checked_at, "streams": states})
            quotes, gone = chosen.news({feed: board.quotes(feed) for feed in chosen.feeds})
            if quotes or gone:
                names = await asyncio.gather(*(board.names.of(quote.feed, quote.instrument) for quote in quotes))
                for quote, name in zip(quotes, names, strict=True):
                    quote.name = name
                left = [{"feed": feed, "stream": stream, "instrument": one} for feed, stream, one in gone]
                told += event("prices", {"prices": quotes, "gone": left})
            if loop.time() >= beat_at_s:
                beat_at_s = loop.time() + HEARTBEAT_S
                told += b": heartbeat\n\n"
            yield told
            if loop.time() >= end_at_s:
                yield event("end", {"reason": "the time is over"})
                return


class Chosen:
    """The instruments that one client sees: taken when there is room, kept while they are known.

    Args:
        most: of all feeds together.
    """

    def __init__(self, feeds: tuple[str, ...], most: int) -> None:
        self.feeds = feeds
        self._most = most
        self._sent: dict[Key, int] = {}

    def news(self, quotes: Mapping[str, list[tuple[int, Quote]]]) -> tuple[list[Quote], list[Key]]:
        """What to send: quotes of chosen instruments that have changed since the last call, and who had to make room.

        Args:
            quotes: by feed, the most recent first, each with the turn in which it changed.
        """
        known = {_key(quote): (turn, quote) for each in quotes.values() for turn, quote in each}
        before = list(self._sent)
        self._sent = {key: turn for key, turn in self._sent.items() if key in known}
        for feed, share in self._shares(quotes).items():
            taken = [key for key in self._sent if key[0] == feed]
            for key in taken[share:]:
                del self._sent[key]
            new = [_key(quote) for _, quote in quotes[feed] if _key(quote) not in self._sent]
            self._sent |= dict.fromkeys(new[: max(0, share - len(taken))], 0)
        found = [known[key] for key, sent in self._sent.items() if known[key][0] > sent]
        self._sent |= {_key(quote): turn for turn, quote in found}
        return [quote for _, quote in found], [key for key in before if key not in self._sent]

    def _shares(self, quotes: Mapping[str, list[tuple[int, Quote]]]) -> dict[str, int]:
        """How many instruments of each feed: equal parts, and what one feed does not need goes to the next."""
        left, shares = self._most, {}
        order = sorted((feed for feed in quotes if quotes[feed]), key=lambda feed: len(quotes[feed]))
        for rank, feed in enumerate(order):
            shares[feed] = min(len(quotes[feed]), left // (len(order) - rank))
            left -= shares[feed]
        return shares


def _key(quote: Quote) -> Key:
    return quote.feed, quote.stream, quote.instrument
