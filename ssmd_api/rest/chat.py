"""`POST /v1/chat/completions`: a language model, through the proxy."""

from __future__ import annotations

from typing import Any

from ssmd_api.auth.access import Scope
from ssmd_api.llm.chat import complete
from ssmd_api.llm.upstreams import TIMEOUT_S, BusyUpstreamError
from ssmd_api.llm.wire import ChatAnswer, ChatRequest
from ssmd_api.routing import Call, Route

# The upstream's time must end first, so that what it cost is known to nobody only if nothing came.
_MARGIN_S = 10.0


async def _complete(call: Call) -> Any:
    try:
        return await complete(call.services, call.principal, call.body)
    except BusyUpstreamError as error:
        if error.retry_after_s is not None:
            call.headers["Retry-After"] = str(error.retry_after_s)
        raise


ROUTES = (
    Route(
        method="POST",
        path="/v1/chat/completions",
        handler=_complete,
        summary="An answer of a language model, in the form of OpenAI's chat completions.",
        tag="chat",
        scope=Scope.LLM_CHAT,
        body=ChatRequest,
        answer=ChatAnswer,
        timeout_s=TIMEOUT_S + _MARGIN_S,
    ),
)
