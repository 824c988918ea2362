"""One venue's public REST interface: paced, retried, bounded.

A request is tried `ATTEMPTS` times. Worth another try are statuses 408, 425, 429 and 5xx, timeouts, connections that
break, a 200 that is not JSON (a proxy's HTML page) and a 200 with an error inside (Kraken's way). Every other status
is final at once: a 400, 404 or 451 does not mend itself. Before each attempt the request waits for its place in the
pace again, so that retries do not exceed the limit either.

The wait between attempts is the venue's Retry-After, at most a minute; without one (Kalshi sends none) it doubles
from a second, give or take a quarter.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp
import msgspec
import structlog

from ssmd_core.clock import NS_PER_S, Clock
from ssmd_core.errors import SsmdError
from ssmd_stream.drift.bodies import observe_document

log = structlog.get_logger()

Params = Mapping[str, str] | Sequence[tuple[str, str]]

ATTEMPTS = 6
FIRST_WAIT_S = 1.0
MAX_WAIT_S = 60.0
JITTER = 0.25
CONNECT_TIMEOUT_S = 10.0
# Between two reads; a body that trickles is cut off by the total.
READ_TIMEOUT_S = 30.0
TOTAL_TIMEOUT_S = 120.0
# Kalshi's list of all series, the largest body known, is below 30 MB.
MAX_BODY_BYTES = 64 * 1024 * 1024
# Of the values in a query; servers take a request line of 8,190 bytes.
MAX_VALUES_CHARS = 4_000
_CHUNK_BYTES = 256 * 1024
_PASSING = frozenset({408, 425, 429})
_SHOWN_CHARS = 160

# Requests a second by the start of the path, the longest first; what the venues publish, evenly spaced, no bursts.
# Kalshi: most reads cost 10 tokens of the basic tier's 200 a second. Kraken: about one public call a second.
# Kraken Futures: a budget of 500 a ten seconds, of which a reader needs little. Gamma: /events 500, /markets 300 in
# ten seconds.
_PACES: dict[str, tuple[tuple[str, float], ...]] = {
    "kalshi": (("", 20.0),),
    "kraken": (("", 1.0),),
    "kraken-futures": (("", 5.0),),
    "polymarket": (("/markets", 30.0), ("/events", 50.0), ("", 30.0)),
}


class RestError(SsmdError):
    """The venue did not answer as it should, after all attempts; the text has method, path and the reason."""


class RestFatalError(RestError):
    """The venue refused for good; it was not asked again.

    Attributes:
        status: HTTP status.
    """

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class RestNotFoundError(RestFatalError):
    """HTTP 404: the venue does not know this one."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Time and chance, passed in so that a test decides them.

    Attributes:
        monotonic: seconds.
        sleep: for so many seconds.
        random: from 0 to 1.
        clock: the wall clock, for a Retry-After that is a date.
    """

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[], float] = random.random
    clock: Clock = Clock()  # noqa: RUF009 - the system's, which has no state worth having apart


class _Passing(Exception):
    """One attempt failed in a way that may pass; never seen outside."""

    def __init__(self, reason: str, retry_after: str | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class _Pace:
    """Hands out moments that are evenly spaced."""

    def __init__(self, per_s: float, timing: Timing) -> None:
        self._spacing_s = 1 / per_s
        self._timing = timing
        self._next_s = float("-inf")

    async def wait(self) -> None:
        now_s = self._timing.monotonic()
        at_s = max(now_s, self._next_s)
        self._next_s = at_s + self._spacing_s
        if at_s > now_s:
            await self._timing.sleep(at_s - now_s)


class RestClient:
    """See module. Safe for several tasks at once: they share the pace.

    Args:
        base_url: without a slash at the end.
        paces: requests a second by the start of the path; the first that fits counts, the last one's start is "".
        timing: see there.
        feed: whose interface it is; its bodies are shown to the drift sentinel.
    """

    def __init__(
        self, base_url: str, paces: Sequence[tuple[str, float]], timing: Timing | None = None, feed: str = ""
    ) -> None:
        self._feed = feed
        self.base_url = base_url.rstrip("/")
        self._timing = timing or Timing()
        self._paces = tuple((start, _Pace(per_s, self._timing)) for start, per_s in paces)
        self._session: aiohttp.ClientSession | None = None
        #: Attempts made, the repeated ones included.
        self.requests = 0

    @classmethod
    def for_feed(cls, feed: str, base_url: str, timing: Timing | None = None) -> Self:
        """A client with the feed's limits."""
        return cls(base_url, _PACES[feed], timing, feed)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers={"Accept": "application/json", "User-Agent": "ssmd"},
            timeout=aiohttp.ClientTimeout(
                total=TOTAL_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S
            ),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str, params: Params | None = None) -> Any:
        """GET a JSON document.

        Args:
            path: below the base, with a slash in front; parts that a stranger wrote must be quoted by the caller.

        Returns:
            The document; numbers with a fraction or an exponent are `Decimal`.

        Raises:
            RestNotFoundError: HTTP 404.
            RestFatalError: another status that does not pass.
            RestError: no attempt gave a document.
        """
        pace = next(pace for start, pace in self._paces if path.startswith(start))
        reason = ""
        for attempt in range(1, ATTEMPTS + 1):
            await pace.wait()
            try:
                return await self._attempt(path, params)
            except _Passing as passing:
                reason = str(passing)
                if attempt == ATTEMPTS:
                    break
                wait_s = self._wait_s(attempt, passing.retry_after)
                log.warning("rest_retry", path=path, attempt=attempt, reason=reason, wait_s=round(wait_s, 2))
                await self._timing.sleep(wait_s)
        raise RestError(f"GET {path}: {reason} ({ATTEMPTS} attempts)")

    async def _attempt(self, path: str, params: Params | None) -> Any:
        assert self._session is not None, "the client is a context manager"
        self.requests += 1
        try:
            async with self._session.get(self.base_url + path, params=params, allow_redirects=False) as response:
                body = await _body(path, response)
                status = response.status
                retry_after = response.headers.get("Retry-After")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _Passing(f"{type(error).__name__}: {error}") from error
        if status in _PASSING or status >= 500:
            raise _Passing(f"HTTP {status} {_shown(body)}", retry_after)
        if status != 200:
            kind = RestNotFoundError if status == 404 else RestFatalError
            raise kind(f"GET {path}: HTTP {status} {_shown(body)}", status)
        try:
            document = decode(body)
        except ValueError as error:
            raise _Passing(f"HTTP 200 with what is not JSON: {error}: {_shown(body)}") from error
        if isinstance(document, dict) and document.get("error"):
            raise _Passing(f"HTTP 200 with an error: {_shown(body)}")
        observe_document(self._feed, path, params, document, self._timing.clock.now_ns())
        return document

    def _wait_s(self, attempt: int, retry_after: str | None) -> float:
        told_s = _retry_after_s(retry_after, self._timing.clock)
        if told_s is not None:
            return min(told_s, MAX_WAIT_S)
        wait_s = FIRST_WAIT_S * 2.0 ** (attempt - 1)
        return float(min(wait_s * (1 + JITTER * (2 * self._timing.random() - 1)), MAX_WAIT_S))


