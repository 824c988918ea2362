"""Sealed hours of generated messages."""

from __future__ import annotations

import itertools
from datetime import datetime
from pathlib import Path

from ssmd_core import feeds
from ssmd_core.archive.paths import Slot, hour_slots
from ssmd_core.archive.tally import UNPARSED_TYPE, classify
from ssmd_core.messages.frames import split_frame
from ssmd_core.messages.lines import format_line, needs_wrapping
from ssmd_stream.archive.folder import Folder
from ssmd_stream.replay.generator.frames import generate_frames

_EPOCH = "c0-20261122T120000000-0001"
_POOL = 20_000
_COMMIT_LINES = 10_000


def seal_hour(root: Path, feed_name: str, stream: str, hour: datetime, messages: int) -> None:
    """Archive generated messages evenly over the hour, with the archiver's own writer."""
    feed = feeds.get(feed_name)
    frames = generate_frames(feed_name, min(messages, _POOL), start_ns=int(hour.timestamp() * 1e9))
    pool = [message for frame in frames for message in split_frame(frame)]
    wrapped = [needs_wrapping(message) or classify(feed, message)[0] == UNPARSED_TYPE for message in pool]
    slots = hour_slots(hour)
    start_us = slots[0].start_us
    step_us = 3_600_000_000 / messages
    folder = Folder(root, feed, stream)
    folder.lock()
    folder.recover()
    for number, (message, wrap) in enumerate(
        itertools.islice(itertools.cycle(zip(pool, wrapped, strict=True)), messages)
    ):
        recv_us = start_us + int(number * step_us)
        if folder.starts_new(Slot.of(recv_us)):
            folder.commit()
            folder.seal_before(Slot.of(recv_us))
        opened = folder.slot_for(recv_us)
        line = format_line(message, recv_us, number + 1, _EPOCH, number, wrapped=wrap)
        opened.append(line)
        opened.tally.add_line(feed, line)
        if number % _COMMIT_LINES == 0:
            folder.commit()
    folder.commit()
    folder.seal_before(Slot.of(slots[-1].end_us))
    folder.close()
