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

from ssmd_api.cli.tables import shown

_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:14px/1.5 system-ui,sans-serif;margin:1.5rem}"
    "h1{font-size:1.25rem}h2{font-size:1rem;margin:1.5rem 0 .5rem}"
    "table{border-collapse:collapse}"
    "th,td{text-align:left;vertical-align:top;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #8888}"
    ".number{text-align:right;font-variant-numeric:tabular-nums}"
    ".count{border:1px solid #8888;border-radius:1rem;padding:0 .5rem;font-weight:normal}"
    "footer{margin-top:1.5rem;font-size:.85rem}"
)


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
    """

    subject: str
    html: str
    text: str


def mail(subject: str, title: str, sections: Sequence[Section], footer: str, *, max_rows: int) -> Mail:
    """A mail of tables.

    Args:
        max_rows: of one table; what is left out is counted.
    """
    html = "".join(_html(section, max_rows) for section in sections)
    text = "\n".join(_text(section, max_rows) for section in sections)
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(shown(title))}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(shown(title))}</h1>{html}"
        f"<footer>{escape(shown(footer))}</footer></body></html>\n"
    )
    # An e-mail header ends at each of the eleven ends of a line that Unicode knows.
    return Mail(" ".join(shown(subject).splitlines()), page, f"{shown(title)}\n\n{text}\n{shown(footer)}\n")


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
