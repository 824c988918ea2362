"""A report's body as Markdown, for Dagster's page and for terminals. All text in it is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ssmd_core.reports.texts import count_of, number_told
from ssmd_core.reports.texts import markdown_text as text

_SIGNS = {"improving": "▲", "stable": "●", "degrading": "▼"}


def report_markdown(body: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    lines = [f"# {'Diagnosis' if body['kind'] == 'diagnosis' else 'Volume'} {text(body['date'])}", ""]
    if body["kind"] == "diagnosis":
        lines += [f"**{text(body['overall_status'])}**", ""]
    lines += [f"{text(body['summary'])}{_cited(body['summary_citations'])}", "", _source(body), ""]
    lines += _diagnosis(body) if body["kind"] == "diagnosis" else _volume(body)
    lines += _section("Not known", [f"- {text(one)}" for one in body["unknown"]])
    if left := body["left_out"]:
        told = ", ".join(f"{number} × {text(kind)}" for kind, number in left.items())
        lines += [f"Rows that did not fit and were not looked at: {told}.", ""]
    lines += _section("Rows", [f"- {text(name)}: {text(said)}" for name, said in body["evidence"].items()])
    return "\n".join(lines).rstrip() + "\n"


def _source(body: Mapping[str, Any]) -> str:
    who = "Written by a language model from the rows cited." if body["source"] == "model" else "Written by fixed rules."
    return f"*{who} {text(body['note'])}*"


def _diagnosis(body: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for feed in body["feeds"]:
        lines += [f"## {text(feed['feed'])}: {text(feed['status'])}", ""]
        lines += [f"- What: {text(feed['issue'])}", f"- Why: {text(feed['likely_cause'])}"]
        lines += [f"- Do: {text(feed['action'])}{_cited(feed['citations'])}", ""]
    trends = [
        f"- {_SIGNS[one['direction']]} {text(one['feed'])} {one['direction']}: {text(one['note'])}"
        f"{_cited(one['citations'])}"
        for one in body["trends"]
    ]
    return lines + _section("Trends", trends) + _section("What to do", _numbered(body["recommendations"]))


def _volume(body: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for feed in body["feed_summaries"]:
        lines += [f"## {text(feed['feed'])}", ""]
        lines += [f"- {_amount(feed)}"]
        for one in feed["top_tickers"]:
            title = f" ({text(one['title'])})" if one["title"] else ""
            trades = count_of(one["trade_count"], "trade")
            lines += [f"- {text(one['ticker'])}{title}: {trades}, volume {text(number_told(one['volume']))}"]
        lines += [f"- {text(feed['notable'])}{_cited(feed['citations'])}", ""]
    highlights = [
        f"- {text(one['feed'])} {text(one['ticker'])}{' (' + text(one['title']) + ')' if one['title'] else ''}: "
        f"{text(one['why'])}{_cited(one['citations'])}"
        for one in body["market_highlights"]
    ]
    observations = [f"- {text(one['text'])}{_cited(one['citations'])}" for one in body["observations"]]
    return lines + _section("Highlights", highlights) + _section("Observations", observations)


def _amount(feed: Mapping[str, Any]) -> str:
    """Trades and volume of a feed."""
    if feed["trade_count"] is None:
        return "trades not known"
    trades, unit = count_of(feed["trade_count"], "trade"), text(feed["volume_unit"])
    if feed["volume"] is None:
        return f"{trades}; volumes ({unit}) are not added, because instruments differ in their unit"
    return f"{trades}, volume {text(number_told(feed['volume']))} {unit}"


def _section(title: str, lines: Iterable[str]) -> list[str]:
    found = list(lines)
    return [f"## {title}", "", *found, ""] if found else []


def _numbered(sentences: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"{n}. {text(one['text'])}{_cited(one['citations'])}" for n, one in enumerate(sentences, start=1)]


def _cited(citations: Sequence[str]) -> str:
    return f" \\[{', '.join(map(text, citations))}\\]" if citations else ""
