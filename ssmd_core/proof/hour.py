"""Prove an hour: its datasets, its ledger and the files behind it, and a signed line in the stream's chain."""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from ssmd_core.archive.paths import DAY_FOLDER, SLOT_FILE, day_folder, hour_files
from ssmd_core.clock import NS_PER_US, rfc3339_us
from ssmd_core.datasets.order import file_sha256
from ssmd_core.datasets.report import HourReport
from ssmd_core.feeds.base import Feed
from ssmd_core.proof import rules
from ssmd_core.proof.chain import append, writing
from ssmd_core.proof.derive import MakeRule, before_hour, derive_hour
from ssmd_core.proof.keys import LedgerKey, own_key
from ssmd_core.proof.ledger import Ledger, proof_file, proof_folder, read_ledger
from ssmd_core.proof.prover import HOUR, Derived
from ssmd_core.proof.word import SLOTS
from ssmd_core.sealed_json import fsync_folder
from ssmd_core.settings import Settings

# The archiver seals a slot some seconds after it is over; one that was away has caught up by then.
_SEALED_BY: Final = timedelta(minutes=30)


def prove_hour(
    settings: Settings,
    feed: Feed,
    stream: str,
    hour: datetime,
    *,
    key: LedgerKey | None = None,
    threads: int = 2,
    make_rule: MakeRule = rules.hour_rule,
) -> tuple[HourReport, Ledger | None]:
    """Build the hour's datasets and prove it, in one pass over its archive.

    Hours of a stream are proved in ascending order: each begins with what the one before left. The same archive gives
    the same files; an hour that is proved again with the same result gets no new line in the chain.

    Args:
        key: signs; None for the installation's own.
        threads: see `build_hour`.
        make_rule: makes the venue's rule from the state that the hour before left.

    Returns:
        The build's report, and the ledger; None if the hour has no archive file.

    Raises:
        TornFileError, ArchiveError: an archive file is damaged, or the proof of the hour before is.
        ConfigError: the key cannot be used.
    """
    key = key or own_key(settings.data)
    before = before_hour(settings.proof_root, feed.name, stream, hour)
    report, derived = derive_hour(
        settings.archive_root,
        settings.dataset_root,
        feed,
        stream,
        hour,
        before,
        threads=threads,
        make_rule=make_rule,
    )
    if derived is None:
        return report, None
    sealed_at = rfc3339_us(settings.clock.now_ns() // NS_PER_US)
    publish(settings.proof_root, feed.name, stream, hour, derived, key, sealed_at)
    return report, derived.ledger


def publish(
    proof_root: Path, feed: str, stream: str, hour: datetime, derived: Derived, key: LedgerKey, sealed_at: str
) -> None:
    """Put the files in place and add the chain's line.

    The ledger goes first and comes last: after a crash in between the hour is not proved, never half.
    """
    ledger = derived.ledger
    with writing(proof_root, feed, stream):
        folder = proof_folder(proof_root, feed, stream, hour)
        folder.mkdir(parents=True, exist_ok=True)
        paths = {kind: proof_file(proof_root, feed, stream, hour, kind) for kind in derived.files}
        changed = {kind for kind, path in paths.items() if _content(path) != derived.files[kind]}
        if changed:
            paths["ledger"].unlink(missing_ok=True)
            for kind in sorted(changed - {"ledger"}):
                _write(paths[kind], derived.files[kind])
            fsync_folder(folder)
            _write(paths["ledger"], derived.files["ledger"])
            fsync_folder(folder)
        append(
            proof_root,
            feed,
            stream,
            key,
            hour=ledger.hour,
            word=ledger.word,
            ledger=hashlib.sha256(derived.files["ledger"]).hexdigest(),
            sealed_at=sealed_at,
        )


def is_proved(settings: Settings, feed: Feed, stream: str, hour: datetime) -> bool:
    """Whether the hour's ledger stands on exactly the archive files that lie there and on what the hour before hands
    on now, and all that it names is there.

    Raises:
        ArchiveError: a ledger is damaged.
    """
    ledger = read_ledger(settings.proof_root, feed.name, stream, hour)
    if ledger is None:
        return False
    paths = hour_files(day_folder(settings.archive_root, feed.name, stream, f"{hour:%Y-%m-%d}"), hour)
    if {path.name: file_sha256(path) for path in paths} != {source.name: source.sha256 for source in ledger.sources}:
        return False
    before = proof_file(settings.proof_root, feed.name, stream, hour - HOUR, "ledger")
    proved_before = read_ledger(settings.proof_root, feed.name, stream, hour - HOUR) is not None
    carried = ledger.carried.ledger if ledger.carried else None
    if carried != (file_sha256(before) if proved_before else None):
        return False
    return all((settings.data / name).is_file() for name in ledger.outputs)


def is_due(settings: Settings, feed: Feed, stream: str, hour: datetime) -> bool:
    """Whether the hour can be proved: its four slots are sealed, or should have been for a while by now.

    Until then it would be called degraded for slots that are still to come.
    """
    paths = hour_files(day_folder(settings.archive_root, feed.name, stream, f"{hour:%Y-%m-%d}"), hour)
    if len({path.name[:4] for path in paths}) == SLOTS:
        return True
    late_us = int((hour + HOUR + _SEALED_BY).timestamp()) * 1_000_000
    return settings.clock.now_ns() // NS_PER_US >= late_us


def archived_hours(archive_root: Path, feed: str, stream: str) -> list[datetime]:
    """Hours of a stream that have a sealed file, ascending."""
    found = set()
    root = archive_root / feed / stream
    for folder in root.iterdir() if root.is_dir() else ():
        if DAY_FOLDER.match(folder.name):
            for entry in folder.iterdir():
                if match := SLOT_FILE.match(entry.name):
                    found.add(f"{folder.name}T{match[1]}")
    return sorted(datetime.strptime(name, "%Y-%m-%dT%H").replace(tzinfo=UTC) for name in found)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
