"""One hour of one stream: from sealed archive files to parquet, with every message accounted for."""

from __future__ import annotations

import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from ssmd_core.archive.manifest import fsync_folder, load_manifest
from ssmd_core.archive.paths import day_folder, hour_files, hour_key
from ssmd_core.archive.tally import UNPARSED_TYPE, classify
from ssmd_core.datasets.arrow import arrow_schema
from ssmd_core.datasets.catalog import write_catalog
from ssmd_core.datasets.manifest import locked, update_manifest
from ssmd_core.datasets.order import SortedLines, file_chunks, file_sha256
from ssmd_core.datasets.project import Projector, connect
from ssmd_core.datasets.reference import Row, RowError, message_rows
from ssmd_core.datasets.rejects import RejectsFile
from ssmd_core.datasets.report import HourReport, OutputFile, SourceFile
from ssmd_core.datasets.split import Chunk, Split, split_chunk
from ssmd_core.datasets.writer import TypeWriter
from ssmd_core.errors import ArchiveError
from ssmd_core.feeds.base import Feed
from ssmd_core.messages.lines import Line, parse_line

__all__ = ["HourReport", "OutputFile", "SourceFile", "build_hour"]

_log = structlog.get_logger()
_WRAPPED = (b'{"_raw":', b'{"_raw_base64":')
# Below this many lines the plain Python path is faster than a query.
_MIN_QUERY_LINES = 64
_STALE_BUILD_S = 6 * 3600
_T = TypeVar("_T")


class _OutOfOrderError(Exception):
    """The files' lines are not in the order of their sequences, or repeat."""


def build_hour(
    archive_root: Path, dataset_root: Path, feed: Feed, stream: str, hour: datetime, *, threads: int = 2
) -> HourReport:
    """Make the parquet files of one hour, anew and whole, from its sealed archive files.

    Nothing is published unless all of it can be. Without an archive file nothing is touched: the archive may have been
    pruned. The same files give the same bytes, whatever `threads` is.

    Args:
        threads: DuckDB's threads.

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
            build = _Build(feed, stream, hour, work, threads)
            build.run(file_chunks(paths))
        except _OutOfOrderError as error:
            _log.info("datasets.sorting", feed=feed.name, stream=stream, hour=report.hour, reason=str(error))
            build = _Build(feed, stream, hour, work, threads)
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
    _log.info(
        "datasets.built",
        feed=feed.name,
        stream=stream,
        hour=report.hour,
        messages=report.messages,
        rows=sum(report.rows.values()),
        rejects=sum(report.rejects.values()),
        duplicates=report.duplicate_seqs,
        gaps=len(report.seq_gaps),
        seconds=round(report.seconds, 3),
    )
    return report


class _Processed(NamedTuple):
    """What became of one chunk.

    Attributes:
        tables: rows by type, in the order of the lines.
    """

    tables: dict[str, pa.Table]


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


class _Build:
    """One pass over the lines of an hour."""

    def __init__(self, feed: Feed, stream: str, hour: datetime, work: Path, threads: int) -> None:
        self._feed = feed
        self._stream = stream
        self._hour = hour
        self._work = work
        self._connection = connect(threads)
        self._projectors = {
            name: Projector(feed, name, kind.schema, self._connection)
            for name, kind in feed.message_types.items()
            if kind.schema
        }
        self._writers: dict[str, TypeWriter] = {}
        self._rejects = RejectsFile(work / f"rejects_{hour:%H}00.jsonl.gz")
        self._messages = 0
        self._accepted: dict[str, int] = {}
        self._no_schema: dict[str, int] = {}
        self._files: dict[str, _FileSums] = {}
        self._last_seq: int | None = None
        self._gaps: list[tuple[int, int]] = []
        self._duplicates = 0

    def run(self, chunks: Iterator[Chunk]) -> None:
        """Convert all chunks: one thread reads and splits, this one converts, one writes."""
        with closing(self._connection), ThreadPoolExecutor(1, "parquet") as pool:
            writing: Future[None] | None = None
            try:
                for split in _ahead(split_chunk(self._feed, chunk) for chunk in chunks):
                    tables = self._convert(split)
                    if writing is not None:
                        writing.result()
                    writing = pool.submit(self._write, tables)
                if writing is not None:
                    writing.result()
            except BaseException:
                if writing is not None:
                    writing.exception()
                for writer in self._writers.values():
                    writer.abandon()
                self._rejects.close()
                raise

    def add_conflicts(self, lines: SortedLines) -> None:
        """Account for what sorting has left out."""
        self._duplicates = lines.duplicates
        for file, number, seq, raw in lines.conflicts:
            self._messages += 1
            self._reject(file, number, seq, UNPARSED_TYPE, f"sequence {seq} is held by another message", raw)

    def finish(self, report: HourReport, paths: list[Path], hashes: dict[str, str]) -> None:
        """Close the files and fill the report."""
        for path in paths:
            sums = self._files.get(path.name, _FileSums())
            report.sources.append(
                SourceFile(path.name, hashes[path.name], sums.records, sums.first_seq, sums.last_seq)
            )
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

    def _convert(self, split: Split) -> dict[str, pa.Table]:
        lines = len(split.offsets) - 1
        self._messages += lines
        seqs = np.zeros(lines, np.uint64)
        has_seq = np.zeros(lines, bool)
        parts: dict[str, list[tuple[pa.Table, npt.NDArray[np.int32]]]] = {}
        alone = [split.rest]

        def project(message_type: str, line_array: pa.Array, i: npt.NDArray[np.int32], routed: bool) -> npt.NDArray[np.int32]:
            made = self._projectors[message_type].project(line_array, i, routed)
            if len(made.rows):
                seqs[made.i] = made.rows["_nats_seq"].to_numpy()
                has_seq[made.i] = True
                parts.setdefault(message_type, []).append((made.rows, made.i))
            _count(self._accepted, message_type, len(i) - len(made.left))
            return made.left

        refused = {
            number: group.message_type
            for group in split.groups
            for number in project(group.message_type, group.lines, group.i, False).tolist()
        }
        rows: dict[str, list[tuple[int, Line]]] = {}
        routed: dict[str, list[int]] = {}
        for i in sorted([*split.rest.tolist(), *refused]):
            raw = split.line(i)
            try:
                line = parse_line(raw)
            except ArchiveError as error:
                self._reject(*split.chunk.origin(i), None, UNPARSED_TYPE, str(error), raw)
                continue
            seqs[i], has_seq[i] = line.nats_seq, True
            wrapped = raw.startswith(_WRAPPED)
            message_type, _ = classify(self._feed, line.payload)
            if self._feed.schema_of(message_type) is None:
                if message_type == UNPARSED_TYPE and not wrapped:
                    self._reject(*split.chunk.origin(i), line.nats_seq, message_type, self._why(line.payload), raw)
                else:
                    _count(self._no_schema, message_type, 1)
            elif wrapped or i in refused:
                rows.setdefault(message_type, []).append((i, line))
            else:
                routed.setdefault(message_type, []).append(i)
        ...
        return {}
