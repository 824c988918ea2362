"""A chunk's messages about books, in the order in which they came."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from ssmd_core.messages.lines import Line
from ssmd_core.proof.rules import Hole, HourChunk

_TYPES: Final = ("book", "price_change", "last_trade_price", "tick_size_change")


def in_order(chunk: HourChunk) -> Iterator[tuple[str, Line | Hole | int]]:
    """Holes, replies and events, and the numbers of the lines that say something of books, as they came."""
    numbers, nats, kinds = [], [], []
    for code, kind in enumerate(_TYPES):
        table = chunk.tables.get(kind)
        if table is not None and len(table):
            lines, first = np.unique(chunk.numbers[kind], return_index=True)
            numbers.append(lines)
            nats.append(table["_nats_seq"].to_numpy()[first])
            kinds.append(np.full(len(lines), code))
    apart: list[tuple[int, int, Line | Hole]] = sorted(
        [
            *((hole.nats_seq, 0, hole) for hole in chunk.holes),
            *((line.nats_seq, 1, line) for line in chunk.others),
        ],
        key=lambda entry: entry[:2],
    )
    at = 0
    if numbers:
        seqs = np.concatenate(nats)
        order = np.argsort(seqs, kind="stable")
        lines = np.concatenate(numbers)[order].tolist()
        for seq, code, number in zip(seqs[order].tolist(), np.concatenate(kinds)[order].tolist(), lines, strict=True):
            while at < len(apart) and apart[at][0] <= seq:
                yield "", apart[at][2]
                at += 1
            yield _TYPES[code], number
    for _, _, what in apart[at:]:
        yield "", what
