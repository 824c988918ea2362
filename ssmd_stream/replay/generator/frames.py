"""Frames made ahead of time, for benchmarks and files: no server, no clock, the same bytes for the same arguments."""

from __future__ import annotations

from collections.abc import Sequence

from ssmd_core.errors import ConfigError
from ssmd_stream.replay.protocol import Traffic
from ssmd_stream.replay.venues.registry import make_exchange, make_session, subscribe_commands

ALL_CHANNELS = {
    "kalshi": ("orderbook_delta", "ticker", "trade", "market_lifecycle_v2"),
    "kraken": ("book", "ticker", "trade", "instrument"),
    "kraken-futures": ("book", "ticker", "ticker_lite", "trade"),
    "polymarket": ("market",),
}


class SteppedTime:
    """Exchange time that moves on by the same step with every frame."""

    def __init__(self, start_ns: int, step_ns: int) -> None:
        self._now_ns = start_ns
        self._step_ns = step_ns

    def now_ns(self) -> int:
        """Epoch nanoseconds."""
        return self._now_ns

    def advance(self) -> None:
        """One frame later."""
        self._now_ns += self._step_ns


def generate_frames(
    feed: str,
    count: int,
    *,
    seed: int = 0,
    start_ns: int = 1_795_348_800_000_000_000,
    frames_per_s: float = 1_000.0,
    channels: Sequence[str] | None = None,
    instruments: Sequence[str] | None = None,
    markets: int = 8,
) -> list[bytes]:
    """The first `count` data frames of one connection, snapshots included, acknowledgements left out.

    Args:
        feed: feed name.
        seed, start_ns: same values, same bytes; the default start is 2026-11-22T12:00:00Z.
        frames_per_s: pace of the exchange timestamps.
        channels: default all.
        instruments: default all that the exchange has.
        markets: see `make_exchange`.

    Raises:
        UnknownFeedError: no venue of this name can be played.
        ConfigError: the subscription yields no frames.
    """
    time = SteppedTime(start_ns, int(1e9 / frames_per_s))
    exchange = make_exchange(feed, seed, time.now_ns, markets)
    session = make_session(feed, exchange, time.now_ns, lambda _instrument: False)
    frames: list[bytes] = []
    chosen = channels or ALL_CHANNELS.get(feed, ())
    for command in subscribe_commands(feed, chosen, instruments or exchange.instruments):
        frames += session.receive(command).data
    traffic = Traffic(exchange)
    fruitless = 0
    while len(frames) < count:
        step = traffic.step((session,))
        fruitless = 0 if step else fruitless + 1
        if fruitless > 10_000:
            raise ConfigError(f"{feed}: nothing comes on channels {chosen!r} of instruments {instruments!r}")
        frames += [frame for _, frame in step]
        time.advance()
    return frames[:count]
