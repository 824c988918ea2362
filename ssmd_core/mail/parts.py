"""What the mails of health, diagnosis and volume are made of. Every text may be a stranger's: cut, cleaned, escaped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from datetime import date, timedelta
from decimal import Decimal
from html import escape
from typing import Any, TypeVar

from ssmd_core.mail import charts
from ssmd_core.mail.render import Image, Mail
from ssmd_core.text import Score, one_line, whole

T = TypeVar("T")
R = TypeVar("R")
V = TypeVar("V")

WORDS = ("complete", "degraded", "empty", "missing", None)
_LETTERS = {"complete": "C", "degraded": "D", "empty": "E", "missing": "M"}
_NOT_PROVED = "not proved"
#: A mail is read on a phone; what is longer stands in the report.
MAX_TEXT_CHARS = 400
MAX_NAME_CHARS = 64
MAX_DAYS = 30
# As sent, in base64 and with headers, it is 1.4 times as large.
_MAX_BYTES = 65_000
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def cut(text: str, max_chars: int = MAX_TEXT_CHARS) -> str:
    """One line, not too long, without control characters."""
    return one_line(text, max_chars)


def html(text: str, max_chars: int = MAX_TEXT_CHARS) -> str:
    """The same, escaped."""
    return escape(cut(text, max_chars))


def day(moment: date) -> str:
    """A day for people, e.g. `21 Nov 2026`; in English, whatever the locale."""
    return f"{short_day(moment)} {moment.year}"


def short_day(moment: date) -> str:
    """E.g. `21 Nov`."""
    return f"{moment.day} {_MONTHS[moment.month - 1]}"


def some(items: Sequence[T], limit: int, what: str) -> tuple[Sequence[T], str]:
    """The first ones, and a sentence about the others, "" if there are none."""
    left = len(items) - limit
    return items[:limit], f"and {left:,} more {what}" if left > 0 else ""


def fitted(report: R, build: Callable[[R], Mail]) -> Mail:
    """The mail on a report, with texts as short as it takes for the mail to stay below 100 kB, its pictures included.

    Mail programs show no more than that; only a report of hundreds of long or strange texts comes near it.
    """
    mail = build(report)
    for max_chars in (150, 60, 24, 12):
        size = len(mail.html.encode()) + len(mail.text.encode()) + sum(len(image.png) for image in mail.images)
        if size <= _MAX_BYTES:
            break
        mail = build(_shortened(report, max_chars))
    return mail


def _shortened(value: V, max_chars: int) -> V:
    """The same with every string in it cut, at any depth."""
    short: Any = value
    if isinstance(value, str):
        short = cut(value, max_chars)
    elif is_dataclass(value) and not isinstance(value, type):
        short = replace(
            value, **{member.name: _shortened(getattr(value, member.name), max_chars) for member in fields(value)}
        )
    elif isinstance(value, Mapping):
        short = {cut(str(key), max_chars): _shortened(item, max_chars) for key, item in value.items()}
    elif isinstance(value, (list, tuple)):
        short = [_shortened(item, max_chars) for item in value]
    checked: V = short
    return checked


def listed(items: Iterable[str], tag: str = "ul") -> str:
    """A list of HTML fragments."""
    return f"<{tag}>{''.join(f'<li>{item}</li>' for item in items)}</{tag}>"


def picture(cid: str, alt: str, width_px: int, height_px: int) -> str:
    """An image as wide as the column, at most `width_px`."""
    return (
        f'<img src="cid:{cid}" alt="{escape(alt)}" width="{width_px}" '
        f'style="display:block;width:100%;max-width:{width_px}px;height:auto;aspect-ratio:{width_px}/{height_px}">'
    )


def two_sides(left: str, right: str) -> str:
    """A line with something at both of its ends."""
    return (
        f'<table class="plain" role="presentation" width="100%" style="width:100%"><tr>'
        f'<td style="border:0;padding:0;vertical-align:middle">{left}</td>'
        f'<td style="border:0;padding:0 0 0 12px;text-align:right;vertical-align:middle;white-space:nowrap">{right}'
        "</td></tr></table>"
    )


def word_of(words: Sequence[str | None], hour: int) -> str | None:
    """An hour's word; None for a word that is none of the four, and for an hour that is not given."""
    word = words[hour] if hour < len(words) else None
    return word if word in _LETTERS else None


