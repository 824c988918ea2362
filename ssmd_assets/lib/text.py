"""Strangers' text on its way into Dagster's UI and logs."""

from __future__ import annotations


def visible(text: str) -> str:
    r"""The text with control and format characters, and half surrogate pairs, as escapes.

    Else U+202E would show a ticker backwards, and a half pair would end the log line that holds it.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def cell(text: str) -> str:
    """The text as it is, in a cell of a Markdown table."""
    shown = visible(text)
    for mark in "\\`*_[]<>|~":
        shown = shown.replace(mark, f"\\{mark}")
    return shown
