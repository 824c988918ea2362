"""What a venue's REST interface answers from, and the little that all of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import orjson
from aiohttp import web

from ssmd_stream.replay.protocol import Exchange
from ssmd_stream.replay.recording import Recording
from ssmd_stream.replay.venues_rest.tape import Tape

_EXACT = msgspec.json.Encoder(decimal_format="number")


@dataclass(frozen=True, slots=True)
class RestSource:
    """Where answers come from; a venue's module takes the first that it can use.

    Attributes:
        now_ns: exchange time, epoch nanoseconds.
        listing: what a test hands to `ReplayServer(listing=...)`; each venue's module says of which type.
        exchange: the generated market, if there is one.
        recording: the recording that is being played, if there is one.
        tape: the trades that have been sent.
    """

    now_ns: Callable[[], int]
    listing: Any = None
    exchange: Exchange | None = None
    recording: Recording | None = None
    tape: Tape = field(default_factory=lambda: Tape(""))


def number_of(request: web.Request, name: str, default: int) -> int:
    """A query parameter of digits."""
    text = request.query.get(name, "")
    return int(text) if text.isdigit() else default


def json_response(value: object, status: int = 200) -> web.Response:
    """A JSON body."""
    return web.Response(status=status, body=orjson.dumps(value), content_type="application/json")


def exact_response(value: object) -> web.Response:
    """A JSON body in which each `Decimal` is a number with just these digits."""
    return web.Response(body=_EXACT.encode(value), content_type="application/json")
