"""The mail on the diagnosis: what is wrong, why, what to do, and the rows that show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from html import escape
from typing import Literal
from urllib.parse import urlsplit

from ssmd_core.mail import parts
from ssmd_core.mail.render import Mail, badge, page

_MAX_FEEDS, _MAX_TRENDS, _MAX_RECOMMENDATIONS, _MAX_CITATIONS, _MAX_CITED = 10, 10, 8, 30, 8
_MAX_SUMMARY_CHARS, _MAX_CITATION_CHARS, _MAX_URL_CHARS, _MAX_ID_CHARS = 600, 120, 300, 120
_MAX_FINDING_CHARS = 400
_ARROWS = {"improving": "▲", "stable": "●", "degrading": "▼"}
_COLOURS = {"GREEN": "#2e7d32", "YELLOW": "#f9a825", "RED": "#c62828"}


@dataclass(frozen=True, slots=True)
class FeedDiagnosis:
    """What is said of a feed; "" where nothing is.

    Attributes:
        status: `GREEN`, `YELLOW` or `RED`.
        citations: ids of rows that show it.
    """

    feed: str
    status: str
    issue: str = ""
    likely_cause: str = ""
    action: str = ""
    citations: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class TrendNote:
    """Where a feed is going."""

    feed: str
    direction: Literal["improving", "stable", "degrading"]
    note: str = ""
    citations: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What to do, the most urgent first."""

    text: str
    citations: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Citation:
    """A row that is cited.

    Attributes:
        id: e.g. `score:kraken:2026-11-21`.
        text: what the row says.
        url: where it can be opened; "" or anything but http(s): no link.
    """

    id: str
    text: str
    url: str = ""


@dataclass(frozen=True, slots=True)
class DiagnosisMail:
    """A day's diagnosis.

    Attributes:
        date: UTC.
        status: `GREEN`, `YELLOW` or `RED`.
        source: who wrote it.
        note: why it was not a model, what was dropped; "" for nothing.
    """

    date: date
    status: str
    summary: str
    source: Literal["model", "rules"]
    note: str = ""
    feeds: Sequence[FeedDiagnosis] = ()
    trends: Sequence[TrendNote] = ()
    recommendations: Sequence[Recommendation] = ()
    citations: Sequence[Citation] = ()


def diagnosis_mail(diagnosis: DiagnosisMail) -> Mail:
    """The mail. Rows are cited by their number in the list at its end."""
    return parts.fitted(diagnosis, _mail)


def _mail(diagnosis: DiagnosisMail) -> Mail:
    numbers = {one.id: number for number, one in enumerate(diagnosis.citations[:_MAX_CITATIONS], 1)}
    status = parts.cut(diagnosis.status, 20)
    title = f"Diagnosis of {parts.day(diagnosis.date)}, UTC"
    source = source_told(diagnosis.source, diagnosis.note)
    html = [
        f"<h1>{title}</h1>{badge(status)}",
        f'<div style="border-left:4px solid {_COLOURS.get(status, "#757575")};padding-left:12px;margin:1rem 0">'
        f'<p>{parts.html(diagnosis.summary, _MAX_SUMMARY_CHARS)}</p><p class="quiet">{escape(source)}</p></div>',
    ]
    text = [f"{title}: {status}", "", parts.cut(diagnosis.summary, _MAX_SUMMARY_CHARS), source]
    for heading, blocks in (
        ("What to do", _recommendations(diagnosis, numbers)),
        ("Feeds", _feeds(diagnosis, numbers)),
        ("Trends", _trends(diagnosis, numbers)),
        ("Rows cited", _citations(diagnosis)),
    ):
        if blocks:
            html.append(f"<h2>{heading}</h2>{''.join(block for block, _ in blocks)}")
            text.extend(["", f"{heading}:", *(line for _, line in blocks)])
    return page(f"[ssmd] Diagnosis {status} {diagnosis.date}", "".join(html), "\n".join(text) + "\n")


def source_told(source: str, note: str) -> str:
    """Who wrote a report."""
    who = "Written by a language model from the rows cited." if source == "model" else "Written by fixed rules."
    return f"{who} {parts.cut(note)}".strip()


