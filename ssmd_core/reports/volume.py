"""The daily report of what was traded. Volumes of different feeds, or units, are never added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

import psycopg

from ssmd_core.reports.answers import MAX_CLAIM_CHARS, MAX_HIGHLIGHTS, VolumeAnswer
from ssmd_core.reports.claims import Sieve, unique
from ssmd_core.reports.evidence import MAX_EVIDENCE_BYTES, Evidence, Item, Status, fitted
from ssmd_core.reports.making import Body, NothingLeftError, dropped_remark, make
from ssmd_core.reports.model import ModelSettings
from ssmd_core.reports.store import Made
from ssmd_core.reports.texts import clean, count_of, hours_told, number_told
from ssmd_core.reports.volume_inputs import TopTicker, VolumeInput

# Token ids of Polymarket have 78 digits.
_MAX_TICKER_CHARS, _MAX_READABLE_CHARS = 128, 48


async def analyze_volume(
    connection: psycopg.AsyncConnection,
    day: date,
    inputs: Sequence[VolumeInput],
    *,
    model: ModelSettings | None,
    force: bool = False,
) -> Made:
    """Report what was traded on a day, and store it; errors of the model as of `diagnose`.

    Args:
        connection: in autocommit.
        day: UTC.
        inputs: see `volume_inputs.read_volumes`; one a feed.
        model: None to ask none.
        force: ask the model in any case.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    evidence = volume_evidence(day, inputs)
    return await make(
        connection,
        evidence,
        model=model,
        force=force,
        form=VolumeAnswer,
        by_rules=volume_by_rules,
        from_answer=volume_of,
        not_needed="" if any(one.trade_count for one in inputs) else "no trades are known of this day.",
        needed=any(one.trade_count for one in inputs),
    )


def volume_evidence(day: date, inputs: Sequence[VolumeInput]) -> Evidence:
    """The inputs as rows that can be cited: `volume:{feed}:{date}` and `ticker:{feed}:{ticker}`."""
    items = [_feed_item(day, one) for one in inputs]
    tickers: dict[str, Item] = {}
    for one in inputs:
        for place, top in enumerate(one.top, start=1):
            item = _ticker_item(one, place, top)
            # Two tickers that differ in invisible characters alone: the first stands.
            tickers.setdefault(item.id, item)
    kept, left_out = fitted([*items, *tickers.values()], MAX_EVIDENCE_BYTES)
    statuses: dict[str, Status | None] = {one.feed: "YELLOW" if one.missing_hours else "GREEN" for one in inputs}
    return Evidence(
        kind="volume",
        day=day,
        items=kept,
        statuses=dict(sorted(statuses.items())),
        unknown=tuple(_unknown(inputs)) or (() if inputs else (f"there is no dataset of {day}",)),
        left_out=left_out,
    )


def _feed_item(day: date, one: VolumeInput) -> Item:
    facts = {
        "date": str(day),
        "trades": one.trade_count,
        "volume": _text(one.volume),
        "unit": clean(one.unit, 64),
        "active_tickers": one.active_tickers,
        "hours_without_dataset": len(one.missing_hours),
    }
    if one.trade_count is None:
        said = f"{one.feed} on {day}: trades not known, no hour has a dataset"
    else:
        volume = "" if one.volume is None else f", volume {number_told(_text(one.volume))} {facts['unit']}"
        said = f"{one.feed} on {day}: {count_of(one.trade_count, 'trade')} in {one.active_tickers:,} tickers{volume}"
    return Item(f"volume:{one.feed}:{day}", "volume", one.feed, facts, said)


def _ticker_item(one: VolumeInput, place: int, top: TopTicker) -> Item:
    ticker, title = clean(top.ticker, _MAX_TICKER_CHARS), clean(top.title)
    facts = {
        "ticker": ticker,
        "title": title,
        "place": place,
        "trades": top.trade_count,
        "volume": _text(top.volume),
        "unit": clean(one.unit, 64),
    }
    volume = f"{number_told(_text(top.volume))} {facts['unit']}"
    said = f"{one.feed} {ticker}: {count_of(top.trade_count, 'trade')}, volume {volume}"
    return Item(f"ticker:{one.feed}:{ticker}", "ticker", one.feed, facts, said)


def _unknown(inputs: Sequence[VolumeInput]) -> list[str]:
    found = []
    for one in inputs:
        if one.missing_hours:
            hours = [int(hour[:2]) for hour in one.missing_hours]
            told = count_of(len(hours), "hour has", "hours have")
            found.append(f"{one.feed}: {told} no dataset and no part in the sums, {hours_told(hours)}")
    return found


