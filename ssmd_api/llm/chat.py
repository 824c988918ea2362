"""One chat completion: what is allowed, guarded, sent on, counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
import psycopg
import structlog
from psycopg_pool import PoolTimeout

from ssmd_api.auth.access import Principal
from ssmd_api.errors import ForbiddenError, InvalidRequestError, UnavailableError
from ssmd_api.jsons import number_text
from ssmd_api.llm.guardrails import NotRedactableError, Pii, find_injection, find_pii, map_json_text, redact_pii
from ssmd_api.llm.options import Model, Options, options_of
from ssmd_api.llm.wire import (
    ChatAnswer,
    ChatRequest,
    Choice,
    Extra,
    Message,
    NamedTool,
    Reply,
    TextPart,
    TokenUsage,
    Tool,
    check_depth,
)
from ssmd_api.services import Services

log = structlog.get_logger()

_USAGE = b"""
INSERT INTO llm_usage_daily AS u (key_prefix, date, model, requests, prompt_tokens, completion_tokens, cost_usd)
VALUES (%s, %s, %s, 1, %s, %s, %s)
ON CONFLICT (key_prefix, date, model) DO UPDATE SET
  requests = u.requests + 1,
  prompt_tokens = u.prompt_tokens + excluded.prompt_tokens,
  completion_tokens = u.completion_tokens + excluded.completion_tokens,
  cost_usd = u.cost_usd + excluded.cost_usd