def strip_letters(words: Sequence[str | None]) -> str:
    """The strip for plain text: a letter an hour, a dot where nothing is proved, e.g. `CCCCCC CCDCCC CCCCCC CC....`."""
    letters = "".join(_LETTERS.get(word_of(words, hour) or "", ".") for hour in range(24))
    return " ".join(letters[start : start + 6] for start in range(0, 24, 6))


def strip_told(words: Sequence[str | None]) -> str:
    """What a strip says, e.g. `complete 22 h, degraded 07-08 (2 h)`."""
    told = []
    for word in WORDS:
        hours = [hour for hour in range(24) if word_of(words, hour) == word]
        if hours:
            which = "" if word == "complete" else f"{_ranges(hours)} "
            told.append(f"{word or _NOT_PROVED} {which}({len(hours)} h)" if which else f"{word} {len(hours)} h")
    return ", ".join(told)


def strip_html(cid: str, name: str, words: Sequence[str | None]) -> tuple[str, Image]:
    """The heat strip of a feed with its hours below."""
    image = Image(cid, charts.strip(tuple(word_of(words, hour) for hour in range(24))))
    axis = "".join(
        f'<td class="quiet" width="25%" style="border:0;padding:0">{hour:02}</td>' for hour in (0, 6, 12, 18)
    )
    told = strip_told(words)
    return (
        picture(cid, f"Hours of {cut(name, MAX_NAME_CHARS)}: {told}", charts.STRIP_WIDTH // 2, charts.STRIP_HEIGHT // 2)
        + f'<table role="presentation" style="width:100%;max-width:{charts.STRIP_WIDTH // 2}px"><tr>{axis}</tr></table>'
        + f'<p class="quiet">{escape(told)}</p>',
        image,
    )


def legend() -> tuple[str, list[Image]]:
    """What the patterns of the strips mean."""
    images, items = [], []
    for word in WORDS:
        cid = f"word-{word or 'none'}@ssmd"
        images.append(Image(cid, charts.swatch(word)))
        items.append(
            f'<span style="white-space:nowrap;margin-right:14px"><img src="cid:{cid}" alt="" width="14" height="14" '
            f'style="width:14px;height:14px;vertical-align:-2px"> {word or _NOT_PROVED}</span>'
        )
    return f"<p>Hours, UTC: {' '.join(items)}</p>", images


def every_day(points: Sequence[tuple[date, Score]]) -> list[tuple[date, Score]]:
    """The last 30 days up to the newest point, from the oldest one on; days that are not given have no score."""
    scores = dict(points)
    last = max(scores)
    first = max(min(scores), last - timedelta(days=MAX_DAYS - 1))
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    return [(moment, scores.get(moment)) for moment in days]


def trend_told(points: Sequence[tuple[date, Score]]) -> str:
    """What a trend says, e.g. `15 Nov to 21 Nov: 97 to 94, lowest 58 on 18 Nov, 1 day without a score`."""
    points = every_day(points)
    known = [(moment, score) for moment, score in points if score is not None]
    span = f"{short_day(points[0][0])} to {short_day(points[-1][0])}"
    if not known:
        return f"{span}: no scores"
    lowest_day, lowest = min(known, key=lambda one: (one[1], one[0]))
    told = f"{span}: {whole(known[0][1])} to {whole(known[-1][1])}, lowest {whole(lowest)} on {short_day(lowest_day)}"
    unknown = len(points) - len(known)
    return told if not unknown else f"{told}, {unknown} {'day' if unknown == 1 else 'days'} without a score"


def trend_html(cid: str, name: str, points: Sequence[tuple[date, Score]]) -> tuple[str, Image]:
    """The picture of a trend, and what it says."""
    points = every_day(points)
    told = trend_told(points)
    image = Image(cid, charts.trend(tuple(score for _, score in points)))
    alt = f"Score of {cut(name, MAX_NAME_CHARS)}, {told}"
    return (
        picture(cid, alt, charts.TREND_WIDTH // 2, charts.TREND_HEIGHT // 2) + f'<p class="quiet">{escape(told)}</p>',
        image,
    )


def number(value: Decimal | int | None) -> str:
    """A number with its thousands, all its digits; a dash where it is unknown."""
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,f}"


def _ranges(hours: Sequence[int]) -> str:
    """E.g. `03-05, 09`."""
    runs: list[list[int]] = []
    for hour in hours:
        if runs and runs[-1][1] == hour - 1:
            runs[-1][1] = hour
        else:
            runs.append([hour, hour])
    return ", ".join(f"{first:02}" if first == last else f"{first:02}-{last:02}" for first, last in runs)