def volume_by_rules(evidence: Evidence) -> Body:
    """The report without a model."""
    feeds = [_feed_summary(evidence, item) for item in evidence.of("volume")]
    highlights = [
        _highlight(item) for item in evidence.of("ticker") if item.facts["place"] == 1 and item.facts["trades"]
    ]
    return {
        "overall_status": evidence.status,
        **_summary(evidence),
        "feed_summaries": feeds,
        "market_highlights": highlights[:MAX_HIGHLIGHTS],
        "observations": [],
    }


def volume_of(evidence: Evidence, answer: VolumeAnswer) -> tuple[Body, int, list[str]]:
    """What is kept of an answer; its numbers are those of the rows.

    Raises:
        NothingLeftError: no claim could be kept.
    """
    sieve = Sieve(evidence)
    summary = sieve.kept([answer.summary])
    notable = {one.feed: one for one in sieve.kept(answer.feed_summaries, about="feed")}
    observations = sieve.kept(answer.observations)
    highlights = []
    for one in answer.market_highlights:
        item = evidence.by_id.get(f"ticker:{one.feed}:{one.ticker}")
        # A highlight is about an instrument that is in the rows, and cites it.
        if item and item.id in one.citations and sieve.kept([one]):
            highlights.append(
                {**_highlight(item), "why": clean(one.why, MAX_CLAIM_CHARS), "citations": unique(one.citations)}
            )
        elif not item or item.id not in one.citations:
            sieve.dropped += 1
    if not (notable or highlights or observations) and (sieve.dropped or not summary):
        raise NothingLeftError(sieve.dropped)
    feeds = []
    for item in evidence.of("volume"):
        told = _feed_summary(evidence, item)
        if claim := notable.get(item.feed):
            told |= {"notable": clean(claim.notable, MAX_CLAIM_CHARS), "citations": unique([item.id, *claim.citations])}
        feeds.append(told)
    said: Body = _summary(evidence)
    if summary:
        said = {"summary": clean(summary[0].text, MAX_CLAIM_CHARS), "summary_citations": unique(summary[0].citations)}
    body: dict[str, Any] = {
        "overall_status": evidence.status,
        **said,
        "feed_summaries": feeds,
        "market_highlights": highlights,
        "observations": [
            {"text": clean(one.text, MAX_CLAIM_CHARS), "citations": unique(one.citations)} for one in observations
        ],
    }
    return body, sieve.dropped, dropped_remark(sieve.dropped)


def _summary(evidence: Evidence) -> Body:
    items = evidence.of("volume")
    told = "; ".join(
        f"{item.feed} {'not known' if item.facts['trades'] is None else count_of(item.facts['trades'], 'trade')}"
        for item in items
    )
    return {
        "summary": f"{told}." if told else "Nothing is known of this day.",
        "summary_citations": [item.id for item in items],
    }


def _feed_summary(evidence: Evidence, item: Item) -> Body:
    tickers = evidence.of("ticker", item.feed)
    facts = item.facts
    if facts["trades"] is None:
        notable = "No hour of the day has a dataset, so that nothing is known of its trades."
    elif not tickers:
        notable = "No trade came."
    else:
        first = tickers[0].facts
        notable = f"{name_of(first)} comes first, with {_trades_of(first)}."
    return {
        "feed": item.feed,
        "trade_count": facts["trades"],
        "volume": facts["volume"],
        "volume_unit": facts["unit"],
        "active_tickers": facts["active_tickers"],
        "top_tickers": [
            {
                "ticker": one.facts["ticker"],
                "title": one.facts["title"],
                "trade_count": one.facts["trades"],
                "volume": one.facts["volume"],
            }
            for one in tickers
        ],
        "notable": notable,
        "citations": [item.id, *(one.id for one in tickers[:1])],
    }


def _highlight(item: Item) -> Body:
    facts = item.facts
    return {
        "ticker": facts["ticker"],
        "feed": item.feed,
        "title": facts["title"],
        "why": f"First of its feed, with {_trades_of(facts)}.",
        "citations": [item.id],
    }


def name_of(told: Mapping[str, Any]) -> str:
    """An instrument for people: a title says more than a token id of 78 digits."""
    ticker, title = str(told["ticker"]), str(told["title"])
    if len(ticker) > _MAX_READABLE_CHARS:
        return title or f"{ticker[:8]}…{ticker[-8:]}"
    return f"{ticker} ({title})" if title else ticker


def _trades_of(facts: Mapping[str, Any]) -> str:
    return f"{count_of(facts['trades'], 'trade')} and {number_told(facts['volume'])} {facts['unit']}"


def _text(value: Decimal | float | None) -> str | None:
    """A number as text: decimals exactly, without zeros that a column adds; floats as they print."""
    if value is None:
        return None
    if isinstance(value, float):
        return f"{value:.12g}"
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
