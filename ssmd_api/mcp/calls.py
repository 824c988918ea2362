"""One tool call: a GET of the REST interface with the caller's key, so that access, limits and audit are REST's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx2
import orjson

from ssmd_api.errors import ApiError
from ssmd_api.mcp.output import bounded, encode, error_text
from ssmd_api.mcp.tools import TOOLS, ApiRequest

TIMEOUT_S = 30.0
#: As much as REST ever answers with.
_MAX_ANSWER_BYTES = 32 * 1024 * 1024


class UnknownToolError(Exception):
    """No tool of that name."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a call gives.

    Attributes:
        value: for a program.
        failed: whether it tells of an error.
    """

    value: dict[str, Any]
    failed: bool = False

    @property
    def text(self) -> str:
        """For a model: the value as JSON."""
        return encode(self.value)


async def call_tool(api: httpx2.AsyncClient, name: str, arguments: dict[str, Any]) -> Result:
    """Call a tool; whatever the API refuses is a result that says so.

    Args:
        api: with the API's base URL and the caller's key.

    Raises:
        UnknownToolError: there is none of that name.
    """
    tool = TOOLS.get(name)
    if tool is None:
        raise UnknownToolError(f"no tool {error_text(name)!r}; there are {', '.join(TOOLS)}")
    try:
        wanted = tool.parse(arguments)
        answer = await _ask(api, wanted)
        shaped = answer if wanted.shape is None else wanted.shape(answer)
    except _RefusedError as refused:
        return Result(refused.told, failed=True)
    except ApiError as error:
        return Result(_told(error.status, error.code, str(error), field=error.field), failed=True)
    except (KeyError, TypeError):
        return Result(_told(502, "bad_answer", "the API's answer has another form than expected"), failed=True)
    told = bounded(shaped, wanted.rows, wanted.limit)
    if not told["shown"] and "as_of" in wanted.parameters:
        told.setdefault("note", "nothing of this was known then; what is known begins with the first sync")
    return Result(told)


class _RefusedError(Exception):
    """The API refused, or gave nothing that can be used."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(told["error"])
        self.told = told


async def _ask(api: httpx2.AsyncClient, wanted: ApiRequest) -> dict[str, Any]:
    """The JSON object that the API answers with.

    Raises:
        _RefusedError: it is an error, or there is none.
    """
    try:
        async with api.stream("GET", wanted.path, params=wanted.parameters) as response:
            body = await _read(response)
    except httpx2.TimeoutException:
        text = f"the API gave no answer within {TIMEOUT_S:.0f} s; ask for less"
        raise _RefusedError(_told(504, "timeout", text)) from None
    except httpx2.TransportError as error:
        text = f"the API cannot be reached: {error or type(error).__name__}"
        raise _RefusedError(_told(503, "unreachable", text)) from None
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):
        raise _RefusedError(_told(response.status_code, "bad_answer", "the API's answer is not a JSON object"))
    if response.status_code != 200:
        text = str(answer.get("error") or "refused")
        if (retry_after := response.headers.get("retry-after", "")).isdigit():
            text += f"; try again in {retry_after} s"
        more = {name: str(answer.get(name) or "") for name in ("code", "field", "requestId")}
        raise _RefusedError(
            _told(response.status_code, more["code"], text, field=more["field"], request_id=more["requestId"])
        )
    return answer


async def _read(response: httpx2.Response) -> bytes:
    body = bytearray()
    async for part in response.aiter_bytes():
        body += part
        if len(body) > _MAX_ANSWER_BYTES:
            raise _RefusedError(_told(413, "too_large", "the API's answer is too large; ask for less"))
    return bytes(body)


_WORDS = {401: "the key is not valid", 403: "forbidden", 429: "too many requests"}


def _told(status: int, code: str, text: str, *, field: str = "", request_id: str = "") -> dict[str, Any]:
    """An error as a tool tells of it; what is empty is left out."""
    word = _WORDS.get(status)
    found = {
        "error": error_text(f"{word}: {text}" if word else text),
        "status": status,
        "code": error_text(code),
        "field": error_text(field),
        "requestId": error_text(request_id),
    }
    return {name: value for name, value in found.items() if value != ""}
