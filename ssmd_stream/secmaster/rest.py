"""One venue's public REST interface: paced, retried, bounded."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from ssmd_core.errors import SsmdError


class RestError(SsmdError):
    """The venue did not answer as it should, after all attempts; the text has method, path and the reason."""


class RestClient:
    """See module.

    Args:
        base_url: without a slash at the end.
    """

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    @classmethod
    def for_feed(cls, feed: str, base_url: str) -> Self:
        """A client with the feed's limits."""
        del feed
        return cls(base_url)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Any:
        """GET a JSON document.

        Raises:
            RestError: see the class.
        """
        raise NotImplementedError
