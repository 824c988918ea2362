"""Lists from the tables of proof, a page at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ssmd_api.secmaster.cursors import Part, decode_cursor, encode_cursor
from ssmd_api.services import Services

Row = dict[str, Any]
T = TypeVar("T")
MAX_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some rows.

    Attributes:
        rows: in the list's order.
        cursor_of: the cursor behind a row.
        following: whether there are more.
    """

    rows: list[T]
    cursor_of: Callable[[T], str]
    following: bool

    @property
    def next_cursor(self) -> str | None:
        """The cursor of the next page; None at the end."""
        return self.cursor_of(self.rows[-1]) if self.following else None


@dataclass(frozen=True, slots=True)
class ListOf(Generic[T]):
    """A list that can be asked for.

    Attributes:
        name: of the list, for its cursors.
        columns: what is selected.
        source: table, or tables.
        order: columns of the position, all descending or all ascending, which together are unique.
        descending: the newest first.
        kinds: their Python types.
        position: of a row.
        kind: Struct of a row, whose members have the names of `columns`.
    """

    name: str
    columns: str
    source: str
    order: tuple[str, ...]
    descending: bool
    kinds: tuple[type[Part], ...]
    position: Callable[[T], Sequence[Part]]
    kind: type[T]

    async def page(
        self,
        services: Services,
        where: Sequence[tuple[str, object]],
        *,
        limit: int,
        cursor: str | None,
    ) -> Page[T]:
        """One page.

        Args:
            where: conditions with one `%s` each, and their values.

        Raises:
            InvalidRequestError: a cursor of another list.
            psycopg.Error: Postgres refused or went away.
        """
        question = (self.name, *(str(value) for _, value in where))
        conditions = [condition for condition, _ in where]
        values = [value for _, value in where]
        if cursor is not None:
            columns, places = ", ".join(self.order), ", ".join("%s" for _ in self.order)
            conditions.append(f"({columns}) {'<' if self.descending else '>'} ({places})")
            values += decode_cursor(question, cursor, self.kinds)
        direction = " DESC" if self.descending else ""
        statement = (
            f"SELECT {self.columns} FROM {self.source} WHERE {' AND '.join(conditions) or 'true'} "
            f"ORDER BY {', '.join(column + direction for column in self.order)} LIMIT %s"
        )
        rows = await services.rows(statement, (*values, limit + 1))
        found = [self.kind(**row) for row in rows[:limit]]
        return Page(found, lambda row: encode_cursor(question, self.position(row)), len(rows) > limit)
