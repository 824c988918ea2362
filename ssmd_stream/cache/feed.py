"""The CDC stream as the cache follows it: one message that is no change does not end it, a hole in it does not pass."""

from __future__ import annotations

import msgspec
import structlog

from ssmd_stream.cache.stats import CacheStats
from ssmd_stream.cdc.consume import Change, ChangeError, ChangeFeed

log = structlog.get_logger()


class CacheFeed(ChangeFeed):
    """Changes after a sequence, and in the place of each message that is none an empty change (`table` is "").

    Args:
        nats_url: see `ChangeFeed`.
        after_seq: see `ChangeFeed`.
        created: see `ChangeFeed`.
        stats: counts what cannot be read.
    """

    def __init__(self, nats_url: str, *, after_seq: int, created: str, stats: CacheStats) -> None:
        super().__init__(nats_url, name="cache", after_seq=after_seq, created=created)
        self._stats = stats
        self._started_behind = after_seq
        self._handed_out = 0

    def count(self, changes: list[Change]) -> int:
        """Count a batch that was taken.

        Returns:
            How many messages before its end were never delivered: the stream was purged in between.
        """
        self._handed_out += len(changes)
        return (self.seq or 0) - self._started_behind - self._handed_out - self.duplicates

    def decode(self, seq: int, payload: bytes) -> Change:
        try:
            return super().decode(seq, payload)
        except (ChangeError, RecursionError) as error:
            self._stats.poison["json"] += 1
            log.error("change_passed_over", sequence=seq, reason="json", error=str(error))
            return Change("", "truncate", {}, msgspec.Raw(b"null"), "", 0, "", 0, "", "", stream_seq=seq)
