"""An hour's datasets and its ledger in one pass over the archive: everything that is proved follows from it alone."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from ssmd_core.datasets.build import build_hour
from ssmd_core.datasets.report import HourReport
from ssmd_core.drift.hour import HourDrift
from ssmd_core.errors import ArchiveError
from ssmd_core.feeds.base import Feed
from ssmd_core.proof import rules
from ssmd_core.proof.ledger import Carried, hour_id, proof_file, read_ledger
from ssmd_core.proof.observe import Watcher
from ssmd_core.proof.prover import HOUR, Before, Derived, Prover, output_name
from ssmd_core.proof.rules import HourRule

MakeRule = Callable[[Feed, bytes | None], HourRule]


def before_hour(proof_root: Path, feed: str, stream: str, hour: datetime) -> Before | None:
    """What the hour before hands on to `hour`; None if it is not proved.

    Raises:
        ArchiveError: its files are not those that its ledger names: it must be proved again first.
    """
    earlier = hour - HOUR
    ledger = read_ledger(proof_root, feed, stream, earlier)
    if ledger is None:
        return None
    contents = {}
    for kind in ("state", "shapes", "ledger"):
        path = proof_file(proof_root, feed, stream, earlier, kind)
        try:
            contents[kind] = path.read_bytes()
        except OSError as error:
            raise ArchiveError(f"{path}: {error}; prove {hour_id(earlier)} again first") from error
        named = ledger.outputs.get(output_name(feed, stream, earlier, kind))
        if named is not None and named != hashlib.sha256(contents[kind]).hexdigest():
            raise ArchiveError(f"{path}: not the file that its ledger names; prove {hour_id(earlier)} again first")
    carried = Carried(
        hour_id(earlier),
        hashlib.sha256(contents["ledger"]).hexdigest(),
        hashlib.sha256(contents["state"]).hexdigest(),
    )
    return Before(carried, ledger, gzip.decompress(contents["state"]), contents["shapes"])


def derive_hour(
    archive_root: Path,
    dataset_root: Path,
    feed: Feed,
    stream: str,
    hour: datetime,
    before: Before | None,
    *,
    threads: int = 2,
    make_rule: MakeRule = rules.hour_rule,
) -> tuple[HourReport, Derived | None]:
    """Build the hour's datasets, and derive its ledger and its proof's files, without writing those.

    Args:
        before: see `before_hour`.

    Returns:
        The build's report; None if the hour has no archive file.

    Raises:
        TornFileError, ArchiveError: see `build_hour`.
    """
    start_us = int(hour.timestamp()) * 1_000_000
    watchers: list[Watcher] = []

    def observe() -> Watcher:
        rule = make_rule(feed, before.state if before else None)
        drift = HourDrift(feed, before.shapes if before else None)
        watchers[:] = [Watcher(feed, start_us, rule, drift, before.ledger if before else None)]
        return watchers[0]

    report = build_hour(archive_root, dataset_root, feed, stream, hour, threads=threads, observe=observe)
    if not report.sources:
        return report, None
    prover = Prover(feed, stream, hour, report, watchers[0], before)
    return report, prover.prove(archive_root, dataset_root)
