"""One hour of one stream: from sealed archive files to parquet, with every message accounted for."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Final, Protocol, TypeVar

import duckdb
import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from ssmd_core.archive.manifest import load_manifest
from ssmd_core.archive.paths import day_folder, hour_files, hour_key
from ssmd_core.archive.tally import classify
from ssmd_core.datasets.catalog import write_catalog
from ssmd_core.datasets.convert import Converted, Converter
from ssmd_core.datasets.manifest import locked, update_manifest
from ssmd_core.datasets.order import SortedLines, file_chunks, file_sha256
from ssmd_core.datasets.project import connect
from ssmd_core.datasets.rejects import RejectsFile
from ssmd_core.datasets.report import HourReport, OutputFile, SourceFile
from ssmd_core.datasets.split import Chunk, Splitter
from ssmd_core.datasets.writer import TypeWriter
from ssmd_core.errors import ArchiveError
from ssmd_core.feeds.base import Feed
from ssmd_core.messages.lines import parse_line
from ssmd_core.sealed_json import fsync_folder

__all__ = ["HourReport", "OutputFile", "SourceFile", "build_hour"]

_STALE_BUILD_S = 6 * 3600
_T = TypeVar("_T")
_END: Final = object()


class _OutOfOrderError(Exception):
    """The files' lines are not in the order of their sequences, or repeat."""


class Observer(Protocol):
    """Something else that wants to see every line of the hour, without a second reading of the archive."""

    def take(self, converted: Converted) -> None:
        """A chunk, in the order of the archive; called from one thread."""


def build_hour(
    archive_root: Path,
    dataset_root: Path,
    feed: Feed,
    stream: str,
    hour: datetime,
    *,
    threads: int = 2,
    observe: Callable[[], Observer] | None = None,
) -> HourReport:
    """Make the parquet files of one hour, anew and whole, from its sealed archive files.

    Nothing is published unless all of it can be. Without an archive file nothing is touched: the archive may have been
    pruned. The same files give the same bytes, whatever `threads` is.

    Args:
        threads: how many chunks are converted at a time; each takes some 50 MB.
        observe: makes an observer; called again if the lines must be sorted and read anew.

    Raises:
        TornFileError: an archive file is damaged.
        ArchiveError: an archive file is not the one that its manifest names.
    """
    started = time.monotonic()
    date = f"{hour:%Y-%m-%d}"
    source_folder = day_folder(archive_root, feed.name, stream, date)
    report = HourReport(feed.name, stream, hour_key(hour))
    paths = hour_files(source_folder, hour)
    if not paths:
        report.seconds = time.monotonic() - started
        return report
    hashes = _hashes(source_folder, paths)
    folder = day_folder(dataset_root, feed.name, stream, date)
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    work = Path(tempfile.mkdtemp(prefix=".build-", dir=folder))
    try:
        try:
            build = _Build(feed, stream, hour, work, threads, observe)
            build.run(file_chunks(paths))
        except _OutOfOrderError as error:
            # Imported here: with rich behind it, structlog costs 0.13 s of every cold build.
            import structlog

            structlog.get_logger().info(
                "datasets.sorting", feed=feed.name, stream=stream, hour=report.hour, reason=str(error)
            )
            build = _Build(feed, stream, hour, work, threads, observe)
            lines = SortedLines(paths, work / "lines")
            build.run(lines.chunks())
            build.add_conflicts(lines)
        build.finish(report, paths, hashes)
        with locked(folder):
            _publish(work, folder, report, hour)
            update_manifest(folder, feed, report, date, f"{hour:%H}00")
        with locked(dataset_root):
            write_catalog(dataset_root)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    report.seconds = time.monotonic() - started
    return report


class _FileSums:
    """Lines and sequences of one archive file."""

    def __init__(self) -> None:
        self.records = 0
        self.first_seq = 0
        self.last_seq = 0

    def add(self, records: int, seqs: npt.NDArray[np.uint64]) -> None:
        self.records += records
        if len(seqs):
            first, last = int(seqs.min()), int(seqs.max())
            self.first_seq = min(self.first_seq, first) if self.first_seq else first
            self.last_seq = max(self.last_seq, last)


