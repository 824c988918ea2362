"""A mail with tables, as HTML and as plain text. Whatever stands in a cell may be a stranger's: it is escaped in HTML,
and nowhere are there control characters in it.

No colours of text or ground are set, so that a reader's dark mode is dark; lines are a grey that shows on both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from html import escape
from typing import Any

from ssmd_core.text import shown

_FONT = "font:15px/1.45 system-ui,-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif"
_INLINE = {
    "<h1>": "font-size:20px;line-height:1.5;margin:0 0 8px",
    "<h2>": "font-size:17px;margin:28px 0 8px",
    "<p>": "margin:6px 0",
    '<p class="quiet">': "margin:6px 0;font-size:13px;opacity:.75",
}
_STYLE = (
    ":root{color-scheme:light dark;supported-color-schemes:light dark}"
    "body{margin:0;padding:16px}"
    "ul,ol{margin:.4rem 0;padding-left:1.4rem}li{margin:.25rem 0}"
    "table{border-collapse:collapse}"
    "th,td{text-align:left;vertical-align:top;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #8888}"
    ".plain td{border:0;padding:0}"
    ".number{text-align:right;font-variant-numeric:tabular-nums}"
    ".count{border:1px solid #8888;border-radius:1rem;padding:0 .5rem;font-weight:normal}"
    ".quiet{font-size:.85rem;opacity:.75}"
    "footer{margin-top:1.75rem;font-size:.85rem}"
)
# Dark enough for white letters, or light enough for black ones (at least 4.5:1), on either ground.
_BADGES = {"GREEN": ("#2e7d32", "#fff"), "YELLOW": ("#f9a825", "#000"), "RED": ("#c62828", "#fff")}
_OTHER_BADGE = ("#616161", "#fff")
# Tables of eight columns need a desk's screen.
_TABLES_WIDTH_PX = 1_400


@dataclass(frozen=True, slots=True)
class Image:
    """A picture in the HTML part, where it stands as `<img src="cid:{cid}">`.

    Attributes:
        cid: its content id: ASCII letters, digits, `-`, `.` and `@`.
        png: the file.
    """

    cid: str
    png: bytes


@dataclass(frozen=True, slots=True)
class Section:
    """A table with its heading.

    Attributes:
        count: what the badge beside the heading says.
        rows: of any values; numbers stand on the right.
    """

    title: str
    count: int
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Mail:
    """What is sent.

    Attributes:
        html, text: the same in both forms.
        images: what the HTML shows.
    """

    subject: str
    html: str
    text: str
    images: tuple[Image, ...] = ()


def page(subject: str, body: str, text: str, images: Sequence[Image] = (), *, width_px: int = 600) -> Mail:
    """A mail of one column.

    Args:
        subject: becomes one line, whatever stands in it.
        body: HTML, escaped where it must be.
        text: the same as plain text.
        width_px: of the column, where the screen is not narrower.
    """
    title = " ".join(shown(subject).splitlines())
    html = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
        f'<meta name="supported-color-schemes" content="light dark">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>"
        f'<div style="{_FONT};max-width:{width_px}px;margin:0 auto;overflow-wrap:break-word">'
        f"{_inlined(body)}</div></body></html>\n"
    )
    # An e-mail header ends at each of the eleven ends of a line that Unicode knows.
    return Mail(title, html, text, tuple(images))


def _inlined(body: str) -> str:
    """What mail programs that drop the style sheet must have all the same; text is escaped, so only tags are met."""
    for start, style in _INLINE.items():
        body = body.replace(start, f'{start[:-1]} style="{style}">')
    return body


def badge(word: str, colour: str = "") -> str:
    """A word on a coloured ground: `GREEN`, `YELLOW` or `RED`, else grey.

    Args:
        colour: the ground's, if it is another than the word's own.
    """
    ground, letters = _BADGES.get(colour or word, _OTHER_BADGE)
    return (
        f'<span style="background:{ground};color:{letters};border-radius:4px;padding:2px 8px;font-size:14px;'
        f'font-weight:bold;letter-spacing:.03em;white-space:nowrap">{escape(shown(word))}</span>'
    )


def mail(subject: str, title: str, sections: Sequence[Section], footer: str, *, max_rows: int) -> Mail:
    """A mail of tables.

    Args:
        max_rows: of one table; what is left out is counted.
    """
    html = "".join(_html(section, max_rows) for section in sections)
    text = "\n".join(_text(section, max_rows) for section in sections)
    body = f"<h1>{escape(shown(title))}</h1>{html}<footer>{escape(shown(footer))}</footer>"
    return page(subject, body, f"{shown(title)}\n\n{text}\n{shown(footer)}\n", width_px=_TABLES_WIDTH_PX)


def _html(section: Section, max_rows: int) -> str:
    heading = f'<h2>{escape(section.title)} <span class="count">{section.count:,}</span></h2>'
    if not section.rows:
        return f"{heading}<p>None.</p>"
    head = "".join(
        f'<th scope="col"{_class(value)}>{escape(column)}</th>'
        for column, value in zip(section.columns, section.rows[0], strict=True)
    )
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in section.rows[:max_rows])
    table = f'<div style="overflow-x:auto"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    return f"{heading}{table}{f'<p>{escape(more)}</p>' if (more := _more(section, max_rows)) else ''}"


def _cell(value: Any) -> str:
    text = f"{value:,f}" if isinstance(value, Decimal) else f"{value:,}" if isinstance(value, int) else shown(value)
    return f"<td{_class(value)}>{escape(text)}</td>"


def _class(value: Any) -> str:
    return ' class="number"' if isinstance(value, (int, Decimal)) else ""


def _text(section: Section, max_rows: int) -> str:
    lines = [f"{section.title} ({section.count:,})"]
    if not section.rows:
        lines.append("  none")
    for row in section.rows[:max_rows]:
        named = zip(section.columns, row, strict=True)
        lines.append("  " + ", ".join(f"{name} {shown(value)}" for name, value in named if shown(value)))
    if more := _more(section, max_rows):
        lines.append(f"  {more}")
    return "\n".join(lines) + "\n"


def _more(section: Section, max_rows: int) -> str:
    left = len(section.rows) - max_rows
    return f"and {left:,} more rows, which are in the database" if left > 0 else ""
