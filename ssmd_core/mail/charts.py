"""Pictures of a mail: a day's hours, and a score over some days. Shapes only; what must be read stands beside them.

The ground is transparent, and every colour has a contrast of at least 3:1 against white and against the near-black
(#121212) of dark readers. Drawn at twice their size, for screens that show two dots a pixel.
"""

from __future__ import annotations

import struct
import zlib
from decimal import Decimal
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ssmd_core.text import Score

Pixels = npt.NDArray[np.uint8]
_Weights = npt.NDArray[np.float64]

_GREEN, _AMBER, _RED, _BLUE, _GREY = (30, 142, 78), (198, 116, 0), (211, 47, 47), (58, 124, 196), (122, 128, 136)
#: Height and width of one hour's cell, and the gap to the next.
_CELL, _GAP = 46, 4
STRIP_WIDTH, STRIP_HEIGHT = 24 * (_CELL + _GAP) - _GAP, _CELL
TREND_WIDTH, TREND_HEIGHT = STRIP_WIDTH, 150
#: Scores from which a day is well, and from which it is not bad: the lines of a trend.
GOOD, FAIR = 85, 60
_SCALE_FROM = 50
# Half the size of a day's mark.
_MARK = 10


def png(pixels: Pixels) -> bytes:
    """A PNG file of RGBA pixels, shape (height, width, 4).

    A palette of at most 256 colours, with 6 steps of transparency, makes it a third as large as all bytes of the pixels
    would (2 to 5 kB for a month's trend).

    Raises:
        ValueError: there are more colours.
    """
    height, width, _ = pixels.shape
    pixels = pixels.copy()
    pixels[..., 3] = np.uint8(51) * ((pixels[..., 3] // 3 + 8) // 17)
    pixels[pixels[..., 3] == 0] = 0
    packed, places = np.unique(pixels.reshape(-1).view(np.uint32), return_inverse=True)
    if len(packed) > 256:
        raise ValueError(f"{len(packed)} colours do not fit into a palette of 256")
    colours = packed.view(np.uint8).reshape(-1, 4)
    lines = np.zeros((height, 1 + width), np.uint8)
    lines[:, 1:] = places.reshape(height, width)
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = (
        (b"IHDR", header),
        (b"PLTE", colours[:, :3].tobytes()),
        (b"tRNS", colours[:, 3].tobytes()),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


@lru_cache(maxsize=64)
def strip(words: tuple[str | None, ...]) -> bytes:
    """24 hours side by side, each told apart by its pattern as well as by its colour (see `swatch`)."""
    picture = _blank(STRIP_HEIGHT, STRIP_WIDTH)
    for hour, word in enumerate(words[:24]):
        left = hour * (_CELL + _GAP)
        picture[:, left : left + _CELL] = _cell(word)
    return png(picture)


@lru_cache(maxsize=8)
def swatch(word: str | None) -> bytes:
    """One hour's cell: `complete` full, `degraded` striped, `empty` an outline, `missing` crossed out, else dots."""
    return png(_cell(word))


@lru_cache(maxsize=64)
def trend(scores: tuple[Score, ...]) -> bytes:
    """Scores of neighbouring days, oldest first, with dashed lines at 85 and 60.

    The scale goes to 100, from 50 or from the tens below the lowest score. A day without a score breaks the line. Days
    are dots if well, squares if fair, crosses if bad.
    """
    picture = _blank(TREND_HEIGHT, TREND_WIDTH)
    margin = 18.0
    known = [float(score) for score in scores if score is not None]
    floor = min(_SCALE_FROM, 10 * int(max(0.0, min(known, default=_SCALE_FROM)) // 10))

    def y_of(score: Decimal | int) -> float:
        share = (min(100.0, max(floor, float(score))) - floor) / (100 - floor)
        return margin + (TREND_HEIGHT - 2 * margin) * (1 - share)

    for level in (GOOD, FAIR):
        y = y_of(level)
        for left in range(0, TREND_WIDTH, 24):
            picture[round(y) - 1 : round(y) + 1, left : left + 12] = (*_GREY, 150)
    step = (TREND_WIDTH - 2 * margin) / max(1, len(scores) - 1)
    points = [None if score is None else (margin + step * day, y_of(score)) for day, score in enumerate(scores)]
    for one, other in pairwise(points):
        if one is not None and other is not None:
            _line(picture, one, other, 3.5, _BLUE)
    for score, point in zip(scores, points, strict=True):
        if point is not None and score is not None:
            _mark(picture, point, score)
    return png(picture)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _blank(height: int, width: int) -> Pixels:
    return np.zeros((height, width, 4), np.uint8)


def _cell(word: str | None) -> Pixels:
    picture = _blank(_CELL, _CELL)
    rows, columns = np.mgrid[0:_CELL, 0:_CELL]
    edge = np.minimum.reduce([rows, columns, _CELL - 1 - rows, _CELL - 1 - columns])
    match word:
        case "complete":
            picture[:] = (*_GREEN, 255)
        case "degraded":
            picture[(edge < 4) | ((rows + columns) % 18 < 9)] = (*_AMBER, 255)
        case "empty":
            picture[edge < 4] = (*_BLUE, 255)
        case "missing":
            cross = np.minimum(abs(rows - columns), abs(rows + columns - (_CELL - 1)))
            picture[(cross >= 5) | (edge < 4)] = (*_RED, 255)
        case _:
            picture[((rows % 14 - 7) ** 2 + (columns % 14 - 7) ** 2 <= 9)] = (*_GREY, 255)
    return picture


def _line(
    picture: Pixels, one: tuple[float, float], other: tuple[float, float], half: float, colour: tuple[int, ...]
) -> None:
    """A line with smooth edges, `half` pixels to each side."""
    (x0, y0), (x1, y1) = one, other
    area, columns, rows = _around(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1), half)
    along = ((columns - x0) * (x1 - x0) + (rows - y0) * (y1 - y0)) / max(1e-9, (x1 - x0) ** 2 + (y1 - y0) ** 2)
    along = np.clip(along, 0, 1)
    distance = np.hypot(columns - x0 - along * (x1 - x0), rows - y0 - along * (y1 - y0))
    _paint(picture[area], np.clip(half + 0.5 - distance, 0, 1), colour)


def _mark(picture: Pixels, point: tuple[float, float], score: Decimal | int) -> None:
    x, y = point
    if score < FAIR:
        for corner in (-_MARK, _MARK):
            _line(picture, (x - _MARK, y - corner), (x + _MARK, y + corner), 4.0, _RED)
        return
    area, columns, rows = _around(x, y, x, y, _MARK + 2)
    if score >= GOOD:
        distance, colour = np.hypot(columns - x, rows - y) - _MARK, _GREEN
    else:
        distance, colour = np.maximum(abs(columns - x), abs(rows - y)) - _MARK, _AMBER
    _paint(picture[area], np.clip(0.5 - distance, 0, 1), colour)


def _around(
    left: float, top: float, right: float, bottom: float, margin: float
) -> tuple[tuple[slice, slice], npt.NDArray[Any], npt.NDArray[Any]]:
    """Part of a trend's pixels, with the x and y of each."""
    first_x, last_x = max(0, int(left - margin) - 1), min(TREND_WIDTH, int(right + margin) + 3)
    first_y, last_y = max(0, int(top - margin) - 1), min(TREND_HEIGHT, int(bottom + margin) + 3)
    rows, columns = np.mgrid[first_y:last_y, first_x:last_x]
    return (slice(first_y, last_y), slice(first_x, last_x)), columns, rows


def _paint(area: Pixels, weights: _Weights, colour: tuple[int, ...]) -> None:
    """Lay a colour over pixels, each with a weight of 0 to 1."""
    covered = weights > 0
    area[covered, :3] = colour
    area[..., 3] = np.maximum(area[..., 3], np.round(weights * 255).astype(np.uint8))