"""


async def complete(services: Services, principal: Principal, request: ChatRequest) -> ChatAnswer:
    """The answer of a model to a conversation.

    Raises:
        UnavailableError: no upstream, settings that cannot be used, the upstream is away or busy, or what was used
            could not be written down.
        ForbiddenError: the model is not allowed, or a guardrail speaks against the request.
        InvalidRequestError: the request asks for what is not offered.
        UpstreamError, TookTooLongError: the upstream's answer is of no use, or does not come.
        psycopg.Error: Postgres refused or went away.
    """
    if services.llm is None:
        raise UnavailableError("no upstream for chat is configured here: ANTHROPIC_API_KEY or SSMD_LLM_BASE_URL")
    if request.stream:
        raise InvalidRequestError("stream: answers are given as a whole; leave it out or false", field="stream")
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        raise InvalidRequestError("max_tokens and max_completion_tokens are the same: give one", field="max_tokens")
    for tool in request.tools or ():
        check_depth(tool.function.parameters, "tools")
    options = await options_now(services)
    model = options.model(request.model)
    messages, dropped = keep_last(request.messages, options.guardrail_max_messages)
    sent = msgspec.structs.replace(request, messages=[_with_arguments(message) for message in messages])
    # In a thread: a megabyte takes up to half a second, and others are being answered meanwhile.
    sent, redacted = await asyncio.to_thread(guard, clamp(sent, options.guardrail_max_tokens), options)
    reply = await services.llm.complete(sent, model.upstream_name)
    cost_usd = model.cost_usd(reply.tokens)
    await _count(services, principal, model, reply, cost_usd or Decimal(0))
    extra = Extra(
        cost_usd=None if cost_usd is None else number_text(cost_usd), dropped_messages=dropped, redacted=redacted
    )
    return _answer(model, reply, extra, int(services.now.timestamp()))


async def options_now(services: Services) -> Options:
    """The proxy's settings as they are in the database.

    Raises:
        UnavailableError: they cannot be used.
        psycopg.Error: Postgres refused or went away.
    """
    names = [field.name for field in msgspec.structs.fields(Options)]
    rows = await services.rows("SELECT key, value FROM settings WHERE key = ANY(%s)", (names,))
    return options_of({row["key"]: row["value"] for row in rows})


def keep_last(messages: list[Message], limit: int) -> tuple[list[Message], int]:
    """The last messages, after the instructions that stand first, and how many were left out.

    What is kept starts with a user's message, so that no result of a tool stands there without its call.

    Raises:
        InvalidRequestError: the last ones hold no user's message.
    """
    if len(messages) <= limit:
        return messages, 0
    first = messages[:1] if messages[0].role in {"system", "developer"} else []
    rest = messages[len(messages) - limit + len(first) :]
    start = next((number for number, message in enumerate(rest) if message.role == "user"), None)
    if start is None:
        raise InvalidRequestError(
            f"messages: {len(messages)}, {limit} is the most, and none of the last {len(rest)} is a user's",
            field="messages",
        )
    kept = [*first, *rest[start:]]
    return kept, len(messages) - len(kept)


def clamp(request: ChatRequest, most: int | None) -> ChatRequest:
    """The request with no more tokens in its answer than allowed; it names them if there is a limit."""
    if most is None:
        return request
    if request.max_completion_tokens is not None:
        return msgspec.structs.replace(request, max_completion_tokens=min(most, request.max_completion_tokens))
    return msgspec.structs.replace(request, max_tokens=min(most, request.max_tokens or most))


def guard(request: ChatRequest, options: Options) -> tuple[ChatRequest, dict[str, int]]:
    """The request as it may be sent on, and what was redacted: everything that is text in it is looked at, whoever says
    it, in content parts, in arguments of calls and in descriptions of tools too.

    Raises:
        ForbiddenError: it looks like an injection, or holds personal data that are to be blocked.
    """
    if options.guardrail_injection_enabled:
        map_request(request, _refuse_injection)
    if not options.guardrail_pii_enabled:
        return request, {}
    if options.guardrail_pii_action == "block":
        map_request(request, _refuse_pii)
        return request, {}
    found: Counter[str] = Counter()

    def redact(text: str) -> str:
        clean, kinds = redact_pii(text)
        found.update(kinds)
        return clean

    try:
        return map_request(request, redact), {str(kind): found[kind] for kind in Pii if found[kind]}
    except NotRedactableError as error:
        raise ForbiddenError(f"messages: {error}", field="messages") from None


def map_request(request: ChatRequest, change: Callable[[str], str]) -> ChatRequest:
    """The request with all its text changed. Ids and names cannot be: what refers to them would be lost.

    Raises:
        NotRedactableError: one of them would be changed.
    """

    def name(text: str | None) -> None:
        if text and change(text) != text:
            raise NotRedactableError("an id or a name looks like personal data, and cannot be redacted")

    def together(parts: list[str]) -> None:
        # A model reads on from part to part.
        for text in ("".join(parts), "\n".join(parts)) if len(parts) > 1 else ():
            if change(text) != text:
                raise NotRedactableError("parts of a message look like personal data together, and cannot be redacted")

    def message(one: Message) -> Message:
        name(one.name)
        name(one.tool_call_id)
        for call in one.tool_calls or ():
            name(call.id)
            name(call.function.name)
        content = one.content
        if isinstance(content, str):
            content = change(content)
        elif content is not None:
            content = [TextPart(change(part.text)) for part in content]
            together([part.text for part in content])
        calls = one.tool_calls and [
            msgspec.structs.replace(
                call,
                function=msgspec.structs.replace(
                    call.function, arguments=map_json_text(call.function.arguments, change)
                ),
            )
            for call in one.tool_calls
        ]
        refusal = one.refusal and change(one.refusal)
        return msgspec.structs.replace(one, content=content, tool_calls=calls, refusal=refusal)

    def tool(one: Tool) -> Tool:
        function = one.function
        name(function.name)
        parameters: dict[str, Any] | None = function.parameters and msgspec.json.decode(
            map_json_text(msgspec.json.encode(function.parameters).decode(), change)
        )
        description = function.description and change(function.description)
        return Tool(msgspec.structs.replace(function, description=description, parameters=parameters))

    if isinstance(request.tool_choice, NamedTool):
        name(request.tool_choice.function.name)
    stop = request.stop
    if isinstance(stop, str):
        stop = change(stop)
    elif stop is not None:
        stop = [change(one) for one in stop]
    return msgspec.structs.replace(
        request,
        stop=stop,
        messages=[message(one) for one in request.messages],
        tools=request.tools and [tool(one) for one in request.tools],
    )


def _refuse_injection(text: str) -> str:
    if shape := find_injection(text):
        raise ForbiddenError(f"messages: the guardrail takes a text for an injection ({shape})", field="messages")
    return text


def _refuse_pii(text: str) -> str:
    if spans := find_pii(text):
        kinds = ", ".join(sorted({span.kind for span in spans}))
        raise ForbiddenError(f"messages: the guardrail found personal data ({kinds})", field="messages")
    return text


def _with_arguments(message: Message) -> Message:
    """Calls without arguments get `{}`: not every upstream takes "" for it."""
    if not message.tool_calls:
        return message
    calls = [
        call
        if call.function.arguments
        else msgspec.structs.replace(call, function=msgspec.structs.replace(call.function, arguments="{}"))
        for call in message.tool_calls
    ]
    return msgspec.structs.replace(message, tool_calls=calls)


async def _count(services: Services, principal: Principal, model: Model, reply: Reply, cost_usd: Decimal) -> None:
    """Add to the key's usage of the day, UTC; an answer that cannot be accounted for is not given."""
    prompt, completion = reply.tokens or (0, 0)
    values = (principal.key_prefix, services.now.date(), model.model, prompt, completion, cost_usd)
    try:
        async with services.writing() as connection:
            await connection.execute(_USAGE, values)
    except (psycopg.Error, PoolTimeout) as error:
        log.error(
            "llm_usage_lost", key_prefix=principal.key_prefix, model=model.model, prompt=prompt, completion=completion,
            cost_usd=str(cost_usd), error=str(error).strip(),
        )  # fmt: skip
        raise UnavailableError("what the answer took could not be written down, so it is not given") from error


def _answer(model: Model, reply: Reply, extra: Extra, created_s: int) -> ChatAnswer:
    usage = None
    if reply.tokens is not None:
        prompt, completion = reply.tokens
        usage = TokenUsage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)
    return ChatAnswer(
        id=reply.id or f"chatcmpl-{created_s}",
        created=created_s,
        model=model.model,
        choices=[Choice(message=reply.message, finish_reason=reply.finish_reason)],
        usage=usage,
        ssmd=extra,
    )
