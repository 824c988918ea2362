"""What can go wrong, as exceptions of one family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

_HOUR = timedelta(hours=1)
_SPANS_SHOWN = 8


class ClientError(Exception):
    """Anything that this client cannot do."""


class ApiError(ClientError):
    """The API refused, or could not be reached.

    Attributes:
        status: HTTP status; 0 if there was no answer.
        code: the API's word for programs, e.g. `forbidden`, `rate_limited`; `unreachable` if there was no answer.
        request_id: finds the request in the API's log; "" if there is none.
        field: the parameter at fault; "" if none is.
    """

    def __init__(self, message: str, *, status: int = 0, code: str = "", request_id: str = "", field: str = "") -> None:
        self.status, self.code, self.request_id, self.field = status, code, request_id, field
        where = f" (status {status}, {code}, request {request_id or 'without id'})" if status else f" ({code})"
        super().__init__(message + where)


class IntegrityError(ClientError):
    """A file is not what the API says it is: its size, its SHA-256, or its path."""


@dataclass(frozen=True, slots=True)
class MissingHours:
    """Hours of one stream that are not there in full, though they have ended.

    Attributes:
        feed, stream: whose; stream "*" for all.
        state: `missing`: nothing of them was archived. `not_built`: archived, but without datasets. `not_proved`:
            archived, but without a ledger (of `kind="proof"`). `partial`: some of their four quarters; what was built
            of them is in the files. `not_allowed`: the key does not reach them.
        hours: their starts, UTC, in order.
    """

    feed: str
    stream: str
    state: str
    hours: tuple[datetime, ...]

    def __str__(self) -> str:
        """As `kraken/spot missing 2026-11-20T12 to 2026-11-20T23 (12 h)`."""
        spans = _spans(self.hours)
        shown = [f"{first:%Y-%m-%dT%H}" + (f" to {last:%Y-%m-%dT%H}" if last > first else "") for first, last in spans]
        more = f" and {len(shown) - _SPANS_SHOWN} spans more" if len(shown) > _SPANS_SHOWN else ""
        spans_text = ", ".join(shown[:_SPANS_SHOWN])
        return f"{self.feed}/{self.stream} {self.state.replace('_', ' ')} {spans_text}{more} ({len(self.hours)} h)"


def _told(missing: Sequence[MissingHours]) -> str:
    return "hours are not there in full: " + "; ".join(map(str, missing))


class MissingHoursError(ClientError):
    """Hours of the range are missing, and the caller wanted all.

    Attributes:
        missing: which, by stream.
    """

    def __init__(self, missing: Sequence[MissingHours]) -> None:
        super().__init__(_told(missing))
        self.missing = tuple(missing)


class MissingHoursWarning(UserWarning):
    """Hours of the range are missing; what is there is given.

    Attributes:
        missing: which, by stream.
    """

    def __init__(self, missing: Sequence[MissingHours]) -> None:
        super().__init__(_told(missing))
        self.missing = tuple(missing)


def _spans(hours: Sequence[datetime]) -> list[tuple[datetime, datetime]]:
    """First and last of each run of hours without a break."""
    spans: list[tuple[datetime, datetime]] = []
    for hour in hours:
        if spans and hour - spans[-1][1] == _HOUR:
            spans[-1] = (spans[-1][0], hour)
        else:
            spans.append((hour, hour))
    return spans
