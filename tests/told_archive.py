"""Sealed hours of connections that tell what happens to them, as the connector would; see `Told`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ssmd_core.archive.manifest import Manifest, load_manifest, save_manifest
from ssmd_core.archive.members import member
from ssmd_core.archive.paths import Slot, day_folder
from ssmd_core.archive.tally import Tally, classify
from ssmd_core.clock import rfc3339_us
from ssmd_core.feeds import get
from ssmd_core.messages.control import Event, control_event
from ssmd_core.messages.lines import format_line, needs_wrapping


def trade(at: datetime, number: int, symbol: str = "BTC/USD") -> bytes:
    """A trade of Kraken with the venue's time."""
    return (
        f'{{"channel":"trade","type":"update","data":[{{"symbol":"{symbol}","side":"buy","price":86210.2,"qty":0.01,'
        f'"ord_type":"market","trade_id":{number},"timestamp":"{at:%Y-%m-%dT%H:%M:%S.%f}Z"}}]}}'
    ).encode()


class Told:
    """Messages of an hour of `kraken/spot`, by connection epoch; `seal` archives them.

    Args:
        root: the archive's root.
        hour: which.
        next_seq, ordinals: where the hour before has stopped.
    """

    def __init__(
        self, root: Path, hour: datetime, *, next_seq: int = 1, ordinals: dict[str, int] | None = None
    ) -> None:
        self.root, self.hour, self.feed = root, hour, get("kraken")
        self.next_seq, self.ordinals = next_seq, dict(ordinals or {})
        self._begin = (next_seq, dict(self.ordinals))
        self.said: list[tuple[datetime, str, bytes | int]] = []
        #: The next ordinal of an epoch, where it is not the one after the last: batches may overtake each other.
        self.number: Callable[[str], int | None] = lambda _: None

    def at(self, minute: float) -> datetime:
        """A moment of the hour."""
        return self.hour + timedelta(minutes=minute)

    def say(self, minute: float, epoch: str, payload: bytes) -> None:
        """A message."""
        self.said.append((self.at(minute), epoch, payload))

    def lose(self, minute: float, epoch: str, count: int = 1) -> None:
        """Messages that are received and not archived."""
        self.said.append((self.at(minute), epoch, count))

    def event(self, minute: float, epoch: str, event: Event, /, **fields: Any) -> None:
        """One of ssmd's own events."""
        self.say(minute, epoch, control_event(event, epoch.partition("-")[0], **fields))

    def quiet_hour(self, own: str = "k0-20261120T100000000-0001", epoch: str = "c0-20261120T100001000-0001") -> None:
        """A connector that runs on from the hour before, with BTC/USD acknowledged on `trade` and no message."""
        self.event(0.001, own, "wanted", cause="hour", instruments=["BTC/USD"])
        self.event(0.002, epoch, "coverage", channel="trade", state="acknowledged", instruments=["BTC/USD"])
        for tick in range(240):
            self.event(tick / 4 + 0.2, own, "tick", connected=1)

    def busy_hour(self, own: str = "k0-20261120T100000000-0001", epoch: str = "c0-20261120T100001000-0001") -> None:
        """The same with a trade every ten seconds."""
        self.quiet_hour(own, epoch)
        for number in range(360):
            self.say(number / 6 + 0.1, epoch, trade(self.at(number / 6 + 0.099), number))

    def without(self, first: float, end: float) -> None:
        """Nobody captures from minute to minute: what would be said then is not, and costs no ordinal."""
        self.said = [line for line in self.said if not self.at(first) <= line[0] < self.at(end)]

    def seal(self, slots: int = 4) -> None:
        """Archive everything, in order of time, in the hour's first slots."""
        self.next_seq, self.ordinals = self._begin[0], dict(self._begin[1])
        self.said.sort(key=lambda line: line[0])
        for quarter in range(slots):
            start = self.at(15 * quarter)
            self._seal_slot(start, [line for line in self.said if start <= line[0] < start + timedelta(minutes=15)])

    def _seal_slot(self, start: datetime, lines: list[tuple[datetime, str, bytes | int]]) -> None:
        slot = Slot.of(int(start.timestamp()) * 1_000_000)
        folder = day_folder(self.root, self.feed.name, "spot", slot.date)
        folder.mkdir(parents=True, exist_ok=True)
        tally = Tally()
        raw = b""
        for at, epoch, payload in lines:
            ordinal = self.ordinals.get(epoch, 0)
            self.ordinals[epoch] = ordinal + (payload if isinstance(payload, int) else 1)
            if isinstance(payload, int):
                continue
            told = self.number(epoch)
            ordinal = ordinal if told is None else told
            wrapped = needs_wrapping(payload) or classify(self.feed, payload)[0] == "unparsed"
            received_us = round(at.timestamp() * 1_000_000)
            line = format_line(payload, received_us, self.next_seq, epoch, ordinal, wrapped=wrapped)
            tally.add_line(self.feed, line)
            raw += line + b"\n"
            self.next_seq += 1
        content = member(raw)
        path = folder / slot.file_name()
        path.write_bytes(content)
        entry = tally.entry(
            path.name,
            slot,
            file_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            sealed_at=rfc3339_us(slot.end_us + 1_000_000),
        )
        manifest = load_manifest(folder) or Manifest(self.feed.name, "spot", slot.date)
        tally.merge_into(manifest, entry)
        save_manifest(folder, manifest)