class _Worker:
    """What converts one chunk at a time."""

    def __init__(self, feed: Feed, connection: duckdb.DuckDBPyConnection) -> None:
        self._splitter = Splitter(feed)
        self._converter = Converter(feed, connection)

    def convert(self, chunk: Chunk) -> Converted:
        """Split and convert a chunk."""
        return self._converter.convert(self._splitter.split(chunk))


class _Build:
    """One pass over the lines of an hour."""

    def __init__(
        self,
        feed: Feed,
        stream: str,
        hour: datetime,
        work: Path,
        threads: int,
        observe: Callable[[], Observer] | None,
    ) -> None:
        self._feed = feed
        self._stream = stream
        self._hour = hour
        self._work = work
        self._threads = threads
        self._writers: dict[str, TypeWriter] = {}
        self._rejects = RejectsFile(work / f"rejects_{hour:%H}00.jsonl.gz")
        self._messages = 0
        self._accepted: Counter[str] = Counter()
        self._no_schema: Counter[str] = Counter()
        self._files: dict[str, _FileSums] = {}
        self._last_seq: int | None = None
        self._gaps: list[tuple[int, int]] = []
        self._duplicates = 0
        self._observer = observe() if observe else None

    def run(self, chunks: Iterator[Chunk]) -> None:
        """Convert all chunks: one thread reads, `threads` convert, this one writes, in the order of the chunks."""
        with ExitStack() as stack:
            workers: SimpleQueue[_Worker] = SimpleQueue()
            for _ in range(self._threads):
                workers.put(_Worker(self._feed, stack.enter_context(closing(connect()))))

            def convert(chunk: Chunk) -> Converted:
                worker = workers.get()
                try:
                    return worker.convert(chunk)
                finally:
                    workers.put(worker)

            pool = stack.enter_context(ThreadPoolExecutor(self._threads, "convert"))
            pending: deque[Future[Converted]] = deque()
            try:
                for chunk in _ahead(chunks):
                    if len(pending) == self._threads:
                        self._take(pending.popleft().result())
                    pending.append(pool.submit(convert, chunk))
                while pending:
                    self._take(pending.popleft().result())
            except BaseException:
                for future in pending:
                    future.cancel()
                for writer in self._writers.values():
                    writer.abandon()
                self._rejects.close()
                raise

    def _take(self, converted: Converted) -> None:
        self._account(converted)
        if self._observer is not None:
            self._observer.take(converted)
        self._write(converted.tables)

    def add_conflicts(self, lines: SortedLines) -> None:
        """Account for what sorting has left out."""
        self._duplicates = lines.duplicates.total()
        for file, repeats in lines.duplicates.items():
            self._files.setdefault(file, _FileSums()).records += repeats
        for file, number, seq, raw in lines.conflicts:
            self._messages += 1
            self._files.setdefault(file, _FileSums()).records += 1
            reason = f"sequence {seq} is held by another message"
            message_type, _ = classify(self._feed, parse_line(raw).payload)
            self._rejects.add(file=file, line=number, nats_seq=seq, message_type=message_type, reason=reason, raw=raw)

    def finish(self, report: HourReport, paths: list[Path], hashes: dict[str, str]) -> None:
        """Close the files and fill the report."""
        for path in paths:
            sums = self._files.get(path.name, _FileSums())
            report.sources.append(SourceFile(path.name, hashes[path.name], sums.records, sums.first_seq, sums.last_seq))
        source = orjson.dumps(
            {"feed": self._feed.name, "stream": self._stream, "hour": report.hour, "files": report.sources}
        ).decode()
        for name, writer in sorted(self._writers.items()):
            size, digest = writer.close({"ssmd.source": source})
            report.rows[name] = writer.rows
            report.null_rates[name] = {column: nulls / writer.rows for column, nulls in writer.nulls.items()}
            report.outputs.append(
                OutputFile(
                    path=f"{self._feed.name}/{self._stream}/{self._hour:%Y-%m-%d}/{writer.path.name}",
                    message_type=name,
                    rows=writer.rows,
                    bytes=size,
                    sha256=digest,
                    schema_name=writer.schema.name,
                    schema_version=writer.schema.version,
                )
            )
        report.messages = self._messages
        report.accepted = dict(sorted(self._accepted.items()))
        report.rejects = dict(sorted(self._rejects.counts.items()))
        report.no_schema = dict(sorted(self._no_schema.items()))
        report.duplicate_seqs = self._duplicates
        report.seq_gaps = self._gaps
        if self._rejects.close():
            report.rejects_file = (
                f"{self._feed.name}/{self._stream}/{self._hour:%Y-%m-%d}/rejects_{self._hour:%H}00.jsonl.gz"
            )

    def _write(self, tables: dict[str, pa.Table]) -> None:
        for name, table in tables.items():
            writer = self._writers.get(name)
            if writer is None:
                schema = self._feed.schema_of(name)
                assert schema is not None
                writer = self._writers[name] = TypeWriter(self._work / f"{name}_{self._hour:%H}00.parquet", schema)
            writer.append(table)

    def _account(self, converted: Converted) -> None:
        """Sum up a chunk, after checking that its sequences rise."""
        lines = len(converted.has_seq)
        seqs = converted.seqs[converted.has_seq]
        self._follow(seqs)
        self._messages += lines
        self._accepted.update(converted.accepted)
        self._no_schema.update(converted.no_schema)
        for reject in converted.rejects:
            self._rejects.add(
                file=reject.file,
                line=reject.line,
                nats_seq=reject.nats_seq,
                message_type=reject.message_type,
                reason=reject.reason,
                raw=reject.raw,
            )
        runs = converted.split.chunk.runs
        for run, end in zip(runs, [*(run.i for run in runs[1:]), lines], strict=True):
            with_seq = converted.has_seq[run.i : end]
            self._files.setdefault(run.file, _FileSums()).add(end - run.i, converted.seqs[run.i : end][with_seq])

    def _follow(self, seqs: npt.NDArray[np.uint64]) -> None:
        if not len(seqs):
            return
        before = seqs[:-1]
        after = seqs[1:]
        if self._last_seq is not None:
            before = np.concatenate([np.array([self._last_seq], np.uint64), before])
            after = seqs
        if (after <= before).any():
            at = int(np.flatnonzero(after <= before)[0])
            raise _OutOfOrderError(f"sequence {after[at]} comes after {before[at]}")
        for at in np.flatnonzero(after - before > 1).tolist():
            self._gaps.append((int(before[at]), int(after[at] - before[at]) - 1))
        self._last_seq = int(seqs[-1])


