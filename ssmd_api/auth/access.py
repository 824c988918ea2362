"""How far a key reaches: scopes, feeds, days. The one place where these are compared.

- A scope may imply others (`IMPLIED`); `*` implies all.
- Feeds limit everything that belongs to a feed, the security master too.
- Days limit everything that says something about a moment: captured data by its day, the security master by `as_of`,
  which is now where it is not given.
- `*` among the feeds lifts the limit of feeds, never that of days.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Final, Literal

from ssmd_api.errors import ForbiddenError
from ssmd_core.feeds import FEEDS

ALL = "*"
#: Instead of a scope: any key that is valid.
ANY_KEY: Final = "any key"
AnyKey = Literal["any key"]


class Scope(StrEnum):
    """What a key may do."""

    SECMASTER_READ = "secmaster:read"
    DATASETS_READ = "datasets:read"
    SIGNALS_READ = "signals:read"
    SIGNALS_WRITE = "signals:write"
    ADMIN_READ = "admin:read"
    ADMIN_WRITE = "admin:write"
    LLM_CHAT = "llm:chat"


IMPLIED = {
    Scope.ADMIN_WRITE: frozenset({Scope.ADMIN_READ}),
    Scope.SIGNALS_WRITE: frozenset({Scope.SIGNALS_READ}),
}


def expand(scopes: Iterable[str]) -> frozenset[str]:
    """The scopes and all that they imply."""
    given = set(scopes)
    if ALL in given:
        return frozenset({ALL, *Scope})
    return frozenset(given.union(*(IMPLIED.get(Scope(scope), frozenset()) for scope in given if scope in set(Scope))))


@dataclass(frozen=True, slots=True)
class Principal:
    """A key that has proved itself.

    Attributes:
        key_prefix: its public part, up to and including the key id.
        user_id, user_email: its owner: who got it.
        scopes: expanded, see `expand`.
        tier: of rate limits.
        feeds: allowed feeds; may hold `*`.
        first_day, last_day: inclusive.
        expires_at: None: never.
    """

    key_prefix: str
    user_id: str
    user_email: str
    scopes: frozenset[str]
    tier: str
    feeds: frozenset[str]
    first_day: date
    last_day: date
    expires_at: datetime | None

    @property
    def allowed_feeds(self) -> tuple[str, ...]:
        """Feeds of the registry that the key reaches."""
        return tuple(name for name in FEEDS if ALL in self.feeds or name in self.feeds)

    def has(self, scope: str) -> bool:
        """Whether the scope is among the key's."""
        return scope in self.scopes

    def check_scope(self, scope: str) -> None:
        """Refuse a scope that the key does not have.

        Raises:
            ForbiddenError: it has not.
        """
        if scope not in self.scopes:
            raise ForbiddenError(f"this key lacks the scope {scope}")

    def check_feed(self, feed: str) -> None:
        """Refuse a feed that the key does not reach.

        Raises:
            ForbiddenError: it does not.
        """
        if ALL not in self.feeds and feed not in self.feeds:
            raise ForbiddenError(f"this key does not reach the feed {feed}", field="feed")

    def feeds_among(self, feeds: Iterable[str]) -> tuple[str, ...]:
        """Those of the feeds that the key reaches.

        Raises:
            ForbiddenError: none of them.
        """
        wanted = tuple(feeds)
        found = tuple(feed for feed in wanted if ALL in self.feeds or feed in self.feeds)
        if not found:
            raise ForbiddenError(f"this key does not reach the feed {' or '.join(wanted)}")
        return found

    def check_days(self, first: date, last: date, *, field: str = "date") -> None:
        """Refuse days of which one is outside of the key's.

        Raises:
            ForbiddenError: one is.
        """
        if first < self.first_day or last > self.last_day:
            raise self._out_of_reach(first, last, field)

    def clamp_days(self, first: date, last: date) -> tuple[date, date]:
        """The part of the days that the key reaches.

        Raises:
            ForbiddenError: none of it.
        """
        begin, end = max(first, self.first_day), min(last, self.last_day)
        if begin > end:
            raise self._out_of_reach(first, last, "from")
        return begin, end

    def _out_of_reach(self, first: date, last: date, field: str) -> ForbiddenError:
        asked = f"{first}" if first == last else f"{first} to {last}"
        return ForbiddenError(f"this key reaches {self.first_day} to {self.last_day}, not {asked}", field=field)

    def check_moment(self, moment: datetime, *, field: str = "as_of") -> None:
        """Refuse a moment outside of the key's days, UTC.

        Raises:
            ForbiddenError: it is.
        """
        day = moment.astimezone(UTC).date()
        self.check_days(day, day, field=field)
