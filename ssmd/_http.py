"""Requests to the API: the key, errors, retries."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping
from typing import Any

import httpx2

from ssmd.errors import ApiError

Row = dict[str, Any]

ATTEMPTS = 5
TIMEOUT_S = 60.0
#: Longer waits than this are the caller's to decide on.
MAX_WAIT_S = 65.0
_FIRST_WAIT_S = 0.25
#: Not 504: the same question would take as long again.
_RETRIED = frozenset({429, 500, 502, 503})
#: Twice what the API ever sends.
_MAX_ANSWER_BYTES = 64 * 1024 * 1024
_MAX_TEXT_CHARS = 500


class Http:
    """One API and one key.

    Args:
        url: base URL.
        key: sent to this API only, never to where a signed URL points.
    """

    def __init__(self, url: str, key: str) -> None:
        self._has_key = bool(key)
        self._api = httpx2.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=TIMEOUT_S,
            follow_redirects=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    def json(self, path: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object of a GET; parameters that are None are left out.

        Raises:
            ApiError: it refused, or could not be reached within five attempts.
        """
        wanted = {name: text(value) for name, value in parameters.items() if value is not None}
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self._api.stream("GET", path, params=wanted) as response:
                    body = _read(response)
                error = None if response.status_code == 200 else error_of(response, body)
            except httpx2.TransportError as problem:
                error = unreachable(problem)
                response = None
            if error is None:
                return _parsed(body)
            if error.status == 401 and not self._has_key:
                raise ApiError("no API key: set SSMD_API_KEY, or give Client(key=…)", status=401, code=error.code)
            wait_s = wait_before_retry_s(error.status, response, attempt)
            if wait_s is None:
                raise error
            time.sleep(wait_s)
        raise AssertionError  # the last attempt returned or raised


def wait_before_retry_s(status: int, response: httpx2.Response | None, attempt: int) -> float | None:
    """How long to wait before the next attempt; None if there is no point in one.

    Args:
        status: 0 for a connection that failed.
        attempt: 1 for the first.
    """
    if attempt >= ATTEMPTS or (status and status not in _RETRIED):
        return None
    told = response.headers.get("retry-after", "") if response is not None else ""
    if told.isascii() and told.isdigit():
        return float(told) if float(told) <= MAX_WAIT_S else None
    # Half of it by chance, so that clients which failed together do not return together.
    wait_s: float = _FIRST_WAIT_S * 2 ** (attempt - 1)
    return wait_s * random.uniform(0.5, 1.0)


def unreachable(problem: httpx2.TransportError) -> ApiError:
    """The error for a connection that failed."""
    return ApiError(f"no answer: {problem or type(problem).__name__}", code="unreachable")


def error_of(response: httpx2.Response, body: bytes) -> ApiError:
    """The error that an answer tells of."""
    try:
        told = json.loads(body)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        told = {}
    request_id = told.get("requestId") or response.headers.get("x-request-id") or ""
    return ApiError(
        _short(told.get("error") or response.reason_phrase or "refused"),
        status=response.status_code,
        code=_short(told.get("code") or "http"),
        request_id=_short(request_id),
        field=_short(told.get("field") or ""),
    )


def text(value: Any) -> str:
    """A parameter as the API reads it: lists with commas, dates and times in ISO 8601."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ",".join(map(text, value))
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _read(response: httpx2.Response) -> bytes:
    body = bytearray()
    for part in response.iter_bytes():
        body += part
        if len(body) > _MAX_ANSWER_BYTES:
            raise ApiError(f"the answer has more than {_MAX_ANSWER_BYTES} bytes", code="too_large")
    return bytes(body)


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError as error:
        raise ApiError(f"the answer is not JSON: {error}", code="bad_answer") from None
    if not isinstance(value, dict):
        raise ApiError(f"the answer is a {type(value).__name__}, not an object", code="bad_answer")
    return value


def _short(value: object) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in str(value)[:_MAX_TEXT_CHARS])


def rows_of(answer: Row, name: str) -> list[Row]:
    """A list of objects in an answer.

    Raises:
        ApiError: there is none.
    """
    found = answer.get(name)
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise ApiError(f"the answer has no list {name!r}", code="bad_answer")
    return found
