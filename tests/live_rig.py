"""A connection without a network, and what it publishes, says and is told."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import orjson

from ssmd_core.alerts import Alert
from ssmd_core.clock import NS_PER_S, Clock
from ssmd_core.feeds.base import Feed
from ssmd_core.feeds.subjects import StreamName
from ssmd_core.messages.headers import Stamp
from ssmd_core.proof.rules import LiveCheck, LiveCounts, Trouble
from ssmd_stream.capture.alarms import Alarms
from ssmd_stream.capture.connection import Connection, Setting
from ssmd_stream.capture.sessions import session_factory
from ssmd_stream.capture.stats import Router, ShardStats
from ssmd_stream.capture.venue_time import venue_times
from ssmd_stream.capture.watch import Sentinel
from ssmd_stream.replay.venues.kalshi import make_test_key

NOON_NS = 1_795_348_800 * NS_PER_S
_KEY = make_test_key()
_SECRETS = {"KALSHI_API_KEY": _KEY.access_key, "KALSHI_PRIVATE_KEY": _KEY.private_pem}


class SetClock(Clock):
    """Shows what it is set to."""

    def __init__(self) -> None:
        super().__init__()
        self.at_ns = NOON_NS

    def now_ns(self) -> int:
        return self.at_ns


class OwnRule:
    """A live check that finds trouble where it is told to."""

    def __init__(self) -> None:
        self.counts = LiveCounts()
        self.found: list[Trouble] = []
        self.raises = False

    def check(self, kind: str, payload: bytes) -> Trouble | None:
        del kind, payload
        self.counts.passed += 1
        if self.raises:
            raise RecursionError("too deep")
        return self.found.pop() if self.found else None


class Told:
    """Alerts that were raised and not cleared."""

    def __init__(self) -> None:
        self.keys: set[str] = set()

    def raise_(self, alert: Alert) -> None:
        self.keys.add(alert.key)

    def clear(self, key: str) -> None:
        self.keys.discard(key)


class FakeSocket:
    """Keeps what was sent."""

    local = remote = "127.0.0.1:1"

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.aborted = False

    def send(self, text: str) -> None:
        self.sent.append(orjson.loads(text))

    def ping(self) -> None:
        pass

    def close(self, code: int, reason: str) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Rig:
    """A connection without a network; what it publishes is kept."""

    def __init__(
        self,
        feed: Feed,
        instruments: tuple[str, ...],
        channels: tuple[str, ...] = (),
        *,
        rule: LiveCheck | None = None,
        sentinel: Sentinel | None = None,
    ) -> None:
        self.clock = SetClock()
        self.rule = OwnRule()
        self.told = Told()
        self.now_s = 0.0
        self.alarms = Alarms(feed.name, "x", self.told, lambda: self.now_s)
        self.published: list[tuple[bytes, Stamp]] = []
        self.stats = ShardStats(feed.message_types, 0.0)
        setting = Setting(feed, "ws://h", "picows", self.clock, self._publish, feed.liveness, {})
        setting = dataclasses.replace(
            setting,
            make_check=lambda _feed: rule or self.rule,
            sentinel=sentinel,
            alarms=self.alarms,
            times=venue_times(feed),
        )
        channels = channels or feed.default_channels
        make = session_factory(feed, channels, {}, feed.websocket_urls["prod"], _SECRETS)
        router = Router(StreamName("t", feed, "x"), "c0", self.stats, {} if feed.name == "kraken" else None)
        self.connection = Connection("c0", make(), instruments, setting, router=router, stats=self.stats, paused=False)
        self.socket = FakeSocket()
        self.connection.on_open(self.socket)

    def _publish(self, subject: str, payload: bytes, stamp: Stamp, /) -> None:
        del subject
        self.published.append((payload, stamp))

    async def flush(self) -> list[dict[str, Any]]:
        """Let queued commands go out, and what a look asks for; what was sent by now."""
        self.connection._watch.supervise((), False, asyncio.get_running_loop().time())
        task = asyncio.create_task(self.connection._send_commands())
        while not self.connection._commands.empty():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)
        task.cancel()
        return self.socket.sent

    def events(self, name: str) -> list[dict[str, Any]]:
        documents = [orjson.loads(p)["ssmd"] for p, _ in self.published if p.startswith(b'{"ssmd":')]
        return [document for document in documents if document["event"] == name]
