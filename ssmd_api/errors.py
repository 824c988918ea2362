"""What the API refuses, in one JSON shape: `{"error", "code", "requestId"}`, with `field` where one is at fault."""

from __future__ import annotations

from ssmd_core.errors import SsmdError


class ApiError(SsmdError):
    """A request that gets an error for an answer. The text is for its sender: no path, no statement, no secret in it.

    Attributes:
        status: HTTP status.
        code: one word for programs.
        field: parameter or member at fault; "" if none is.
    """

    status = 500
    code = "internal"

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class InvalidRequestError(ApiError):
    """A parameter or body that cannot be used."""

    status, code = 400, "invalid"


class UnauthorizedError(ApiError):
    """No key, or none that is valid; the answer does not say which of the two."""

    status, code = 401, "unauthorized"


class ForbiddenError(ApiError):
    """The key does not reach so far: scope, feed, dates, or a guardrail."""

    status, code = 403, "forbidden"


class NotFoundError(ApiError):
    """No such thing."""

    status, code = 404, "not_found"


class ConflictError(ApiError):
    """It is there, but not in a state in which it may be given out."""

    status, code = 409, "conflict"


class TooLargeError(ApiError):
    """A body, or an answer, above its limit."""

    status, code = 413, "too_large"


class RateLimitedError(ApiError):
    """Too many requests in the window."""

    status, code = 429, "rate_limited"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UpstreamError(ApiError):
    """A service behind this one answered with nonsense."""

    status, code = 502, "bad_upstream"


class UnavailableError(ApiError):
    """Something that the answer needs is not configured, or does not answer."""

    status, code = 503, "unavailable"


class TookTooLongError(ApiError):
    """The answer was not ready within the route's time."""

    status, code = 504, "timeout"
