"""The chat completion of OpenAI's API, as far as the proxy speaks it. Members that it does not know are refused: one
that is silently not passed on gives another answer than was asked for.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ssmd_api.errors import InvalidRequestError

# Far more than a schema needs, far less than the stack that SDKs walk it with.
_MAX_DEPTH = 64

Name = Annotated[str, Meta(min_length=1, max_length=128)]
MaxTokens = Annotated[int, Meta(ge=1, le=1_000_000)]


class TextPart(msgspec.Struct, tag_field="type", tag="text", forbid_unknown_fields=True):
    """A part of a message; text is the only kind that is passed on."""

    text: str


class FunctionCall(msgspec.Struct, forbid_unknown_fields=True):
    """What a model calls; `arguments` is JSON text, and "" is taken for none."""

    name: Name
    arguments: str = ""


class ToolCall(msgspec.Struct, tag_field="type", tag="function", forbid_unknown_fields=True):
    """One call of a tool."""

    id: Name
    function: FunctionCall


class Message(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: Name | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: Name | None = None
    refusal: str | None = None

    @property
    def texts(self) -> list[str]:
        """The content's texts; none that is empty."""
        parts = [self.content] if isinstance(self.content, str) else [part.text for part in self.content or ()]
        return [part for part in parts if part]


class Function(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A tool that the model may call; `parameters` is a JSON schema."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, tag_field="type", tag="function", forbid_unknown_fields=True):
    """A tool; functions are the only kind."""

    function: Function


class NamedFunction(msgspec.Struct, forbid_unknown_fields=True):
    """A function's name."""

    name: Name


class NamedTool(msgspec.Struct, tag_field="type", tag="function", forbid_unknown_fields=True):
    """The one tool that the model is to call."""

    function: NamedFunction


class ChatRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /v1/chat/completions`.

    Attributes:
        max_tokens, max_completion_tokens: the same under an old and a new name; at most one of them.
        stream: only false: an answer is given as a whole.
    """

    model: Name
    messages: Annotated[list[Message], Meta(min_length=1)]
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    stop: str | Annotated[list[str], Meta(max_length=16)] | None = None
    tools: Annotated[list[Tool], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    n: Literal[1] | None = None
    stream: bool | None = None


class AnswerMessage(msgspec.Struct, tag_field="role", tag="assistant", kw_only=True):
    """What the model said."""

    content: str | None
    refusal: str | None = None
    tool_calls: list[ToolCall] | UnsetType = UNSET


class Choice(msgspec.Struct, kw_only=True):
    """One answer; there is one."""

    index: int = 0
    message: AnswerMessage
    finish_reason: str | None


class TokenUsage(msgspec.Struct, kw_only=True):
    """Tokens of one request, as the upstream counts them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Extra(msgspec.Struct, kw_only=True, rename="camel"):
    """What ssmd adds.

    Attributes:
        cost_usd: decimal text; None if the model's price, or the tokens, are not known.
        dropped_messages: the oldest ones, left out because there were too many.
        redacted: kind of personal data -> how often it was taken out of what was sent.
    """

    cost_usd: str | None
    dropped_messages: int
    redacted: dict[str, int]


class ChatAnswer(msgspec.Struct, tag_field="object", tag="chat.completion", kw_only=True):
    """The answer."""

    id: str
    created: int
    model: str
    choices: list[Choice]
    usage: TokenUsage | None
    ssmd: Extra


class Reply(msgspec.Struct, kw_only=True):
    """What an upstream said, whatever its own form.

    Attributes:
        tokens: of prompt and completion; None if it did not tell.
    """

    id: str
    message: AnswerMessage
    finish_reason: str | None
    tokens: tuple[int, int] | None


def check_depth(value: Any, field: str) -> None:
    """Refuse a JSON value that is nested too deeply.

    Args:
        field: of the request, for the error.

    Raises:
        InvalidRequestError: it is.
    """
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            item
            for one in level
            if isinstance(one, (dict, list))
            for item in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return
    raise InvalidRequestError(f"{field}: nested more than {_MAX_DEPTH} deep", field=field)
