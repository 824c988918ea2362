"""Where completions come from: Anthropic through its SDK, or any service that speaks OpenAI's API.

The operator's environment alone says where that is and with which key; nothing of a client's request goes into a URL or
a header, and redirects are not followed. What an upstream answers to a fault stays here: a client gets its kind, never
its text.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx2
import msgspec
import structlog

from ssmd_api.errors import ApiError, InvalidRequestError, TookTooLongError, UnavailableError, UpstreamError
from ssmd_api.llm.anthropic_wire import checked_tokens, reply_of, request_of
from ssmd_api.llm.wire import AnswerMessage, ChatRequest, FunctionCall, Reply, ToolCall
from ssmd_core.errors import ConfigError

log = structlog.get_logger()

TIMEOUT_S = 60.0
_CONNECT_TIMEOUT_S = 5.0
_MAX_ANSWER_BYTES = 4 * 1024 * 1024
_MAX_CONNECTIONS = 32
_MAX_RETRY_AFTER_S = 3600
_KIND = re.compile(r"[a-z0-9_]{1,64}")
# What an upstream refuses because of the request, rather than because of who asks or its own state.
_CLIENTS_FAULT = {400, 413, 422}
_BUSY = {429, 529}


class BusyUpstreamError(UnavailableError):
    """The upstream has too much to do.

    Attributes:
        retry_after_s: how long it asks to wait; None if it did not tell.
    """

    def __init__(self, message: str, retry_after_s: int | None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Upstream(Protocol):
    """Gives completions.

    Attributes:
        name: for logs.
    """

    name: str

    async def complete(self, request: ChatRequest, model: str) -> Reply:
        """One completion.

        Args:
            model: the upstream's name for it.

        Raises:
            ApiError: it did not answer, or not as its API promises.
        """


@asynccontextmanager
async def open_upstream(
    environment: Mapping[str, str], *, timeout_s: float = TIMEOUT_S
) -> AsyncIterator[Upstream | None]:
    """The upstream that the environment names; None if it names none.

    Args:
        environment: `ANTHROPIC_API_KEY` (and `ANTHROPIC_BASE_URL`), or `SSMD_LLM_BASE_URL` and `SSMD_LLM_API_KEY`.

    Raises:
        ConfigError: both are named, or a URL is none.
    """
    key, base_url = environment.get("ANTHROPIC_API_KEY", ""), environment.get("SSMD_LLM_BASE_URL", "")
    if key and base_url:
        raise ConfigError("ANTHROPIC_API_KEY and SSMD_LLM_BASE_URL name two upstreams: unset one")
    if not key and not base_url:
        yield None
        return
    anthropic_url = environment.get("ANTHROPIC_BASE_URL") or "https://api.anthropic.com"
    _check_url("ANTHROPIC_BASE_URL" if key else "SSMD_LLM_BASE_URL", anthropic_url if key else base_url)
    client = httpx2.AsyncClient(
        transport=_Bounded(httpx2.AsyncHTTPTransport(limits=httpx2.Limits(max_connections=_MAX_CONNECTIONS))),
        timeout=httpx2.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S, pool=_CONNECT_TIMEOUT_S),
        # A compressed answer of 4 MB may hold gigabytes.
        headers={"Accept-Encoding": "identity"},
        follow_redirects=False,
        trust_env=False,
    )
    async with client:
        if key:
            yield AnthropicUpstream(client, key, anthropic_url, timeout_s)
        else:
            yield OpenAiUpstream(client, environment.get("SSMD_LLM_API_KEY", ""), base_url, timeout_s)


class AnthropicUpstream:
    """Anthropic's messages API."""

    name = "anthropic"

    def __init__(self, client: httpx2.AsyncClient, key: str, base_url: str, timeout_s: float) -> None:
        # Imported here: it takes longer than the whole API.
        import anthropic

        self._sdk = anthropic
        self._timeout_s = timeout_s
        # Without retries: they would take longer than a client waits, and it knows better whether it wants any.
        self._client = anthropic.AsyncAnthropic(api_key=key, base_url=base_url, http_client=client, max_retries=0)

    async def complete(self, request: ChatRequest, model: str) -> Reply:
        """See `Upstream`."""
        arguments = request_of(request, model)
        sdk = self._sdk
        try:
            async with asyncio.timeout(self._timeout_s):
                raw = await self._client.messages.with_raw_response.create(
                    **arguments, timeout=httpx2.Timeout(self._timeout_s, connect=_CONNECT_TIMEOUT_S)
                )
        except TimeoutError as error:
            raise _too_long(self._timeout_s) from error
        except sdk.APIStatusError as error:
            raise _refused(self.name, error.response) from error
        except sdk.APIConnectionError as error:  # timeouts are among them
            raise _failed(self.name, error.__cause__ or error, self._timeout_s) from error
        return reply_of(raw.http_response.content)