def batches(values: Iterable[str], most: int, between: int) -> Iterator[list[str]]:
    """Values for queries, in order, as many to each as its URL can hold.

    Args:
        most: values that the venue takes in one request.
        between: characters that stand between two values in the URL.
    """
    batch: list[str] = []
    chars = 0
    for value in values:
        more = len(quote(value, safe="")) + between
        if batch and (len(batch) == most or chars + more > MAX_VALUES_CHARS):
            yield batch
            batch, chars = [], 0
        batch.append(value)
        chars += more
    if batch:
        yield batch


async def _body(path: str, response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            response.close()
            raise RestFatalError(f"GET {path}: body above {MAX_BODY_BYTES} bytes", response.status)
    return bytes(body)


def _retry_after_s(text: str | None, clock: Clock) -> float | None:
    """Seconds to wait by a Retry-After header, which holds seconds or a date; None if it says nothing useful."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError, TypeError):
        # A year or a zone of twenty digits overflows.
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.fromtimestamp(clock.now_ns() / NS_PER_S, UTC)).total_seconds())


# Exact however many digits there are; what no Decimal can hold becomes NaN or infinite instead of an exception.
_EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])
_MAX_INTEGER_DIGITS = 1_000
_DECODER = msgspec.json.Decoder(float_hook=_EXACT.create_decimal)


def _integer(text: str) -> int | Decimal:
    return int(text) if len(text) <= _MAX_INTEGER_DIGITS else Decimal("NaN")


def decode(body: bytes) -> Any:
    """A JSON document with fractions and exponents as `Decimal`.

    What servers really send though JSON forbids it is taken as well: a bare NaN or Infinity is null, half of a
    surrogate pair stays as it is, bytes that are not UTF-8 become U+FFFD.

    Raises:
        ValueError: not JSON, or nested too deep.
    """
    try:
        return _DECODER.decode(body)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        return json.loads(
            body.decode("utf-8", "replace"),
            parse_float=_EXACT.create_decimal,
            parse_int=_integer,
            parse_constant=lambda _: None,
        )
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _shown(body: bytes) -> str:
    return repr(body[:_SHOWN_CHARS].decode("utf-8", "replace"))
