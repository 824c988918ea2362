"""One question to a model of Anthropic, with an answer of a given form, within bounds of time, size and money.

The form is asked for as `output_config.format`: the models of late 2026 refuse a forced choice of a tool and sampling
parameters (https://platform.claude.com/docs/en/models/sonnet-5-5/migration-guide, read 2026-11-22).
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar
from urllib.parse import urlsplit

import msgspec
import structlog
from pydantic import BaseModel, ValidationError

from ssmd_core.errors import ConfigError, SsmdError
from ssmd_core.reports.evidence import Evidence
from ssmd_core.reports.prompt import system_prompt, user_message

if TYPE_CHECKING:
    import httpx2

log = structlog.get_logger()

DEFAULT_MODEL = "claude-sonnet-5-5"
TIMEOUT_S = 60.0
# What a model thinks counts, too; an answer of all the lengths that are allowed has some 5,000.
MAX_TOKENS = 8_000
MAX_ANSWER_BYTES = 1024 * 1024
_CONNECT_TIMEOUT_S = 5.0
_RETRIES = 2
_MAX_TOKENS_TOLD = 1_000_000_000
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}")
_WORD = re.compile(r"[a-z_]{1,32}")
_MTOK, _MICRO = Decimal(1_000_000), Decimal("0.000001")


class Price(NamedTuple):
    """Dollars per million tokens.

    Attributes:
        effort: whether the model takes `output_config.effort`; one that does not refuses the request.
    """

    input_usd: Decimal
    output_usd: Decimal
    effort: bool = True


PRICES_AS_OF = "2026-11-22"
#: Anthropic's list prices on that day. Haiku 5.5's is that of prompts up to 100,000 tokens, four times ours.
PRICES: Mapping[str, Price] = {
    "claude-fable-5-1": Price(Decimal(10), Decimal(50)),
    "claude-opus-5-5": Price(Decimal(4), Decimal(20)),
    "claude-opus-5": Price(Decimal(5), Decimal(25)),
    "claude-sonnet-5-5": Price(Decimal(2), Decimal(10)),
    "claude-sonnet-5": Price(Decimal(2), Decimal(10)),
    "claude-haiku-5-5": Price(Decimal("0.10"), Decimal("0.50")),
    "claude-haiku-4-5": Price(Decimal(1), Decimal(5), effort=False),
}

_Answer = TypeVar("_Answer", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Whom to ask.

    Attributes:
        key: `ANTHROPIC_API_KEY`.
        base_url: `ANTHROPIC_BASE_URL`.
        model: `SSMD_REPORT_MODEL`.
        timeout_s: of the call with its retries.
    """

    key: str = field(repr=False)
    base_url: str = "https://api.anthropic.com"
    model: str = DEFAULT_MODEL
    timeout_s: float = TIMEOUT_S

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> ModelSettings | None:
        """Read the environment; None without a key.

        Raises:
            ConfigError: the model's name or the URL can be none.
        """
        key = environment.get("ANTHROPIC_API_KEY", "").strip()
        if not key:
            return None
        if not (key.isascii() and key.isprintable() and " " not in key):
            # The client would put it into an error's text.
            raise ConfigError("ANTHROPIC_API_KEY: holds characters that no key has")
        base_url = environment.get("ANTHROPIC_BASE_URL") or "https://api.anthropic.com"
        try:
            parts = urlsplit(base_url)
            # The key goes there: without TLS no further than this machine.
            secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
            plain = base_url.isascii() and base_url.isprintable() and not {*" ?#\\"} & {*base_url}
            usable = secure and plain and parts.hostname and "@" not in parts.netloc and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise ConfigError(
                "ANTHROPIC_BASE_URL: not of the form https://host[:port][/path] (http for this machine only)"
            )
        model = environment.get("SSMD_REPORT_MODEL") or DEFAULT_MODEL
        if not _NAME.fullmatch(model):
            raise ConfigError(f"SSMD_REPORT_MODEL {model!r} is not a model's name such as {DEFAULT_MODEL}")
        return cls(key, base_url, model)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call took.

    Attributes:
        model: that was asked.
        stop_reason: the provider's word; None if it did not tell.
        input_tokens, output_tokens: None if not told.
    """

    model: str
    stop_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None

    @property
    def cost_usd(self) -> Decimal | None:
        """By `PRICES`, to the millionth; None if the price or the tokens are not known."""
        price = PRICES.get(self.model)
        if price is None or self.input_tokens is None or self.output_tokens is None:
            return None
        cost = (self.input_tokens * price.input_usd + self.output_tokens * price.output_usd) / _MTOK
        return cost.quantize(_MICRO, ROUND_HALF_UP)


@dataclass(frozen=True, slots=True)
class Answered(Generic[_Answer]):
    """An answer of the form that was asked for."""

    answer: _Answer
    usage: Usage


class ModelFailure(SsmdError):
    """No answer that can be used; the text says why, in ssmd's own words, never the provider's or the model's.

    Attributes:
        usage: what it took all the same.
    """

    def __init__(self, reason: str, usage: Usage) -> None:
        super().__init__(reason)
        self.usage = usage


class _Block(msgspec.Struct):
    type: str
    text: str = ""


class _Tokens(msgspec.Struct):
    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class _Message(msgspec.Struct):
    content: list[_Block]
    stop_reason: str | None = None
    usage: _Tokens | None = None


async def ask(settings: ModelSettings, evidence: Evidence, form: type[_Answer]) -> Answered[_Answer]:
    """Ask once; the provider's passing faults are tried again within the time.

    Args:
        form: of the answer.

    Raises:
        ModelFailure: no answer, or not one of that form, or one that repeats the mark of its instructions.
    """
    canary = f"mark-{secrets.token_hex(16)}"
    usage = Usage(settings.model)
    try:
        async with asyncio.timeout(settings.timeout_s):
            content = await _call(settings, evidence, form, canary)
    except TimeoutError:
        raise ModelFailure(f"the model gave no answer within {settings.timeout_s:g} s", usage) from None
    return _read(content, usage, form, canary)


async def _call(settings: ModelSettings, evidence: Evidence, form: type[BaseModel], canary: str) -> bytes:
    usage = Usage(settings.model)
    try:
        # Imported here: together they take longer than all else, and most installations have no key.
        import anthropic
        import httpx2
    except ImportError:
        raise ModelFailure("the package anthropic is not installed", usage) from None
    client = httpx2.AsyncClient(
        transport=_bounded(httpx2.AsyncHTTPTransport()),
        # A compressed answer of 1 MB may hold gigabytes.
        headers={"Accept-Encoding": "identity"},
        follow_redirects=False,
        trust_env=False,
    )
    output: Any = {"format": {"type": "json_schema", "schema": anthropic.transform_schema(form)}}
    price = PRICES.get(settings.model)
    if price is not None and price.effort:
        output["effort"] = "low"
    async with client:
        sdk = anthropic.AsyncAnthropic(
            api_key=settings.key, base_url=settings.base_url, http_client=client, max_retries=_RETRIES
        )
        try:
            raw = await sdk.messages.with_raw_response.create(
                model=settings.model,
                max_tokens=MAX_TOKENS,
                system=system_prompt(evidence.kind, canary),
                messages=[{"role": "user", "content": user_message(evidence)}],
                output_config=output,
                timeout=httpx2.Timeout(settings.timeout_s, connect=_CONNECT_TIMEOUT_S),
            )
        except anthropic.APIStatusError as error:
            raise ModelFailure(f"the provider answered with status {error.status_code}", usage) from error
        except anthropic.APIConnectionError as error:  # timeouts are among them
            cause = error.__cause__ or error
            log.warning("report_model_failed", error=f"{type(cause).__name__}: {cause}")
            raise ModelFailure(_connection_failure(cause), usage) from error
        except (anthropic.AnthropicError, httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            log.warning("report_model_failed", error=f"{type(error).__name__}: {error}")
            raise ModelFailure("the provider's answer cannot be read", usage) from error
        return raw.http_response.content


def _read(content: bytes, usage: Usage, form: type[_Answer], canary: str) -> Answered[_Answer]:
    try:
        message = msgspec.json.decode(content, type=_Message)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise ModelFailure("the provider's answer is not a message of its API", usage) from None
    usage = _usage(message, usage.model)
    if _repeats(canary, content):
        raise ModelFailure("the answer repeats the secret mark of its instructions", usage)
    if message.stop_reason != "end_turn":
        raise ModelFailure(f"the model stopped with {usage.stop_reason or 'no reason'} instead of an end", usage)
    text = "".join(block.text for block in message.content if block.type == "text")
    try:
        return Answered(form.model_validate_json(text), usage)
    except (ValidationError, RecursionError) as error:
        faults = error.error_count() if isinstance(error, ValidationError) else 1
        log.warning("report_answer_invalid", faults=faults, chars=len(text))
        raise ModelFailure("the answer is not of the form that was asked for", usage) from None


def _usage(message: _Message, model: str) -> Usage:
    word = message.stop_reason
    stop_reason = word if word is None or _WORD.fullmatch(word) else "unknown"
    told = message.usage
    if told is None:
        return Usage(model, stop_reason)
    inputs = told.input_tokens + (told.cache_creation_input_tokens or 0) + (told.cache_read_input_tokens or 0)
    if not all(0 <= count <= _MAX_TOKENS_TOLD for count in (inputs, told.output_tokens)):
        return Usage(model, stop_reason)
    return Usage(model, stop_reason, inputs, told.output_tokens)


def _repeats(canary: str, content: bytes) -> bool:
    """Whether the mark is in the answer, however its letters are set apart or escaped."""
    mark = canary.removeprefix("mark-")
    texts = [content.decode("utf-8", "replace")]
    for _ in range(2):  # text in JSON in JSON
        texts.append(re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), texts[-1]))
    return any(mark in re.sub(r"[^0-9a-f]", "", text.lower()) or mark in text.lower() for text in texts)


def _connection_failure(cause: BaseException) -> str:
    name = type(cause).__name__
    if isinstance(cause, TimeoutError) or "Timeout" in name:
        return "the model gave no answer in time"
    if "TooLarge" in name:
        return f"the answer has more than {MAX_ANSWER_BYTES:,} bytes, or is compressed"
    return "the provider cannot be reached" if "Connect" in name else "the provider broke off its answer"


def _bounded(inner: httpx2.AsyncHTTPTransport) -> httpx2.AsyncBaseTransport:
    """A transport whose answers have a limit, which is enforced while they are read."""
    import httpx2

    class TooLargeError(httpx2.TransportError):
        pass

    class Stream(httpx2.AsyncByteStream):
        def __init__(self, stream: httpx2.AsyncByteStream) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for part in self._stream:
                size += len(part)
                if size > MAX_ANSWER_BYTES:
                    raise TooLargeError(f"more than {MAX_ANSWER_BYTES} bytes")
                yield part

        async def aclose(self) -> None:
            await self._stream.aclose()

    class Bounded(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            response = await inner.handle_async_request(request)
            if response.headers.get("content-encoding", "identity") != "identity":
                await response.aclose()
                raise TooLargeError("compressed, which was not asked for")
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = Stream(response.stream)
            return response

        async def aclose(self) -> None:
            await inner.aclose()

    return Bounded()
