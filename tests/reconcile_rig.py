"""A venue that plays trades, and an archive of what arrived: for tests of reconciliation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
from little_archive import LittleArchive

from ssmd_core.clock import NS_PER_S, Clock
from ssmd_core.datasets.build import build_hour
from ssmd_core.feeds import get
from ssmd_core.messages.frames import split_frame
from ssmd_core.settings import Settings
from ssmd_stream.reconcile.report import HourReport
from ssmd_stream.reconcile.run import reconcile_hour
from ssmd_stream.replay.faults import Fault, Faults
from ssmd_stream.replay.generator.frames import generate_frames
from ssmd_stream.replay.recording import Recording
from ssmd_stream.replay.rest_faults import RestFault, RestFaults
from ssmd_stream.replay.server import ReplayServer
from ssmd_stream.replay.venues.registry import subscribe_commands
from ssmd_stream.secmaster.rest import Timing

FEEDS = ("kalshi", "kraken", "kraken-futures", "polymarket")
HOUR = datetime(2026, 11, 22, 12, tzinfo=UTC)
FRAMES = 600
# So many steps a second of the exchange's time fill the hour, and a little more, with that many frames.
STEPS_PER_S = {"kalshi": 1.4, "kraken": 1.4, "kraken-futures": 1.4, "polymarket": 0.16}
# What a recording is asked for does not matter; it is played whole.
_ASKED = {"kalshi": "X", "kraken": "BTC/USD", "kraken-futures": "PF_XBTUSD", "polymarket": "1" * 77}


async def _at_once(_seconds: float) -> None:
    await asyncio.sleep(0)


IMPATIENT = Timing(sleep=_at_once)


@dataclass
class World:
    """A venue that is being played, with an archive of one connection.

    Attributes:
        frames: what the venue sent, and of it what was dropped on the way.
        archive: of what arrived.
    """

    feed: str
    settings: Settings
    server: ReplayServer
    faults: RestFaults
    frames: list[bytes]
    dropped: list[bytes]
    archive: LittleArchive

    @property
    def stream(self) -> str:
        return get(self.feed).streams[0]

    def build(self, hour: datetime = HOUR) -> None:
        """Make the datasets of an hour."""
        build_hour(self.settings.archive_root, self.settings.dataset_root, get(self.feed), self.stream, hour)

    async def reconcile(self, *faults: RestFault, **options: Any) -> HourReport:
        """Reconcile the hour, or what the options say, while the venue's REST does this wrong."""
        self.faults.reschedule(*faults)
        return await reconcile_hour(
            self.settings,
            get(self.feed),
            self.stream,
            options.pop("hour", HOUR),
            rest_url=self.server.rest_url,
            timing=IMPATIENT,
            **options,
        )


@asynccontextmanager
async def playing(
    feed: str,
    folder: Path,
    *,
    drop: int = 0,
    lost: Collection[int] = (),
    frames: list[bytes] | None = None,
    now: datetime = HOUR + timedelta(hours=3),
    database_url: str = "",
    seed: int = 0,
) -> AsyncIterator[World]:
    """Play frames to one connection and archive what it gets.

    Args:
        drop: how many frames with trades do not arrive, chosen by the seed.
        lost: numbers of further frames that do not arrive.
        frames: instead of generated ones of an hour.
        now: the venue's time.
    """
    sent = frames or generate_frames(
        feed,
        FRAMES,
        seed=seed,
        start_ns=int(HOUR.timestamp()) * NS_PER_S,
        frames_per_s=STEPS_PER_S[feed],
        channels=("market",) if feed == "polymarket" else ("trade",),
        markets=4,
    )
    telling = [number for number, frame in enumerate(sent) if trades_of(feed, [frame])]
    chosen = sorted({*lost, *(Random(seed).sample(telling[3:-3], drop) if drop else ())})
    faults = RestFaults()
    clock = Clock(int(now.timestamp()) * NS_PER_S, rate=0)
    async with ReplayServer(
        get(feed),
        Recording.from_frames(sent),
        faults=Faults(tuple(Fault("drop", at=number) for number in chosen)),
        rest_faults=faults,
        clock=clock,
    ) as server:
        got = await _receive(server, feed, len(sent) - len(chosen), set(sent))
        settings = Settings(folder / "data", "test", "", database_url, "", clock)
        archive = LittleArchive(settings.archive_root, feed, get(feed).streams[0])
        messages = [message for frame in got for message in split_frame(frame)]
        quarter = -(-len(messages) // 4)
        for number in range(4):
            some = messages[number * quarter : (number + 1) * quarter]
            archive.seal(HOUR + timedelta(minutes=15 * number), some)
        world = World(feed, settings, server, faults, sent, [sent[number] for number in chosen], archive)
        world.build()
        yield world


async def _receive(server: ReplayServer, feed: str, count: int, wanted: Collection[bytes]) -> list[bytes]:
    got: list[bytes] = []
    async with aiohttp.ClientSession() as session, session.ws_connect(server.url, max_msg_size=0) as socket:
        for command in subscribe_commands(feed, ("trade",), [_ASKED[feed]]):
            await socket.send_str(command.decode())
        async with asyncio.timeout(20):
            while len(got) < count:
                frame = (await socket.receive_str()).encode()
                if frame in wanted:
                    got.append(frame)
    return got


def trades_of(feed: str, frames: Iterable[bytes]) -> dict[str, tuple[str, int]]:
    """Id -> instrument and the venue's time in epoch µs, of the trades in these frames."""
    found: dict[str, tuple[str, int]] = {}
    for frame in frames:
        for text in split_frame(frame):
            message = json.loads(text)
            match feed:
                case "kalshi" if message.get("type") == "trade":
                    found[message["msg"]["trade_id"]] = message["msg"]["market_ticker"], message["msg"]["ts_ms"] * 1000
                case "kraken" if message.get("channel") == "trade":
                    for row in message["data"]:
                        found[f"{row['symbol']} {row['trade_id']}"] = row["symbol"], _us(row["timestamp"])
                case "kraken-futures" if message.get("feed") in ("trade", "trade_snapshot") and "event" not in message:
                    for row in message.get("trades", [message]):
                        found[row["uid"]] = row["product_id"], row["time"] * 1000
                case "polymarket" if message.get("event_type") == "last_trade_price":
                    found[message.get("transaction_hash", "")] = message["market"], int(message["timestamp"]) * 1000
                case _:
                    pass
    return found


def _us(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1_000_000)
