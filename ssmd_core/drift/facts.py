"""What the registry says of a feed's members, as paths of shapes, and which members come and go by themselves."""

from __future__ import annotations

from collections.abc import Iterator

from ssmd_core.feeds.base import Column, Feed, MessageType, Schema
from ssmd_core.messages.control import CONTROL_TYPE

_ALL = "*"

# Members whose absence says nothing about the format. Kalshi leaves out the side of a book that is empty, all of them
# at a market's close; its lifecycle messages have other members for each event. Polymarket's opening books alone have
# tick size and last price. Kraken Futures: dated products have a maturity and no funding.
_COME_AND_GO: dict[tuple[str, str], frozenset[str]] = {
    ("kalshi", "orderbook_snapshot"): frozenset(
        f"msg.{side}{form}" for side in ("yes", "no") for form in ("", "_dollars", "_dollars_fp")
    )
    | {"id"},
    ("kalshi", "market_lifecycle_v2"): frozenset({_ALL}),
    ("kalshi", "event_lifecycle"): frozenset({_ALL}),
    ("kalshi", "event_fee_update"): frozenset({_ALL}),
    ("kraken", "instrument"): frozenset({_ALL}),
    ("kraken-futures", "ticker"): frozenset(
        {
            "maturityTime",
            "funding_rate",
            "funding_rate_prediction",
            "relative_funding_rate",
            "relative_funding_rate_prediction",
            "next_funding_rate_time",
        }
    ),
    ("kraken-futures", "ticker_lite"): frozenset({"maturityTime"}),
    ("polymarket", "book"): frozenset({"tick_size", "last_trade_price"}),
    ("polymarket", "new_market"): frozenset({_ALL}),
    ("polymarket", "market_resolved"): frozenset({_ALL}),
}
_LEVEL_MEMBERS = ("price", "qty", "size")


class TypeFacts:
    """What the registry says of one message type.

    Args:
        kind: None if it says nothing.
        come_and_go: members whose absence says nothing; `*` for all.

    Attributes:
        control: whether the type is about the connection; its members are not judged.
    """

    def __init__(self, kind: MessageType | None, come_and_go: frozenset[str] = frozenset()) -> None:
        self.control = kind is not None and kind.token == CONTROL_TYPE
        self._come_and_go = come_and_go
        self._columns: dict[str, list[str]] = {}
        self._wild: list[str] = []
        schema = kind.schema if kind else None
        for column in schema.columns if schema else ():
            self._read(column, schema)
        for path in [*self._columns]:
            parent = path
            while parent:
                parent = parent[:-2] if parent.endswith("[]") else parent.rpartition(".")[0]
                self._columns.setdefault(parent, [])

    def _read(self, column: Column, schema: Schema | None) -> None:
        for source in column.sources:
            for path in _paths(source.path, schema):
                self._columns.setdefault(path, []).append(column.name)
                if source.convert == "json":
                    self._wild += [path + ".", path + "[]"]
                elif source.convert == "levels":
                    for member in _LEVEL_MEMBERS:
                        self._columns.setdefault(f"{path}[].{member}", []).append(column.name)

    def knows(self, path: str) -> bool:
        """Whether a column reads the path, or something below it; in any generation of the format."""
        return path in self._columns or any(path.startswith(start) for start in self._wild)

    def columns(self, path: str) -> tuple[str, ...]:
        """Names of the columns that read the path or what is below it."""
        names = [
            name
            for known, columns in self._columns.items()
            if known == path or known.startswith((path + ".", path + "[]"))
            for name in columns
        ]
        return tuple(dict.fromkeys(names))

    def may_be_absent(self, path: str) -> bool:
        """Whether its absence says nothing."""
        return path in self._come_and_go or _ALL in self._come_and_go


def type_facts(feed: Feed, message_type: str) -> TypeFacts:
    """What the registry says of the type."""
    return TypeFacts(feed.message_types.get(message_type), _COME_AND_GO.get((feed.name, message_type), frozenset()))


def _paths(source: str, schema: Schema | None) -> Iterator[str]:
    if not source.startswith("item."):
        yield source
        return
    member = source.removeprefix("item.")
    for array in schema.explode if schema else ():
        if array == ".":
            yield member
        else:
            yield f"{array}[].{member}"
            yield f"{array}.{member}"
