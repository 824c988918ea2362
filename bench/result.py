"""One measured figure and what it is held against."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

_HOLDS: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le}


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the table and of results.json.

    Attributes:
        name: `line: what`, e.g. `capture: kalshi`.
        value: the figure, in `unit`.
        against: the alternative that was run beside it, or the limit in words.
        ratio: value over the alternative's figure; None where there is no alternative.
        target: what `judged` has to reach; None for a figure that is only told.
        sense: how `judged` compares to the target.
        judged: whether the target speaks of the ratio or of the value.
    """

    name: str
    value: float
    unit: str
    against: str
    ratio: float | None = None
    target: float | None = None
    sense: Literal[">=", "<="] = ">="
    judged: Literal["value", "ratio"] = "value"

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without a target."""
        if self.target is None:
            return None
        judged = self.ratio if self.judged == "ratio" else self.value
        return judged is not None and _HOLDS[self.sense](judged, self.target)

    @property
    def target_text(self) -> str:
        """`≥ 1.0×`, `≤ 20`, or nothing."""
        if self.target is None:
            return ""
        sign = "≥" if self.sense == ">=" else "≤"
        return f"{sign} {self.target:g}{'×' if self.judged == 'ratio' else ''}"

    def as_dict(self) -> dict[str, Any]:
        """For results.json."""
        fields = dataclasses.asdict(self)
        return {key: fields[key] for key in ("name", "value", "unit", "against", "ratio")} | {
            "target": self.target_text or None,
            "met": self.met,
        }
