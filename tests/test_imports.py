"""Arrows go down only (design: the house)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "ssmd_core": {"ssmd_core"},
    "ssmd_stream": {"ssmd_stream", "ssmd_core"},
    "ssmd_assets": {"ssmd_assets", "ssmd_stream", "ssmd_core"},
    # `ssmd sync data` downloads as a researcher does.
    "ssmd_api": {"ssmd_api", "ssmd_stream", "ssmd_core", "ssmd"},
    # For researchers: it speaks HTTP and needs nothing else of ssmd.
    "ssmd": {"ssmd"},
}


def imported_packages(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere in it, inside functions too, or names for importlib."""
    packages: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            packages.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            packages.add((node.module or "").partition(".")[0] if not node.level else path.relative_to(ROOT).parts[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            packages.update(
                str(argument.value).partition(".")[0] for argument in node.args if isinstance(argument, ast.Constant)
            )
    return packages


@pytest.mark.parametrize("wing", ALLOWED)
def test_wing_imports_only_what_is_below_it(wing: str) -> None:
    forbidden = set(ALLOWED) - ALLOWED[wing]
    if wing != "ssmd_assets":
        forbidden |= {"dagster", "dagster_postgres", "dagster_webserver", "dagster_gcp"}
    files = sorted((ROOT / wing).rglob("*.py"))
    assert files
    offenders = {str(path.relative_to(ROOT)): wrong for path in files if (wrong := imported_packages(path) & forbidden)}
    assert not offenders
