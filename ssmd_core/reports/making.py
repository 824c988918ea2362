"""What the two reports share: when a model is asked, what is kept of its answer, and what is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import psycopg
import structlog
from pydantic import BaseModel

from ssmd_core.reports.evidence import Evidence
from ssmd_core.reports.markdown import report_markdown
from ssmd_core.reports.model import ModelFailure, ModelSettings, Usage, ask
from ssmd_core.reports.store import Made, Report, Source, load, save
from ssmd_core.reports.texts import count_of

log = structlog.get_logger()

Body = dict[str, Any]
_AGAIN = " Asked again in vain: "
_Answer = TypeVar("_Answer", bound=BaseModel)


class NothingLeftError(Exception):
    """No claim of an answer could be kept.

    Attributes:
        dropped: how many there were.
    """

    def __init__(self, dropped: int) -> None:
        super().__init__(f"all {dropped} claims dropped")
        self.dropped = dropped


async def make(
    connection: psycopg.AsyncConnection,
    evidence: Evidence,
    *,
    model: ModelSettings | None,
    force: bool,
    form: type[_Answer],
    by_rules: Callable[[Evidence], Body],
    from_answer: Callable[[Evidence, _Answer], tuple[Body, int, list[str]]],
    not_needed: str,
    needed: bool,
) -> Made:
    """Make a report and store it.

    Args:
        model: None to ask none.
        force: ask even if the stored report is of the same evidence, or none is needed.
        form: of the model's answer.
        by_rules: the report's body without a model.
        from_answer: the body from an answer, how many claims were dropped, and what has to be said of it; raises
            `NothingLeftError`.
        not_needed: why no model has to be asked, "" if one has.
        needed: whether there is anything to tell.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    stored = await load(connection, evidence.kind, evidence.day)
    same = stored is not None and stored.input_sha256 == evidence.input_sha256
    # A model's report of these very rows is never given up for one by rules.
    kept = stored if same and stored and stored.source == "model" else None
    if kept and not force and (model is None or kept.model == model.model):
        return Made(kept, asked=False, needed=needed, cached=True)
    usage: Usage | None = None
    dropped: int | None = None
    source: Source = "rules"
    body: Body | None = None
    if model is None:
        note = "No model is set up (ANTHROPIC_API_KEY)."
    elif not_needed and not force:
        note = not_needed
    else:
        try:
            answered = await ask(model, evidence, form)
            usage = answered.usage
            body, dropped, remarks = from_answer(evidence, answered.answer)
            source = "model"
            note = " ".join([f"The model is {model.model}.", *remarks])
        except ModelFailure as failure:
            usage = failure.usage
            note = f"The model could not be used: {failure}."
            log.warning("report_by_rules", kind=evidence.kind, day=str(evidence.day), reason=str(failure))
        except NothingLeftError as nothing:
            dropped = nothing.dropped
            note = (
                f"Nothing of the model's answer could be kept: no row shows what its {count_of(dropped, 'claim')} said."
            )
            log.warning("report_by_rules", kind=evidence.kind, day=str(evidence.day), dropped=dropped)
    if kept and source == "rules":
        report = _noted(kept, note)
    else:
        report = _report(evidence, body or by_rules(evidence), source, note, usage, dropped)
    if not await save(connection, report):
        report = await load(connection, evidence.kind, evidence.day) or report
    return Made(report, asked=usage is not None, needed=needed)


def _noted(report: Report, note: str) -> Report:
    """A report that stands, with a remark on why there is no newer one."""
    told = f"{report.note.partition(_AGAIN)[0]}{_AGAIN}{note}"
    body = {**report.body, "note": told}
    return replace(report, note=told, body=body, markdown=report_markdown(body))


def dropped_remark(dropped: int) -> list[str]:
    """What is said of dropped claims."""
    told = count_of(dropped, "claim was", "claims were")
    return [f"{told} dropped: no row shows what was said."] if dropped else []


def _report(
    evidence: Evidence, made: Mapping[str, Any], source: Source, note: str, usage: Usage | None, dropped: int | None
) -> Report:
    cited = list(dict.fromkeys(_citations(made)))
    body = {
        "kind": evidence.kind,
        "date": str(evidence.day),
        **made,
        "unknown": list(evidence.unknown),
        "left_out": dict(evidence.left_out),
        "source": source,
        "note": note,
        "evidence": {name: evidence.by_id[name].said for name in cited},
    }
    return Report(
        kind=evidence.kind,
        day=evidence.day,
        status=body["overall_status"],
        source=source,
        body=body,
        markdown=report_markdown(body),
        input_sha256=evidence.input_sha256,
        note=note,
        model=usage.model if usage else None,
        stop_reason=usage.stop_reason if usage else None,
        input_tokens=usage.input_tokens if usage else None,
        output_tokens=usage.output_tokens if usage else None,
        cost_usd=usage.cost_usd if usage else None,
        dropped_claims=dropped,
    )


def _citations(value: Any) -> Iterable[str]:
    """Every id that is cited anywhere in a body."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            if name in {"citations", "summary_citations"}:
                yield from item
            else:
                yield from _citations(item)
    elif isinstance(value, list):
        for item in value:
            yield from _citations(item)
