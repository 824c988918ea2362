"""A report as a mail."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from ssmd_core.mail.diagnosis import Citation, DiagnosisMail, FeedDiagnosis, Recommendation, TrendNote, diagnosis_mail
from ssmd_core.mail.render import Mail
from ssmd_core.mail.volume import FeedVolume, Highlight, VolumeMail, volume_mail
from ssmd_core.reports.store import Report
from ssmd_core.reports.texts import DOMAIN_ENDS
from ssmd_core.reports.volume import name_of

_LINK = re.compile(rf":(?=//)|\bwww(?=\.)|(?<=\w)@(?=\w)|(?<=\w)\.(?=(?:{DOMAIN_ENDS})\b)", re.IGNORECASE)


def diagnosis_mail_of(report: Report) -> Mail:
    """The mail of a diagnosis."""
    return diagnosis_mail(_diagnosis(report))


def volume_mail_of(report: Report) -> Mail:
    """The mail of a day's volume."""
    return volume_mail(_volume(report))


def _diagnosis(report: Report) -> DiagnosisMail:
    body = _unlinked(report.body)
    return DiagnosisMail(
        date=report.day,
        status=report.status,
        summary=body["summary"],
        source=report.source,
        note=_note(body),
        feeds=[FeedDiagnosis(**one) for one in body["feeds"]],
        trends=[TrendNote(**one) for one in body["trends"]],
        recommendations=[Recommendation(**one) for one in body["recommendations"]],
        citations=[Citation(name, said) for name, said in body["evidence"].items()],
    )


def _volume(report: Report) -> VolumeMail:
    body = _unlinked(report.body)
    return VolumeMail(
        date=report.day,
        summary=body["summary"],
        source=report.source,
        note=_note(body),
        feeds=[_feed(one) for one in body["feed_summaries"]],
        highlights=[Highlight(name_of(one), one["feed"], one["why"]) for one in body["market_highlights"]],
        observations=[one["text"] for one in body["observations"]],
    )


def _feed(told: dict[str, Any]) -> FeedVolume:
    volume = told["volume"]
    return FeedVolume(
        feed=told["feed"],
        trades=told["trade_count"],
        volume=None if volume is None else Decimal(volume),
        unit=told["volume_unit"],
        top=[name_of(one) for one in told["top_tickers"]],
        notable=told["notable"],
    )


def _note(body: dict[str, Any]) -> str:
    unknown = "; ".join(body["unknown"])
    return f"{body['note']} Not known: {unknown}." if unknown else str(body["note"])


def _unlinked(value: Any) -> Any:
    """The body with a blank in what a mail program would make a link of: titles are written by strangers."""
    if isinstance(value, str):
        return _LINK.sub(r"\g<0> ", value)
    if isinstance(value, dict):
        return {name: _unlinked(item) for name, item in value.items()}
    return [_unlinked(item) for item in value] if isinstance(value, list) else value
