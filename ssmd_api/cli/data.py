"""`ssmd dataset` and `ssmd verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssmd_api.cli.output import EXIT_FAILED, clear_errors, print_json, settings

dataset_app = typer.Typer(help="Hourly parquet from the archive.", no_args_is_help=True)


@dataset_app.command("build")
def build(
    feed: str,
    stream: str,
    hour: Annotated[str, typer.Argument(help="YYYY-MM-DD-HH:00, UTC.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report.")] = False,
) -> None:
    """Build one hour of one stream; exit 0 if every message is accounted for."""
    from ssmd_core import feeds
    from ssmd_core.archive.paths import parse_hour
    from ssmd_core.datasets.build import build_hour
    from ssmd_core.errors import ConfigError, SsmdError

    with clear_errors():
        found = settings()
        try:
            wanted = parse_hour(hour)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        report = build_hour(found.archive_root, found.dataset_root, feeds.get(feed), stream, wanted)
        if not report.sources:
            raise SsmdError(f"no sealed file of {feed}/{stream} for {report.hour} in {found.archive_root}")
        if as_json:
            print_json(report.as_dict())
        else:
            for output in report.outputs:
                typer.echo(f"{found.dataset_root / output.path}  {output.rows} rows  {output.bytes} bytes")
            if report.rejects_file:
                typer.echo(f"{found.dataset_root / report.rejects_file}  {sum(report.rejects.values())} rejects")
            typer.echo(
                f"{report.messages} messages = {sum(report.accepted.values())} converted "
                f"+ {sum(report.rejects.values())} rejected + {sum(report.no_schema.values())} without a schema"
            )
        if not report.balanced:
            raise typer.Exit(EXIT_FAILED)


@dataset_app.command("catalog")
def catalog() -> None:
    """Write catalog.json from what is there."""
    from ssmd_core.datasets.catalog import write_catalog

    with clear_errors():
        write_catalog(settings().dataset_root)


@dataset_app.command("schemas")
def schemas(out: Annotated[Path, typer.Option(help="Folder for one page per feed.")]) -> None:
    """Write the schema pages from the registry."""
    from ssmd_core.datasets.schema_docs import write_schema_docs

    with clear_errors():
        write_schema_docs(out)


def verify(
    path: Annotated[
        Path, typer.Argument(help="Data folder or a copy's (or one that holds some), or a folder of an archive.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Derive everything again from the files alone; exit 0 only if all of it holds, else name what does not.

    In a copy without the archive (`ssmd sync data`) signatures are checked, and files by what their ledgers say.
    """
    from ssmd_core.archive.verify import ArchiveCheck, verify_archive
    from ssmd_core.datasets.verify import DatasetCheck, verify_datasets
    from ssmd_core.errors import ConfigError
    from ssmd_core.proof.verify import ProofCheck, Rederiver, unproved_streams, verify_proof

    with clear_errors():
        roots, copies = _data_folders(path)
        archive, datasets, proof = ArchiveCheck(), DatasetCheck(), ProofCheck()
        for folder in [root / "archive" for root in roots] or ([] if copies else [path]):
            archive.add(verify_archive(folder))
            dataset_root = folder.parent / "datasets"
            if not roots or not dataset_root.is_dir():
                archive.notes.append(f"{folder}: no datasets checked")
            else:
                datasets.add(verify_datasets(dataset_root, folder, Rederiver(folder.parent, proof).build))
        for root in [*roots, *copies]:
            proof.add(verify_proof(root))
            proof.notes += [f"{root}: {name} is there and has no ledger" for name in unproved_streams(root)]
        problems = [*archive.problems, *datasets.problems, *proof.problems]
        if not archive.files and not copies and not problems:
            raise ConfigError(f"{path} holds no sealed archive file")
        if as_json:
            print_json(
                {
                    "files": archive.files,
                    "records": archive.records,
                    "lost": archive.lost,
                    "hours": datasets.hours,
                    "dataset_files": datasets.files,
                    "ledgers": proof.hours,
                    "chain_lines": proof.entries,
                    "proved_files": proof.files,
                    "rederived": proof.rederived,
                    "problems": problems,
                    "notes": [*archive.notes, *proof.notes],
                    "holds": not problems,
                }
            )
        else:
            for note in [*archive.notes, *proof.notes]:
                typer.echo(f"note: {note}", err=True)
            for problem in problems:
                typer.echo(f"FAILED {problem}")
            said = f"{proof.files} files compared with {proof.hours} ledgers in {proof.entries} signed lines"
            if roots or not copies:
                said = (
                    f"{archive.records} messages in {archive.files} sealed files, {archive.lost} declared lost; "
                    f"{datasets.files} dataset files of {datasets.hours} hours rebuilt; {said}, "
                    f"{proof.rederived} derived again"
                )
            typer.echo(f"{said}; {len(problems)} problems")
        if problems:
            raise typer.Exit(EXIT_FAILED)


def _data_folders(path: Path) -> tuple[list[Path], list[Path]]:
    """Folders with an archive, and those with a proof and no archive, at or below a path.

    Raises:
        ConfigError: it is no folder, or there are datasets and nothing to compare them with.
    """
    from ssmd_core.errors import ConfigError

    if not path.is_dir():
        raise ConfigError(f"{path} is not a folder")
    # The demo's lies inside the usual one.
    roots = {folder.parent for folder in path.rglob("archive") if folder.is_dir()}
    copies = {folder.parent for folder in path.rglob("proof") if any(folder.glob("*/*/*"))} - roots
    if not roots and not copies and any(path.rglob("datasets/*/*/*/*.parquet")):
        raise ConfigError(
            f"{path} holds datasets without archive and proof: name the data folder that holds them, or fetch the "
            f"proof (`ssmd sync data`)"
        )
    return sorted(roots), sorted(copies)
