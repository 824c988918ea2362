"""OpenAI's form of a conversation in Anthropic's (messages API), and its answer back. Pure.

What differs: instructions stand outside of the messages; results of tools are blocks of a user message, all those of
one turn in one; a tool's arguments are an object, not text; roles take turns; `max_tokens` is required.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ssmd_api.errors import InvalidRequestError, UpstreamError
from ssmd_api.llm.wire import (
    AnswerMessage,
    ChatRequest,
    FunctionCall,
    Message,
    NamedTool,
    Reply,
    Tool,
    ToolCall,
    check_depth,
)

_DEFAULT_MAX_TOKENS = 4096
_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_MAX_TOKENS_TOLD = 1_000_000_000


class _Block(msgspec.Struct, kw_only=True):
    type: str
    text: str = ""
    id: str = ""
    name: str = ""
    input: Any = None


class _Usage(msgspec.Struct, kw_only=True):
    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class _Answer(msgspec.Struct, kw_only=True):
    id: str
    content: list[_Block]
    stop_reason: str | None
    usage: _Usage | None = None


def request_of(request: ChatRequest, model: str) -> dict[str, Any]:
    """Arguments of the messages API.

    Args:
        model: the upstream's name for it.

    Raises:
        InvalidRequestError: something has no equal there.
    """
    for name in ("temperature", "top_p"):
        if getattr(request, name) is not None:
            raise InvalidRequestError(f"{name}: Anthropic's API takes none since its version 2026-10-21", field=name)
    instructions = [text for one in request.messages if one.role in {"system", "developer"} for text in one.texts]
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": request.max_completion_tokens or request.max_tokens or _DEFAULT_MAX_TOKENS,
        "messages": _messages(request.messages),
    }
    if instructions:
        body["system"] = "\n\n".join(instructions)
    if request.stop:
        body["stop_sequences"] = [request.stop] if isinstance(request.stop, str) else request.stop
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    if choice := _choice(request):
        body["tool_choice"] = choice
    return body


def reply_of(body: bytes) -> Reply:
    """What the messages API answered.

    Raises:
        UpstreamError: it is not of the form that the API promises.
    """
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.DecodeError, RecursionError) as error:
        raise UpstreamError("the upstream's answer is not a message of its API") from error
    texts = [block.text for block in answer.content if block.type == "text"]
    calls = [
        ToolCall(id=block.id, function=FunctionCall(block.name, msgspec.json.encode(block.input or {}).decode()))
        for block in answer.content
        if block.type == "tool_use"
    ]
    message = AnswerMessage(content="".join(texts) if texts else None)
    if calls:
        message.tool_calls = calls
    tokens = None
    if (usage := answer.usage) is not None:
        cached = (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)
        tokens = usage.input_tokens + cached, usage.output_tokens
    reason = answer.stop_reason
    return Reply(
        id=answer.id,
        message=message,
        finish_reason=None if reason is None else _FINISH.get(reason, reason),
        tokens=checked_tokens(tokens),
    )


def checked_tokens(tokens: tuple[int, int] | None) -> tuple[int, int] | None:
    """The counts, as long as they can be counts.

    Raises:
        UpstreamError: they cannot.
    """
    if tokens is not None and not all(0 <= count <= _MAX_TOKENS_TOLD for count in tokens):
        raise UpstreamError(f"the upstream says that it took {tokens[0]} and {tokens[1]} tokens")
    return tokens


def _messages(messages: list[Message]) -> list[dict[str, Any]]:
    """Turns of user and assistant; neighbours of one role become one turn."""
    turns: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        if message.role in {"system", "developer"}:
            continue
        role = "assistant" if message.role == "assistant" else "user"
        blocks = _blocks(message, f"messages[{number}]")
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    if not turns or turns[0]["role"] != "user":
        raise InvalidRequestError("messages: the first one beside instructions must be the user's", field="messages")
    return turns


def _blocks(message: Message, where: str) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = [{"type": "text", "text": text} for text in message.texts]
    if message.role == "tool":
        if not message.tool_call_id:
            raise InvalidRequestError(f"{where}: a tool's message lacks tool_call_id", field="messages")
        return [{"type": "tool_result", "tool_use_id": message.tool_call_id, "content": blocks}]
    if message.role == "assistant":
        for call in message.tool_calls or ():
            arguments = _arguments(call, where)
            blocks.append({"type": "tool_use", "id": call.id, "name": call.function.name, "input": arguments})
    if not blocks:
        raise InvalidRequestError(f"{where} says nothing", field="messages")
    return blocks


def _arguments(call: ToolCall, where: str) -> dict[str, Any]:
    try:
        arguments = msgspec.json.decode(call.function.arguments or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequestError(
            f"{where}: the arguments of {call.function.name!a} are not a JSON object", field="messages"
        ) from error
    check_depth(arguments, "messages")
    return arguments


def _tool(tool: Tool) -> dict[str, Any]:
    function = tool.function
    made: dict[str, Any] = {
        "name": function.name,
        "input_schema": function.parameters or {"type": "object", "properties": {}},
    }
    if function.description:
        made["description"] = function.description
    if function.strict is not None:
        made["strict"] = function.strict
    return made


def _choice(request: ChatRequest) -> dict[str, Any] | None:
    choice = request.tool_choice
    if not request.tools:
        return None
    match choice:
        case NamedTool():
            made: dict[str, Any] = {"type": "tool", "name": choice.function.name}
        case "required":
            made = {"type": "any"}
        case "none":
            return {"type": "none"}
        case _:
            made = {"type": "auto"}
    if request.parallel_tool_calls is not None:
        made["disable_parallel_tool_use"] = not request.parallel_tool_calls
    return made if choice is not None or len(made) > 1 else None