#: Blocks of a section, as HTML and as plain text.
_Blocks = list[tuple[str, str]]


def _recommendations(diagnosis: DiagnosisMail, numbers: Mapping[str, int]) -> _Blocks:
    shown, more = parts.some(diagnosis.recommendations, _MAX_RECOMMENDATIONS, "recommendations")
    blocks = []
    for number, one in enumerate(shown, 1):
        cited = _cited(one.citations, numbers)
        html = (
            f'<table class="plain" role="presentation"><tr>'
            f'<td style="border:0;padding:0 8px .4rem 0;vertical-align:top">{number}.</td>'
            f'<td style="border:0;padding:0 0 .4rem 0;vertical-align:top">{parts.html(one.text)}{cited}</td>'
            "</tr></table>"
        )
        blocks.append((html, f"{number}. {parts.cut(one.text)}{cited}"))
    return [*blocks, *_more(more)]


def _feeds(diagnosis: DiagnosisMail, numbers: Mapping[str, int]) -> _Blocks:
    shown, more = parts.some(diagnosis.feeds, _MAX_FEEDS, "feeds")
    blocks = []
    for one in shown:
        name, status = parts.cut(one.feed, parts.MAX_NAME_CHARS), parts.cut(one.status, 20)
        cited = _cited(one.citations, numbers)
        said = [("", one.issue), ("Likely cause: ", one.likely_cause), ("Do: ", one.action)]
        lines = [f"{label}{parts.cut(value, _MAX_FINDING_CHARS)}" for label, value in said if value]
        if lines:
            lines[0] += cited
        html = (
            f'<div style="border-top:1px solid #8888;padding:.6rem 0">'
            f"{parts.two_sides(f'<b>{escape(name)}</b>', badge(status))}{''.join(f'<p>{escape(x)}</p>' for x in lines)}"
            "</div>"
        )
        blocks.append((html, "\n".join([f"- {name}: {status}", *(f"    {line}" for line in lines)])))
    return [*blocks, *_more(more)]


def _trends(diagnosis: DiagnosisMail, numbers: Mapping[str, int]) -> _Blocks:
    shown, more = parts.some(diagnosis.trends, _MAX_TRENDS, "trends")
    blocks = []
    for one in shown:
        name, direction = parts.cut(one.feed, parts.MAX_NAME_CHARS), parts.cut(one.direction, 20)
        note = f": {parts.cut(one.note, _MAX_FINDING_CHARS)}" if one.note else ""
        rest = f" {direction}{note}{_cited(one.citations, numbers)}"
        arrow = _ARROWS.get(one.direction, "●")
        blocks.append((f"<p>{arrow} <b>{escape(name)}</b>{escape(rest)}</p>", f"- {name}{rest}"))
    return [*blocks, *_more(more)]


def _citations(diagnosis: DiagnosisMail) -> _Blocks:
    shown, more = parts.some(diagnosis.citations, _MAX_CITATIONS, "rows, which are in the report")
    blocks = []
    for number, one in enumerate(shown, 1):
        name, told = parts.cut(one.id, _MAX_ID_CHARS), parts.cut(one.text, _MAX_CITATION_CHARS)
        link = f'<a href="{escape(one.url)}">{escape(name)}</a>' if _is_link(one.url) else escape(name)
        html = f'<p style="font-size:.85rem">[{number}] <code>{link}</code> {escape(told)}</p>'
        blocks.append((html, f"[{number}] {name} {told}".rstrip()))
    return [*blocks, *_more(more)]


def _more(more: str) -> _Blocks:
    return [(f"<p>{more}</p>", more)] if more else []


def _cited(ids: Sequence[str], numbers: Mapping[str, int]) -> str:
    """E.g. ` [1] [4]`; ids that are not in the list are left out."""
    return "".join(f" [{numbers[one]}]" for one in ids[:_MAX_CITED] if one in numbers)


def _is_link(url: str) -> bool:
    try:
        parsed = urlsplit(url)
    except ValueError:
        return False
    plain = url.isascii() and url.isprintable() and " " not in url
    return plain and len(url) <= _MAX_URL_CHARS and parsed.scheme in {"http", "https"} and bool(parsed.hostname)
