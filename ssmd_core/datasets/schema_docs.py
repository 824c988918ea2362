"""One page per feed about its message types and datasets, written from the registry."""

from __future__ import annotations

from pathlib import Path

from ssmd_core.datasets.arrow import arrow_schema
from ssmd_core.feeds import FEEDS
from ssmd_core.feeds.base import META_COLUMNS, Column, Feed, MessageType, Schema

_CONVERT_WORDS = {
    "text": "",
    "int": "",
    "float": "",
    "bool": "",
    "decimal": "",
    "cents": "cents / 100",
    "cents_or_dollars": "text: dollars; integer: cents / 100",
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "iso": "RFC 3339",
    "json": "as JSON text",
    "levels": "array of objects",
    "pairs": "array of pairs",
    "cents_pairs": "array of pairs, price in cents / 100",
    "is_snapshot": "snapshot or update",
}


def schema_page(feed: Feed) -> str:
    """The page of one feed, Markdown."""
    with_schema = [kind for kind in feed.message_types.values() if kind.schema]
    without = [kind for kind in feed.message_types.values() if not kind.schema]
    parts = [
        f"# {feed.display_name}: message types and datasets\n",
        "This page is written from the registry (`make schemas`); a test keeps it current.\n",
        "A column takes its value from the first of its sources that is in the message and not null; an empty text is "
        "null where a decimal is wanted. Nothing is derived and nothing is rounded: a message that lacks a required "
        "value, or holds one that its column cannot hold exactly, goes to the hour's rejects with the reason.\n",
    ]
    parts += [_section(kind) for kind in with_schema]
    if without:
        parts.append("## Archived, without a dataset\n")
        parts.append("\n".join(f"* `{kind.name}`: {kind.description}" for kind in without) + "\n")
    parts.append("## The last four columns of every dataset\n")
    parts.append("\n".join(f"* `{column.name}`: {column.description}" for column in META_COLUMNS) + "\n")
    return "\n".join(parts)


def write_schema_docs(folder: Path) -> list[Path]:
    """Write the pages of all feeds; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for feed in FEEDS.values():
        path = folder / f"{feed.name}.md"
        path.write_text(schema_page(feed), encoding="utf-8")
        paths.append(path)
    return paths


def _section(kind: MessageType) -> str:
    schema = kind.schema
    assert schema is not None
    types = {field.name: str(field.type) for field in arrow_schema(schema)}
    lines = [
        f"## {kind.name}\n",
        f"{kind.description}\n",
        f"Dataset `{schema.name}` {schema.version}. {_rows(schema)}\n",
    ]
    lines.append("| column | type | null | unit | from | about |")
    lines.append("|---|---|---|---|---|---|")
    for column in schema.columns:
        cells = (
            f"`{column.name}`",
            types[column.name],
            "yes" if column.nullable else "no",
            column.unit,
            _sources(column),
            column.description,
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _rows(schema: Schema) -> str:
    if not schema.explode:
        return "A row per message."
    places = ["the message itself" if path == "." else f"`{path}`" for path in schema.explode]
    return f"A row per element of {' or, in older messages, '.join(places)} (`item`)."


def _sources(column: Column) -> str:
    words = []
    for source in column.sources:
        how = _CONVERT_WORDS[source.convert]
        words.append(f"`{source.path}`" + (f" ({how})" if how else ""))
    return ", else ".join(words)
