"""`ssmd faults`: play venues that go wrong, one fault each, and measure how long it takes until capture says so.

Everything is real but the venue: NATS, the connector with the constants that it has in production, the replay server
with the fault on demand. What counts is what stands in the stream, and so in the archive: detection is the receive time
of the event in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg

from ssmd_core import feeds
from ssmd_core.clock import NS_PER_S, Clock
from ssmd_core.drift.baseline import Baseline
from ssmd_core.drift.shapes import Shapes
from ssmd_core.errors import FrameError
from ssmd_core.feeds.base import Feed
from ssmd_core.messages.control import is_control
from ssmd_core.messages.frames import split_frame
from ssmd_core.messages.headers import read_stamp
from ssmd_core.settings import Settings
from ssmd_stream import jetstream
from ssmd_stream.capture.connector import Connector
from ssmd_stream.capture.options import ConnectorOptions
from ssmd_stream.drift.live import Sentinel
from ssmd_stream.rehearsal.fault_list import Case, Sight
from ssmd_stream.replay.faults import Faults
from ssmd_stream.replay.generator.frames import generate_frames
from ssmd_stream.replay.server import Generated, ReplayServer
from ssmd_stream.replay.venues.kalshi import make_test_key
from ssmd_stream.servers.nats import NatsServer

# Enough of every type for the sentinel to know it; see `drift.live`.
_LEARNED_FRAMES = 6_000
# A case that sees nothing is ended so long after its limit.
_GRACE_S = 3.0
# Cases at the same time: the frames of all of them together are a quarter of what one core takes.
_AT_ONCE = 24
# Starting twenty connectors at once would delay the first of them by seconds.
_APART_S = 0.15
# In a frame that is `invalid_utf8`; its type can be read all the same.
_NOT_UTF8 = b"\xff\xfe"


@dataclass
class Outcome:
    """What became of a case.

    Attributes:
        after_s: from the fault to what must be seen; None: it was not seen in time.
        note: what was seen, in the words of the event.
    """

    case: Case
    after_s: float | None
    note: str = ""

    @property
    def passed(self) -> bool:
        """Seen, and in time; or not, where nothing must be seen."""
        if self.case.never:
            return self.after_s is None
        return self.after_s is not None and self.after_s <= self.case.limit_s


@dataclass
class _Stream:
    """What has reached the stream of one case, as far as it matters."""

    sights: list[Sight] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, message: Msg) -> None:
        """A message of the stream."""
        payload = message.data
        kind = message.subject.split(".json.", 1)[-1].partition(".")[0]
        if is_control(payload):
            event: dict[str, Any] = orjson.loads(payload)["ssmd"]
        elif kind == "unparsed" or _NOT_UTF8 in payload:
            event = {"event": "unreadable"}
        elif b"snapshot" in payload or b'"event_type":"book"' in payload:
            event = {"event": "snapshot"}
        else:
            return
        self.sights.append(Sight(read_stamp(message.headers).recv_ns, event, payload))
        self.arrived.set()


async def run_faults(
    cases: Sequence[Case], *, seed: int = 0, progress: Callable[[Outcome], None] = lambda _outcome: None
) -> list[Outcome]:
    """Run cases side by side; the outcomes come in their order.

    Args:
        seed: of the generated traffic and of the faults.
        progress: told of each outcome.

    Raises:
        SsmdError: a server did not start.
    """
    key = make_test_key()
    gate = asyncio.Semaphore(_AT_ONCE)
    with (
        tempfile.TemporaryDirectory(prefix="ssmd-faults-") as folder,
        _environment({"KALSHI_API_KEY": key.access_key, "KALSHI_PRIVATE_KEY": key.private_pem}),
    ):
        root = Path(folder)
        nats = NatsServer(root / "nats", port=None, monitor_port=None)
        await nats.start()
        client = await jetstream.connect(nats.url, name="faults")
        try:
            judged = sorted({case.feed for case in cases if case.key == "drift"})
            learned = {name: Baseline.learned(_shapes(feeds.get(name), seed)) for name in judged}

            async def run(number: int, case: Case) -> Outcome:
                async with gate:
                    await asyncio.sleep(_APART_S * (number % _AT_ONCE))
                    data = root / f"case{number}"
                    settings = Settings(data, f"fault{number}", nats.url, "", "", Clock())
                    outcome = await _run(case, settings, client, seed, learned.get(case.feed, Baseline()))
                progress(outcome)
                return outcome

            # What takes longest begins first.
            order = sorted(range(len(cases)), key=lambda number: -cases[number].limit_s)
            async with asyncio.TaskGroup() as group:
                tasks = {number: group.create_task(run(number, cases[number])) for number in order}
            return [tasks[number].result() for number in range(len(cases))]
        finally:
            await client.close()
            await nats.stop()


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """The connector reads its key from the environment; alerts of a rehearsal go to nobody."""
    silenced = [name for name in os.environ if name.startswith(("NTFY_", "SMTP_"))]
    before = {name: os.environ.get(name) for name in (*values, *silenced)}
    for name in silenced:
        del os.environ[name]
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _shapes(feed: Feed, seed: int) -> Shapes:
    """What the venue's messages look like, as a connector knows it that has run for a while."""
    shapes = Shapes()
    for frame in generate_frames(feed.name, _LEARNED_FRAMES, seed=seed):
        for payload in split_frame(frame):
            with contextlib.suppress(FrameError):
                shapes.add(feed.route(payload).type, payload)
    return shapes


