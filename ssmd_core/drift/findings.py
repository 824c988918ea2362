"""What the sentinel found, in words that say what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from ssmd_core.clock import rfc3339_us

Kind = Literal["new_type", "new_field", "dropped_field", "retyped_field", "null_column"]
KINDS: tuple[str, ...] = get_args(Kind)
_MAX_TYPES_SHOWN = 4


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One change of a venue's format.

    Attributes:
        at_us: receive time of the first message that shows it; 0 where only documents were compared.
        message_type: the venue's word; of a REST body its endpoint.
        path: see `shapes`; the column's name for a null column.
        kind: what happened to it.
        detail: what it is and what to do.
        evidence: where to look, e.g. `seq:4711`; "" if nothing is known.
    """

    at_us: int
    message_type: str
    path: str
    kind: Kind
    detail: str
    evidence: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, said: dict[str, Any]) -> Finding:
        """What `as_dict` made.

        Raises:
            TypeError, ValueError: it did not.
        """
        finding = cls(**said)
        if finding.kind not in KINDS:
            raise ValueError(f"no kind of finding: {finding.kind!r}")
        return finding


def new_type(feed: str, message_type: str, at_us: int, evidence: str) -> Finding:
    """The venue sends a type that the registry does not know."""
    detail = (
        f"{feed} sends messages of type {message_type!r}, which the registry does not know. They are archived, but no "
        f"dataset is made of them. Look at one, add the type to the feed's message types, and rebuild the hours since."
    )
    return Finding(at_us, message_type, "", "new_type", detail, evidence)


def no_type(feed: str, at_us: int, evidence: str) -> Finding:
    """The venue sends objects of which no type can be read."""
    detail = (
        f"{feed} sends objects without a message type that the registry can read. They are archived as `unparsed`. "
        f"Look at one: if the member that holds the type has another name now, teach it to the feed's routing."
    )
    return Finding(at_us, "unparsed", "", "new_type", detail, evidence)


def new_field(message_type: str, path: str, types: dict[str, int], at_us: int, evidence: str) -> Finding:
    """A member that was not there before."""
    shown = ", ".join(sorted(types)[:_MAX_TYPES_SHOWN])
    detail = (
        f"{message_type}: member {path} is new ({shown}). It is archived, but no column takes it. Read the venue's "
        f"changelog; if it carries data, or takes another member's place, add it to the schema and rebuild the hours "
        f"since."
    )
    return Finding(at_us, message_type, path, "new_field", detail, evidence)


def dropped_field(
    message_type: str, path: str, before: str, now: str, columns: tuple[str, ...], at_us: int, evidence: str
) -> Finding:
    """A member that was always there is gone.

    Args:
        before, now: how often it was and is there.
        columns: what it fills.
    """
    detail = (
        f"{message_type}: member {path} was in {before} messages and is missing or null in {now}{_since(at_us)}. "
        f"{_columns(columns)}Compare a raw message from before with one from after; if another member carries the "
        f"value now, add it to the schema's sources and rebuild the hours since."
    )
    return Finding(at_us, message_type, path, "dropped_field", detail, evidence)


def retyped_field(
    message_type: str, path: str, before: str, now: str, columns: tuple[str, ...], at_us: int, evidence: str
) -> Finding:
    """A member has another JSON type.

    Args:
        before, now: the types.
        columns: what it fills.
    """
    detail = (
        f"{message_type}: member {path} was {before} and is {now}{_since(at_us)}. {_columns(columns)}Look at a raw "
        f"message; if unit or meaning changed too, the schema needs a new source for it; then rebuild the hours since."
    )
    return Finding(at_us, message_type, path, "retyped_field", detail, evidence)


def null_column(message_type: str, column: str, rows: int, filled: float, sources: tuple[str, ...]) -> Finding:
    """A column of the hour's parquet file is empty.

    Args:
        rows: of the hour.
        filled: share of rows that had a value in the earlier hours.
        sources: paths that it is read from.
    """
    detail = (
        f"{message_type}: column {column} is null in all but 1 % of {rows:,} rows, but had a value in {filled:.0%} of "
        f"earlier ones. It is read from {', '.join(sources) or 'nothing'}: look at a raw message for the member that "
        f"took its place, add it to the schema's sources and rebuild the hour."
    )
    return Finding(0, message_type, column, "null_column", detail)


def _since(at_us: int) -> str:
    return f" since {rfc3339_us(at_us)}" if at_us else ""


def _columns(columns: tuple[str, ...]) -> str:
    if not columns:
        return "No column reads it. "
    return f"It fills {', '.join(columns)}. "