def _hashes(folder: Path, paths: list[Path]) -> dict[str, str]:
    """SHA-256 of the files, compared with what the day's manifest says of them."""
    manifest = load_manifest(folder)
    there = {path.name for path in paths}
    for named in manifest.files if manifest else []:
        if named.name[:2] == paths[0].name[:2] and named.name not in there:
            raise ArchiveError(f"{folder / named.name}: in the manifest but not there; the hour cannot be built whole")
    hashes = {}
    for path in paths:
        hashes[path.name] = file_sha256(path)
        entry = manifest.file(path.name) if manifest else None
        if entry is not None and entry.sha256 != hashes[path.name]:
            raise ArchiveError(f"{path}: sha256 is {hashes[path.name]}, the manifest says {entry.sha256}")
    return hashes


def _remove_leftovers(folder: Path) -> None:
    """Remove work folders of builds that were killed."""
    for leftover in folder.glob(".build-*"):
        if time.time() - leftover.stat().st_mtime > _STALE_BUILD_S:
            shutil.rmtree(leftover, ignore_errors=True)


def _publish(work: Path, folder: Path, report: HourReport, hour: datetime) -> None:
    """Put the new files in place and remove those of an earlier build that have no successor."""
    names = [Path(output.path).name for output in report.outputs]
    if report.rejects_file:
        names.append(Path(report.rejects_file).name)
    for name in names:
        (work / name).replace(folder / name)
    for old in (*folder.glob(f"*_{hour:%H}00.parquet"), *folder.glob(f"rejects_{hour:%H}00.jsonl.gz")):
        if old.name not in names:
            old.unlink()
    fsync_folder(folder)


def _ahead(items: Iterable[_T]) -> Iterator[_T]:
    """The items, made in a thread of their own, one ahead."""
    source = iter(items)
    with ThreadPoolExecutor(1, "archive") as pool:
        upcoming = pool.submit(next, source, _END)
        while (item := upcoming.result()) is not _END:
            upcoming = pool.submit(next, source, _END)
            yield item  # type: ignore[misc]  # _END is excluded by the loop
