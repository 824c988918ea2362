"""What Anthropic's messages API says, for `FakeUpstream`: answers that are right, broken, or somebody else's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from starlette.responses import Response, StreamingResponse


def message(text: str, *, stop_reason: str = "end_turn", tokens: tuple[int, int] = (1200, 340)) -> dict[str, Any]:
    """A message of the API, after some thinking."""
    return {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-5-5",
        "content": [{"type": "thinking", "thinking": "", "signature": "c2ln"}, {"type": "text", "text": text}],
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": tokens[0], "output_tokens": tokens[1]},
    }


def failing(status: int, **headers: str) -> Response:
    """An error of the API, with a text of its own that nobody must see."""
    body = {"type": "error", "error": {"type": "api_error", "message": "PROVIDER WORDS"}}
    return Response(json.dumps(body), status, media_type="application/json", headers=headers)


def endless(megabytes: int) -> Response:
    """A message that does not end for so long."""

    def parts() -> Iterator[bytes]:
        yield b'{"content":[{"type":"text","text":"'
        for _ in range(megabytes):
            yield b"x" * 1024 * 1024
        yield b'"}]}'

    return StreamingResponse(parts(), media_type="application/json")


def evidence_in(body: dict[str, Any]) -> dict[str, Any]:
    """The evidence of a request, as the model sees it."""
    text = body["messages"][0]["content"]
    found = re.fullmatch(r"<evidence>\n(.*)\n</evidence>", text, re.DOTALL)
    assert found, text[:100]
    told: dict[str, Any] = json.loads(found[1])
    return told


def canary_in(body: dict[str, Any]) -> str:
    """The secret mark of a request."""
    return re.findall(r"mark-[0-9a-f]{32}", body["system"])[0]


def diagnosis(**members: Any) -> dict[str, Any]:
    """A diagnosis of the rows of `report_rows.bad_day`, with other members in place of its own."""
    return {
        "overall_status": "RED",
        "summary": {"text": "kraken lost connections in the afternoon.", "citations": ["score:kraken:2026-11-21"]},
        "feeds": [
            {
                "feed": "kraken",
                "status": "RED",
                "issue": "Two hours are not whole.",
                "likely_cause": "The venue closed the connection.",
                "action": "Read the closing reasons.",
                "citations": ["score:kraken:2026-11-21", "hour:kraken/spot/2026-11-21T14"],
            }
        ],
        "trends": [
            {
                "feed": "kraken",
                "direction": "degrading",
                "note": "It falls day by day.",
                "citations": ["score:kraken:2026-11-15", "score:kraken:2026-11-21"],
            }
        ],
        "recommendations": [{"text": "Look at the network.", "citations": ["hour:kraken/spot/2026-11-21T14"]}],
    } | members