class OpenAiUpstream:
    """A service that speaks OpenAI's chat completions."""

    name = "openai"

    def __init__(self, client: httpx2.AsyncClient, key: str, base_url: str, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    async def complete(self, request: ChatRequest, model: str) -> Reply:
        """See `Upstream`."""
        given = {name: value for name, value in msgspec.to_builtins(request).items() if value is not None}
        body = msgspec.json.encode({**given, "model": model, "stream": False})
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._client.post(self._url, content=body, headers=self._headers)
        except TimeoutError as error:
            raise _too_long(self._timeout_s) from error
        except (httpx2.HTTPError, OSError) as error:
            raise _failed(self.name, error, self._timeout_s) from error
        if not response.is_success:
            raise _refused(self.name, response)
        return _openai_reply(response.content)


class _OpenAiFunction(msgspec.Struct, kw_only=True):
    name: str
    arguments: str = ""


class _OpenAiCall(msgspec.Struct, kw_only=True):
    id: str
    function: _OpenAiFunction


class _OpenAiPart(msgspec.Struct, kw_only=True):
    type: str
    text: str = ""


class _OpenAiMessage(msgspec.Struct, kw_only=True):
    content: str | list[_OpenAiPart] | None = None
    refusal: str | None = None
    tool_calls: list[_OpenAiCall] | None = None


class _OpenAiChoice(msgspec.Struct, kw_only=True):
    message: _OpenAiMessage
    finish_reason: str | None = None


class _OpenAiUsage(msgspec.Struct, kw_only=True):
    prompt_tokens: int
    completion_tokens: int


class _OpenAiAnswer(msgspec.Struct, kw_only=True):
    choices: list[_OpenAiChoice]
    id: str = ""
    usage: _OpenAiUsage | None = None


def _openai_reply(body: bytes) -> Reply:
    try:
        answer = msgspec.json.decode(body, type=_OpenAiAnswer)
        choice = answer.choices[0]
    except (msgspec.DecodeError, RecursionError, IndexError) as error:
        raise UpstreamError("the upstream's answer is not a chat completion") from error
    told = choice.message
    content = told.content
    if isinstance(content, list):
        content = "".join(part.text for part in content)
    message = AnswerMessage(content=content, refusal=told.refusal)
    if told.tool_calls:
        message.tool_calls = [
            ToolCall(id=call.id, function=FunctionCall(call.function.name, call.function.arguments or "{}"))
            for call in told.tool_calls
        ]
    tokens = None if answer.usage is None else (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    return Reply(id=answer.id, message=message, finish_reason=choice.finish_reason, tokens=checked_tokens(tokens))


class _TooLargeError(httpx2.TransportError):
    """An answer above the limit, or one that is packed so that its size cannot be known."""


class _Bounded(httpx2.AsyncBaseTransport):
    """A transport whose answers have a limit."""

    def __init__(self, inner: httpx2.AsyncHTTPTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """One request."""
        response = await self._inner.handle_async_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise _TooLargeError("the answer is compressed, which was not asked for")
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _BoundedStream(response.stream)
        return response

    async def aclose(self) -> None:
        """Close all connections."""
        await self._inner.aclose()


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._inner:
            size += len(part)
            if size > _MAX_ANSWER_BYTES:
                raise _TooLargeError(f"the answer has more than {_MAX_ANSWER_BYTES} bytes")
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()


def _check_url(name: str, text: str) -> None:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise ConfigError(f"{name}: not a URL: {error}") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ConfigError(f"{name}: not of the form https://host[:port][/path]")


def _too_long(timeout_s: float) -> ApiError:
    return TookTooLongError(f"the model gave no answer within {timeout_s:.0f} s")


def _failed(name: str, error: BaseException, timeout_s: float) -> ApiError:
    """What a client is told of a connection that failed."""
    log.warning("llm_upstream_failed", upstream=name, error=f"{type(error).__name__}: {error}")
    if isinstance(error, (httpx2.ReadTimeout, httpx2.WriteTimeout)):
        return _too_long(timeout_s)
    if isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)):
        return UnavailableError("the upstream cannot be reached now")
    if isinstance(error, _TooLargeError):
        return UpstreamError("the upstream's answer is too large")
    return UpstreamError("the upstream broke off its answer")


def _refused(name: str, response: httpx2.Response) -> ApiError:
    kind = _kind(response)
    log.warning("llm_upstream_refused", upstream=name, status=response.status_code, kind=kind)
    status = response.status_code
    if status in _CLIENTS_FAULT:
        return InvalidRequestError(f"the upstream cannot use the request{f' ({kind})' if kind else ''}")
    if status in _BUSY:
        return BusyUpstreamError("the upstream is at its limit; try again later", _retry_after_s(response))
    if status >= 500:
        return UpstreamError(f"the upstream failed with status {status}")
    return UpstreamError(f"the upstream does not serve this installation: status {status}")


def _kind(response: httpx2.Response) -> str:
    """The one word by which both APIs name a fault, e.g. `context_length_exceeded`; "" if there is none."""
    try:
        error: Any = msgspec.json.decode(response.content)["error"]
        words = [error.get("code"), error.get("type")]
    except (msgspec.DecodeError, RecursionError, LookupError, TypeError, AttributeError):
        return ""
    return next((word for word in words if isinstance(word, str) and _KIND.fullmatch(word)), "")


def _retry_after_s(response: httpx2.Response) -> int | None:
    text = response.headers.get("retry-after", "")
    return int(text) if text.isascii() and text.isdigit() and int(text) <= _MAX_RETRY_AFTER_S else None
