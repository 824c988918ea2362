"""What resolvers know of their request."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from ssmd_api.auth.access import Principal
from ssmd_api.services import Services


@dataclass(frozen=True, slots=True)
class Context:
    """One request.

    Attributes:
        principal: who asks; each root field checks it before its resolver runs.
    """

    services: Services
    principal: Principal
    request: Request
    request_id: str
