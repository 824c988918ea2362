"""Which instrument is on which connection: the least loaded with room, another when all are full, up to a limit."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

import structlog

from ssmd_stream.capture.shard import Shard

log = structlog.get_logger()


class MakeShard(Protocol):
    """Makes a shard and starts it.

    Args:
        number: of the shard, from 0, never used again.
        delay_s: pause before its first connection.
    """

    def __call__(self, number: int, instruments: Sequence[str], delay_s: float) -> Shard: ...


class Shards:
    """The shards of one connector.

    Args:
        make: see there.
        size: instruments that one may carry.
        most: shards at most; None: no limit.
        spacing_s: pause between the first connections of two shards.

    Attributes:
        all: shards in the order they were made; the first is never closed.
        overflow: instruments for which no shard has room, in the order they came.
    """

    def __init__(self, make: MakeShard, *, size: int, most: int | None = None, spacing_s: float = 0.0) -> None:
        self.all: list[Shard] = []
        self.overflow: dict[str, None] = {}
        self._make = make
        self._size = size
        self._most = most
        self._spacing_s = spacing_s
        self._made = 0
        self._next_open_s = 0.0
        self._home: dict[str, Shard] = {}

    @property
    def placed(self) -> int:
        """Instruments on some shard."""
        return len(self._home)

    @property
    def instruments(self) -> list[str]:
        """Everything that was added, with what has overflowed."""
        return [*self._home, *self.overflow]

    def open(self, instruments: Sequence[str] = ()) -> Shard:
        """Another shard, also without instruments."""
        now_s = time.monotonic()
        opens_s = max(now_s, self._next_open_s)
        self._next_open_s = opens_s + self._spacing_s
        shard = self._make(self._made, instruments, opens_s - now_s)
        self._made += 1
        self.all.append(shard)
        self._home.update(dict.fromkeys(instruments, shard))
        return shard

    def add(self, instruments: Iterable[str]) -> None:
        """Place instruments; those that are placed already are left alone, those without room overflow."""
        fresh = [name for name in dict.fromkeys(instruments) if name not in self._home]
        while fresh:
            shard = min(self.all, key=lambda shard: shard.requested, default=None)
            room = self._size - shard.requested if shard else 0
            if shard is not None and room > 0:
                shard.add(fresh[:room])
                self._home.update(dict.fromkeys(fresh[:room], shard))
            elif self._most is None or len(self.all) < self._most:
                room = self._size
                self.open(fresh[:room])
            else:
                break
            for name in fresh[:room]:
                self.overflow.pop(name, None)
            fresh = fresh[room:]
        if new := [name for name in fresh if name not in self.overflow]:
            self.overflow.update(dict.fromkeys(new))
            log.error(
                "no room for instruments", instruments=len(new), first=new[:5], shards=len(self.all), size=self._size
            )

    def remove(self, instruments: Iterable[str]) -> None:
        """Unsubscribe instruments, and give their room to what has overflowed. Unknown ones are left alone."""
        leaving: dict[Shard, list[str]] = {}
        for name in instruments:
            self.overflow.pop(name, None)
            if shard := self._home.pop(name, None):
                leaving.setdefault(shard, []).append(name)
        for shard, names in leaving.items():
            shard.remove(names)
        if self.overflow and leaving:
            self.add(list(self.overflow))

    def tidy(self, wanted: Collection[str]) -> int:
        """Make what is placed what is wanted, ask again for what was refused, close shards that carry nothing.

        Returns:
            How many instruments were not as wanted: 0, unless something was lost on the way.
        """
        surplus = [name for name in (*self._home, *self.overflow) if name not in wanted]
        missing = [name for name in wanted if name not in self._home and name not in self.overflow]
        self.remove(surplus)
        self.add([*self.overflow, *missing])
        for shard in self.all[:]:
            shard.retry_refused()
            if not shard.instruments and shard is not self.all[0]:
                shard.retire("no instruments left")
                self.all.remove(shard)
        return len(surplus) + len(missing)