async def _run(case: Case, settings: Settings, client: Client, seed: int, baseline: Baseline) -> Outcome:
    feed = feeds.get(case.feed)
    source = Generated(seed=seed, frames_per_s=case.frames_per_s, limit=case.frames, markets=case.markets)
    stream = _Stream()
    async with ReplayServer(feed, source, faults=Faults(case.faults, seed)) as server:
        options = ConnectorOptions(
            feed.name,
            feed.default_stream,
            url=server.url,
            rest_url=server.rest_url,
            instruments=server.instruments[: case.instruments],
            channels=case.channels,
        )
        connector = Connector(options, settings)
        connector.sentinel = Sentinel(feed, copy.deepcopy(baseline))
        subscription = await client.subscribe(f"{connector.plan.stream.prefix}.json.>", cb=stream.take)
        task = asyncio.create_task(connector.run())
        try:
            begun_ns = await _begun(case, server, stream, task)
            found = await _seen(case, stream, begun_ns, connector)
        finally:
            connector.stop()
            await asyncio.gather(task, return_exceptions=True)
            await subscription.unsubscribe()
    if found is None:
        return Outcome(case, None, "nothing")
    at_ns, note = found
    return Outcome(case, (at_ns - begun_ns) / NS_PER_S, note)


async def _begun(case: Case, server: ReplayServer, stream: _Stream, task: asyncio.Task[int]) -> int:
    """When the fault began: the moment it struck, or the first subscription where the fault is one of that."""
    deadline_s = time.monotonic() + case.strikes_by_s
    while time.monotonic() < deadline_s and not task.done():
        if case.of_subscription:
            sent = next((sight for sight in stream.sights if sight.event["event"] == "subscribe"), None)
            if sent is not None:
                return sent.at_ns
        elif server.struck_ns:
            return server.struck_ns[0]
        await asyncio.sleep(0.02)
    return time.time_ns()


async def _seen(case: Case, stream: _Stream, begun_ns: int, connector: Connector) -> tuple[int, str] | None:
    deadline_ns = begun_ns + int((case.limit_s + (0.0 if case.never else _GRACE_S)) * NS_PER_S)
    while True:
        stream.arrived.clear()
        found = case.sees([sight for sight in stream.sights if sight.at_ns >= begun_ns], connector)
        if found is not None:
            return found
        left_s = (deadline_ns - time.time_ns()) / NS_PER_S
        if left_s <= 0:
            return None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stream.arrived.wait(), min(left_s, 0.5))


def markdown(outcomes: Sequence[Outcome], seed: int) -> str:
    """The page `docs/faults.md`."""
    failed = sum(not outcome.passed for outcome in outcomes)
    lines = [
        "# Faults, and how soon they are seen",
        "",
        "Written by `ssmd faults --write docs/faults.md`; the numbers are those of the machine that ran it.",
        "A played venue goes wrong, a real connector with its real constants captures it into a real NATS, and what "
        "counts is the receive time of the event in the stream, which is archived. Nothing is shortened but where the "
        "fault says so.",
        "",
        f"Seed {seed}; {len(outcomes)} faults, {failed} not seen in time.",
        "",
        "| fault | venue | what must be seen | after s | limit s | ok |",
        "|---|---|---|---:|---:|---|",
    ]
    for each in outcomes:
        after = "–" if each.after_s is None else f"{each.after_s:.1f}"
        verdict = "yes" if each.passed else "**no**"
        lines.append(
            f"| {each.case.name} | {each.case.feed} | {each.case.must} | {after} | {each.case.limit_s:g} | {verdict} |"
        )
    return "\n".join([*lines, "", NOTES])


NOTES = """\
## How it is seen
* **Silence.** What is unusual is measured against the connection itself: three times its longest pause of the last
  ten minutes, at least 5 s and at most 45 s. Then the venue is asked for something that it must answer with market
  data: snapshots of the three books that spoke last (Kalshi `get_snapshot`), or three tickers, products or tokens
  subscribed anew. Only if nothing comes within 3 s is the connection given up. So a quiet hour costs a question now
  and then and no reconnect; heartbeats and pongs do not count. If answers are all that comes for 30 s on a connection
  that never paused for 2 s, it is given up too. Each time the patience doubles, up to 64 times, until data has flowed
  for a minute, or has come by itself on a connection of ten minutes: two hours of maintenance cost seven connections.
  The registry's constants of silence, on a connection or one of its channels, double in the same way. Kalshi without
  order books can be asked nothing: there a dense connection is given up after 8 s, and a quiet one by the constant
  (300 s).
* **Asked for, not delivered.** Order books and tickers begin with an opening message for each instrument. One that
  has not come 10 s after the acknowledgement (Polymarket acknowledges nothing: after the request) is flagged and
  asked for again, five times at most. An acknowledgement that has not come in 30 s is a refusal.
* **Sequence and checksum.** The venue's rule sees every message. What it finds is archived as `trouble`, and the
  instruments are asked for again: within a quarter of a second, all that broke meanwhile in one command, then after
  1, 2, 4, … 300 s while that does not help. Kalshi's books come anew with `get_snapshot`, which leaves the
  subscription and its numbers alone; if that does not help, the market is taken off and added again. Of Polymarket's
  books, one token of each market is watched live, as the two mirror each other: best bid and ask at every change, and
  the hash of one token in sixteen. All tokens and hashes are proved hour by hour, from the archive.
* **Drift.** The sentinel here knows the venue's messages already; in production it learns a type from its first 300
  messages and 20 minutes. A type that the registry does not know is told at once.
"""
