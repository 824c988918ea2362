"""The daily mail on health: one grade, what is wrong, and every feed's day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from ssmd_core.mail import parts
from ssmd_core.mail.render import Image, Mail, badge, page
from ssmd_core.text import Score, whole

_MAX_FEEDS, _MAX_ISSUES, _MAX_COMPONENTS = 10, 15, 8
# Of more feeds the trend is only told: a month's picture has up to 5 kB.
_MAX_TREND_PICTURES = 4
_MAX_NOTE_CHARS, _MAX_ISSUE_CHARS, _MAX_COMPONENT_CHARS = 200, 240, 40


#: Scores of days.
Points = Sequence[tuple[date, Score]]


@dataclass(frozen=True, slots=True)
class FeedHealth:
    """A feed's, or a stream's, day.

    Attributes:
        name: `kraken` or `kraken/spot`.
        score: 0 to 100; None: unknown.
        letter: A to F, of this feed's own score; "" if there is none.
        components: what the score is made of, by name.
        words: of 24 hours, UTC, from midnight on: `complete`, `degraded`, `empty`, `missing`; None: not proved.
        trend: scores of days, in any order, this one among them; one or none draws no picture.
        note: one sentence; "" for none.
    """

    name: str
    score: Score
    letter: str
    components: Mapping[str, Score] = field(default_factory=dict)
    words: Sequence[str | None] = ()
    trend: Points = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class HealthMail:
    """A day's health.

    Attributes:
        date: UTC.
        composite: 0 to 100; None: unknown.
        grade: `GREEN`, `YELLOW`, `RED`, or another word where nothing is known.
        feeds: the worst first, if somebody is to read on.
        issues: sentences that say what is wrong and what to do.
        trend: of the composite.
    """

    date: date
    composite: Score
    grade: str
    feeds: Sequence[FeedHealth]
    issues: Sequence[str] = ()
    trend: Points = ()


def health_mail(health: HealthMail) -> Mail:
    """The mail."""
    return parts.fitted(health, _mail)


def _mail(health: HealthMail) -> Mail:
    grade = parts.cut(health.grade, 20)
    feeds, more_feeds = parts.some(health.feeds, _MAX_FEEDS, "feeds")
    issues, more_issues = parts.some(health.issues, _MAX_ISSUES, "issues")
    sections, images = [], []
    for number, feed in enumerate(feeds):
        html, pictures = _feed_html(feed, number)
        sections.append(html)
        images.extend(pictures)
    title = f"Health of {parts.day(health.date)}, UTC"
    score = f'<span style="font-size:2rem;font-weight:bold;line-height:1">{whole(health.composite)}</span>/100'
    head = f"<h1>{title}</h1>{parts.two_sides(badge(grade), score)}"
    if health.issues:
        lines = [parts.html(issue, _MAX_ISSUE_CHARS) for issue in issues]
        told = f"<h2>{_issues_heading(health)}</h2>{parts.listed([*lines, *([more_issues] if more_issues else [])])}"
    else:
        told = f"<p>{_NO_ISSUES}</p>"
    trend = ""
    if len(health.trend) > 1:
        html, image = parts.trend_html("trend@ssmd", "all feeds", health.trend)
        trend, images = f"<h2>All feeds, day by day</h2>{html}", [image, *images]
    legend, swatches = parts.legend()
    more = f"<p>{more_feeds}</p>" if more_feeds else ""
    footer = f"<footer>{legend}<p>{_DASHED}</p></footer>" if feeds else ""
    return page(
        f"[ssmd] Health {grade} ({whole(health.composite)}/100) {health.date}",
        head + told + trend + "".join(sections) + more + footer,
        _text(health, title, grade),
        [*images, *(swatches if feeds else [])],
    )


_NO_ISSUES = "Nothing needs to be done."
_DASHED = "Dashed lines in the pictures: 85 (well above it) and 60 (bad below it)."


def _issues_heading(health: HealthMail) -> str:
    return "1 thing to look at" if len(health.issues) == 1 else f"{len(health.issues):,} things to look at"


def _feed_html(feed: FeedHealth, number: int) -> tuple[str, list[Image]]:
    name = parts.html(feed.name, parts.MAX_NAME_CHARS)
    letter = f"&ensp;<b>{parts.html(feed.letter, 3)}</b>" if feed.letter else ""
    score = f'<b style="font-size:1.25rem">{whole(feed.score)}</b>{letter}'
    heading = f'<b style="font-size:1.05rem">{name}</b>'
    html = (
        f'<div style="border-top:1px solid #8888;margin-top:1.5rem;padding-top:.6rem">{parts.two_sides(heading, score)}'
    )
    images = []
    if feed.note:
        html += f"<p>{parts.html(feed.note, _MAX_NOTE_CHARS)}</p>"
    strip, image = parts.strip_html(f"hours-{number}@ssmd", feed.name, feed.words)
    html, images = f'{html}<div style="margin-top:.5rem">{strip}</div>', [image]
    if len(feed.trend) > 1:
        if number < _MAX_TREND_PICTURES:
            trend, image = parts.trend_html(f"trend-{number}@ssmd", feed.name, feed.trend)
            html, images = html + trend, [*images, image]
        else:
            html += f'<p class="quiet">{parts.trend_told(feed.trend)}</p>'
    if told := _components(feed):
        html += f'<p class="quiet">{parts.html(told, _MAX_COMPONENTS * 2 * _MAX_COMPONENT_CHARS)}</p>'
    return f"{html}</div>", images


def _components(feed: FeedHealth) -> str:
    known, more = parts.some(list(feed.components.items()), _MAX_COMPONENTS, "components")
    told = [f"{parts.cut(name, _MAX_COMPONENT_CHARS)} {whole(score)}" for name, score in known]
    return " · ".join([*told, *([more] if more else [])])


def _text(health: HealthMail, title: str, grade: str) -> str:
    feeds, more_feeds = parts.some(health.feeds, _MAX_FEEDS, "feeds")
    issues, more_issues = parts.some(health.issues, _MAX_ISSUES, "issues")
    lines = [f"{title}: {grade}, {whole(health.composite)} of 100", ""]
    if health.issues:
        lines.append(f"{_issues_heading(health)}:")
        lines.extend(f"- {parts.cut(issue, _MAX_ISSUE_CHARS)}" for issue in issues)
        lines.extend([f"- {more_issues}"] if more_issues else [])
    else:
        lines.append(_NO_ISSUES)
    if len(health.trend) > 1:
        lines.extend(["", f"All feeds, {parts.trend_told(health.trend)}"])
    for feed in feeds:
        letter = f" ({parts.cut(feed.letter, 3)})" if feed.letter else ""
        lines.extend(["", f"{parts.cut(feed.name, parts.MAX_NAME_CHARS)}: {whole(feed.score)}{letter}"])
        if feed.note:
            lines.append(f"  {parts.cut(feed.note, _MAX_NOTE_CHARS)}")
        lines.append(f"  {parts.strip_letters(feed.words)}  {parts.strip_told(feed.words)}")
        if len(feed.trend) > 1:
            lines.append(f"  {parts.trend_told(feed.trend)}")
        if told := _components(feed):
            lines.append(f"  {told}")
    if more_feeds:
        lines.extend(["", more_feeds])
    if feeds:
        lines.extend(["", "Hours, UTC, from 00 on: C complete, D degraded, E empty, M missing, . not proved"])
    return "\n".join(lines) + "\n"
