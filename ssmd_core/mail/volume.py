"""The mail on volume: what was traded on a day. Units differ by feed, so nothing is summed over feeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from html import escape
from typing import Literal

from ssmd_core.mail import parts
from ssmd_core.mail.diagnosis import source_told
from ssmd_core.mail.render import Mail, page

_MAX_FEEDS, _MAX_HIGHLIGHTS, _MAX_OBSERVATIONS, _MAX_TOP = 12, 10, 10, 5
_MAX_SUMMARY_CHARS, _MAX_TICKER_CHARS = 600, 100


@dataclass(frozen=True, slots=True)
class FeedVolume:
    """What was traded on a feed.

    Attributes:
        trades: how many; None: unknown, e.g. because the day has no dataset.
        volume: in `unit`; None: unknown.
        unit: `contracts`, `base currency`, `USD`, …
        top: instruments with the most of it, the first one leading.
        notable: one sentence; "" for none.
    """

    feed: str
    trades: int | None
    volume: Decimal | int | None
    unit: str
    top: Sequence[str] = ()
    notable: str = ""


@dataclass(frozen=True, slots=True)
class Highlight:
    """An instrument worth a look."""

    ticker: str
    feed: str
    why: str


@dataclass(frozen=True, slots=True)
class VolumeMail:
    """A day's volume.

    Attributes:
        date: UTC.
        source: who wrote it.
        note: why it was not a model; "" for nothing.
    """

    date: date
    summary: str
    source: Literal["model", "rules"] = "rules"
    note: str = ""
    feeds: Sequence[FeedVolume] = ()
    highlights: Sequence[Highlight] = ()
    observations: Sequence[str] = ()


def volume_mail(volume: VolumeMail) -> Mail:
    """The mail."""
    return parts.fitted(volume, _mail)


def _mail(volume: VolumeMail) -> Mail:
    title = f"Volume of {parts.day(volume.date)}, UTC"
    summary = parts.cut(volume.summary, _MAX_SUMMARY_CHARS)
    source = source_told(volume.source, volume.note)
    html = [f'<h1>{title}</h1><p>{escape(summary)}</p><p class="quiet">{escape(source)}</p>']
    text = [title, "", summary, source]
    feeds, more = parts.some(volume.feeds, _MAX_FEEDS, "feeds")
    for feed in feeds:
        block, lines = _feed(feed)
        html.append(block)
        text.extend(["", *lines])
    if more:
        html.append(f"<p>{more}</p>")
        text.append(more)
    for heading, items in (("Worth a look", _highlights(volume)), ("Seen", _observations(volume))):
        if items:
            html.append(f"<h2>{heading}</h2>{parts.listed(block for block, _ in items)}")
            text.extend(["", f"{heading}:", *(f"- {line}" for _, line in items)])
    return page(f"[ssmd] Volume {volume.date}", "".join(html), "\n".join(text) + "\n")


def _feed(feed: FeedVolume) -> tuple[str, list[str]]:
    name, unit = parts.cut(feed.feed, parts.MAX_NAME_CHARS), parts.cut(feed.unit, 32)
    amount = parts.cut(parts.number(feed.volume), 40)
    trades = (
        "trades not known" if feed.trades is None else f"{feed.trades:,} {'trade' if feed.trades == 1 else 'trades'}"
    )
    # A feed whose instruments have different units has no volume of its own.
    volume_html = "" if feed.volume is None else f"<b>{escape(amount)}</b> {escape(unit)} · "
    top = [parts.cut(ticker, _MAX_TICKER_CHARS) for ticker in feed.top[:_MAX_TOP]]
    notable = parts.cut(feed.notable)
    html = (
        f'<div style="border-top:1px solid #8888;margin-top:1rem;padding-top:.6rem">'
        f'<b style="font-size:1.05rem">{escape(name)}</b>'
        f"<p>{volume_html}{trades}</p>"
    )
    lines = [f"{name}: {trades}" if feed.volume is None else f"{name}: {amount} {unit}, {trades}"]
    if top:
        html += f'<p class="quiet">Most: {", ".join(f"<code>{escape(ticker)}</code>" for ticker in top)}</p>'
        lines.append(f"  most: {', '.join(top)}")
    if notable:
        html += f"<p>{escape(notable)}</p>"
        lines.append(f"  {notable}")
    return f"{html}</div>", lines


def _highlights(volume: VolumeMail) -> list[tuple[str, str]]:
    shown, more = parts.some(volume.highlights, _MAX_HIGHLIGHTS, "instruments")
    items = []
    for one in shown:
        ticker, feed = parts.cut(one.ticker, _MAX_TICKER_CHARS), parts.cut(one.feed, parts.MAX_NAME_CHARS)
        rest = f" ({feed}): {parts.cut(one.why)}"
        items.append((f"<code>{escape(ticker)}</code>{escape(rest)}", f"{ticker}{rest}"))
    return [*items, *([(more, more)] if more else [])]


def _observations(volume: VolumeMail) -> list[tuple[str, str]]:
    shown, more = parts.some(volume.observations, _MAX_OBSERVATIONS, "observations")
    items = [(parts.html(one), parts.cut(one)) for one in shown]
    return [*items, *([(more, more)] if more else [])]
