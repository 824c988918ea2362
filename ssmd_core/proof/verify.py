"""Check the chain of every stream, the ledgers it names, the files those name, and that the archive gives the same.

A folder without `archive/` is a copy, as `ssmd sync data` makes them: hours and files that it lacks are told, and no
problem; what is there must be what its ledger says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from ssmd_core import feeds
from ssmd_core.archive.manifest import load_manifest
from ssmd_core.archive.paths import DAY_FOLDER, day_folder
from ssmd_core.datasets.build import build_hour
from ssmd_core.datasets.order import file_sha256
from ssmd_core.datasets.report import HourReport
from ssmd_core.errors import ArchiveError
from ssmd_core.feeds.base import Feed
from ssmd_core.proof import rules
from ssmd_core.proof.chain import CHAIN, NOTHING_BEFORE, Entry, chain_path, parse_entry, read_lines
from ssmd_core.proof.derive import MakeRule, before_hour, derive_hour
from ssmd_core.proof.hour import archived_hours
from ssmd_core.proof.keys import TRUSTED, fingerprint, is_signed, readable_by_others, trusted_keys
from ssmd_core.proof.ledger import FILES, Ledger, decode, hour_id, parse_hour_id, proof_file, read_ledger
from ssmd_core.proof.prover import HOUR

_TREES = ("proof", "datasets")


@dataclass
class ProofCheck:
    """What verification saw.

    Attributes:
        hours: ledgers checked.
        entries: lines of chains read.
        files: files compared with the hash that a ledger names.
        rederived: hours whose proof was derived again from the archive.
        problems: what does not hold, each naming the file.
        notes: what a reader should know though nothing is wrong.
    """

    hours: int = 0
    entries: int = 0
    files: int = 0
    rederived: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, other: ProofCheck) -> None:
        """Take in what was seen elsewhere."""
        self.hours += other.hours
        self.entries += other.entries
        self.files += other.files
        self.rederived += other.rederived
        self.problems += other.problems
        self.notes += other.notes


def verify_proof(data: Path, environment: Mapping[str, str] | None = None) -> ProofCheck:
    """Check all chains and ledgers of a data folder; see `Rederiver` for what compares them with the archive.

    Args:
        environment: names the trusted keys, see `keys.trusted_keys`; None for the process's.

    Raises:
        ConfigError: a key that the environment names cannot be used.
    """
    check = ProofCheck()
    trusted = trusted_keys(data, environment)
    if exposed := readable_by_others(data):
        check.notes.append(exposed)
    root = data / "proof"
    if not (data / "archive").is_dir():
        check.notes.append(f"{data}: a copy without its archive: that the archive gives these files was not checked")
    streams = {path.parent.relative_to(root).parts for path in root.glob(f"*/*/{CHAIN}")}
    streams |= {path.relative_to(root).parts[:2] for path in root.glob("*/*/*/ledger_*.json")}
    for names in sorted(streams):
        _Stream(data, names[0], names[1], trusted, check).verify()
    return check


class _Stream:
    """One stream's chain and ledgers.

    Attributes:
        copy: whether hours and files may be elsewhere.
    """

    def __init__(self, data: Path, feed: str, stream: str, trusted: tuple[str, ...], check: ProofCheck) -> None:
        self._data, self._feed, self._stream = data, feed, stream
        self._trusted, self._check = trusted, check
        self._root = data / "proof"
        self._path = chain_path(self._root, feed, stream)
        self.copy = not (data / "archive").is_dir()
        self._entries_of: dict[str, list[Entry]] = {}
        self._not_here: list[str] = []
        self._strangers: dict[str, list[str]] = {}

    def verify(self) -> None:
        """Check it."""
        newest: dict[str, Entry] = {}
        for number, entry in self._entries():
            newest[entry.hour] = entry
            self._entries_of.setdefault(entry.hour, []).append(entry)
            try:
                parse_hour_id(entry.hour)
            except ValueError as error:
                self._fail(f"{self._path}: line {number}: {error}")
                del newest[entry.hour]
        named: set[str] = set()
        elsewhere = 0
        for hour, entry in sorted(newest.items()):
            if self.copy and not self._has_files(parse_hour_id(hour)):
                elsewhere += 1
            else:
                named |= self._verify_hour(parse_hour_id(hour), entry)
        if elsewhere:
            self._check.notes.append(f"{self._path}: {elsewhere} of its {len(newest)} hours are not in this copy")
        if self._not_here:
            self._check.notes.append(
                f"{self._path}: {len(self._not_here)} files that ledgers name are not in this copy, such as "
                f"{self._not_here[0]}"
            )
        self._find_unchained(newest)
        if self.copy:
            self._find_unnamed(newest, named)
        else:
            self._find_unproved(newest)

    def _fail(self, text: str) -> None:
        self._check.problems.append(text)

    # -- the chain

    def _entries(self) -> list[tuple[int, Entry]]:
        """The chain's readable lines with their numbers from 1, each checked against the one before it."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            self._fail(f"{self._path}: not there, but ledgers are")
            return []
        if content and not content.endswith(b"\n"):
            self._fail(f"{self._path}: the last line is torn; the next proof will cut it off")
        found = []
        before = NOTHING_BEFORE
        trusted = self._trusted
        n = 0
        for number, line in enumerate(read_lines(self._path), start=1):
            where = f"{self._path}: line {number}"
            digest = hashlib.sha256(line).hexdigest()
            self._check.entries += 1
            try:
                entry = parse_entry(line)
            except ArchiveError as error:
                self._fail(f"{where}: cannot be read: {error}")
                before, n = digest, n + 1
                continue
            if not trusted:
                trusted = (entry.key,)
                self._check.notes.append(
                    f"{self._path}: no key was given to trust; its first line's, {_shown(entry.key)}, was found, not "
                    f"trusted ({TRUSTED} names the keys that are)"
                )
            self._verify_link(where, n, entry, before)
            self._verify_signature(where, line, entry, trusted)
            found.append((number, entry))
            # One line too many or too few is told once, not for all that follow.
            before, n = digest, entry.n + 1
        for key, lines in self._strangers.items():
            more = f" (and {len(lines) - 1} more lines)" if len(lines) > 1 else ""
            self._fail(
                f"{lines[0]}{more} is signed with {_shown(key)}, a key that is not trusted: if it is an older one of "
                f"yours, name both in {TRUSTED}"
            )
        return found

    def _verify_link(self, where: str, n: int, entry: Entry, before: str) -> None:
        if entry.previous != before:
            told = "the line before was changed or replaced"
            if entry.n != n:
                told = "a line was removed" if entry.n > n else "two writers have continued the same line"
            hashes = f"{entry.previous[:16]}…, but behind {before[:16]}…"
            self._fail(f"{where}: does not stand behind the line with hash {hashes}: {told}")
        elif entry.n != n:
            self._fail(f"{where}: is numbered {entry.n}, not {n}")

    def _verify_signature(self, where: str, line: bytes, entry: Entry, trusted: tuple[str, ...]) -> None:
        if entry.line() != line:
            self._fail(f"{where}: is not in the one form that lines have")
        elif not is_signed(entry.key, entry.signature, entry.signed_bytes()):
            self._fail(f"{where}: {entry.hour}: its signature does not match its content")
        elif entry.key not in trusted:
            self._strangers.setdefault(entry.key, []).append(f"{where}: {entry.hour}")

    # -- ledgers and files

    def _has_files(self, hour: datetime) -> bool:
        """Whether anything of the hour is there."""
        folders = [day_folder(self._data / tree, self._feed, self._stream, f"{hour:%Y-%m-%d}") for tree in _TREES]
        return any(next(folder.glob(f"*_{hour:%H}00.*"), None) for folder in folders)

    def _verify_hour(self, hour: datetime, entry: Entry) -> set[str]:
        """Check an hour; the files that its ledger names."""
        path = proof_file(self._root, self._feed, self._stream, hour, "ledger")
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            self._fail(f"{path}: the chain names it, but it is not there")
            return set()
        self._check.hours += 1
        digest = hashlib.sha256(content).hexdigest()
        if digest != entry.ledger:
            older = any(one.ledger == digest for one in self._entries_of[entry.hour])
            anew = f"; {entry.hour} was proved anew since: fetch it again" if older else ""
            self._fail(f"{path}: its hash is {digest}, the chain says {entry.ledger}{anew}")
            return set()
        try:
            ledger = decode(content, str(path))
        except ArchiveError as error:
            self._fail(str(error))
            return set()
        stated = (ledger.feed, ledger.stream, ledger.hour, ledger.word)
        if stated != (self._feed, self._stream, entry.hour, entry.word):
            self._fail(f"{path}: is of {'/'.join(stated[:2])} {stated[2]}, {stated[3]!r}, not what the chain says")
        self._verify_outputs(path, ledger)
        if not self.copy:
            self._verify_sources(path, hour, ledger)
        self._verify_carried(path, hour, ledger)
        return set(ledger.outputs)

    def _verify_outputs(self, path: Path, ledger: Ledger) -> None:
        for name, stated in sorted(ledger.outputs.items()):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                self._fail(f"{path}: names a file outside of the data folder: {name!r}")
                continue
            self._check.files += 1
            try:
                digest = file_sha256(self._data / name)
            except OSError:
                self._check.files -= 1
                if self.copy:
                    self._not_here.append(name)
                    continue
                self._fail(f"{self._data / name}: the ledger of {ledger.hour} names it, but it is not there")
                continue
            if digest != stated:
                self._fail(f"{self._data / name}: its hash is {digest}, the ledger of {ledger.hour} says {stated}")

    def _verify_sources(self, path: Path, hour: datetime, ledger: Ledger) -> None:
        folder = day_folder(self._data / "archive", self._feed, self._stream, f"{hour:%Y-%m-%d}")
        try:
            manifest = load_manifest(folder)
        except ArchiveError:
            return  # told by the archive's own check
        files = manifest.files if manifest else []
        there = {entry.name: entry.sha256 for entry in files if entry.name[:2] == f"{hour:%H}"}
        stated = {source.name: source.sha256 for source in ledger.sources}
        gone = sorted(name for name in stated if name not in there and not (folder / name).exists())
        if len(gone) == len(stated):
            self._check.notes.append(f"{path}: the archive of {ledger.hour} is not there any more, it was pruned")
            return
        for name in gone:
            self._fail(f"{folder / name}: the ledger of {ledger.hour} stands on it, but it is not there")
        for name, digest in sorted(there.items()):
            if name not in stated:
                self._fail(f"{folder / name}: sealed after {ledger.hour} was proved: prove it again")
            elif digest != stated[name]:
                self._fail(f"{folder / name}: its hash is {digest}, the ledger of {ledger.hour} says {stated[name]}")

    def _verify_carried(self, path: Path, hour: datetime, ledger: Ledger) -> None:
        carried = ledger.carried
        if carried is None:
            return
        earlier = proof_file(self._root, self._feed, self._stream, hour - HOUR, "ledger")
        chained = self._entries_of.get(hour_id(hour - HOUR)) if self.copy else None
        try:
            digest = chained[-1].ledger if chained else file_sha256(earlier)
        except OSError:
            self._fail(f"{earlier}: the ledger of {ledger.hour} begins with what it left, but it is not there")
            return
        if carried.hour != hour_id(hour - HOUR) or carried.ledger != digest:
            self._fail(
                f"{path}: begins with what {carried.hour} left, which has been proved anew since: prove it again"
            )

    # -- what the chain does not name

    def _find_unchained(self, newest: Mapping[str, Entry]) -> None:
        kinds = "|".join(FILES)
        for folder in sorted((self._root / self._feed / self._stream).iterdir()):
            if not DAY_FOLDER.match(folder.name):
                continue
            hours: dict[str, list[str]] = {}
            for entry in sorted(folder.iterdir()):
                kind, _, rest = entry.name.partition("_")
                if kind in kinds.split("|") and rest[:2].isdigit():
                    hours.setdefault(f"{folder.name}T{rest[:2]}", []).append(entry.name)
            for hour, names in hours.items():
                if hour not in newest:
                    self._fail(
                        f"{self._path}: no line of {hour}, but {folder / names[0]} and {len(names) - 1} other files of "
                        f"its proof are there: a line was removed, or the proof did not end"
                    )

    def _find_unnamed(self, newest: Mapping[str, Entry], named: set[str]) -> None:
        """Datasets of a copy that no ledger speaks of."""
        unproved = []
        for path in sorted((self._data / "datasets" / self._feed / self._stream).glob("*/*_[0-2][0-9]00.parquet")):
            hour = f"{path.parent.name}T{path.stem[-4:-2]}"
            if hour not in newest:
                unproved.append(hour)
            elif path.relative_to(self._data).as_posix() not in named:
                self._fail(f"{path}: the ledger of {hour} does not name it: fetch the hour again, or remove it")
        if unproved:
            self._check.notes.append(
                f"{self._path}: {len(unproved)} datasets are of hours that it does not name, such as {unproved[0]}: "
                f"nothing vouches for them"
            )

    def _find_unproved(self, newest: Mapping[str, Entry]) -> None:
        hours = [hour_id(hour) for hour in archived_hours(self._data / "archive", self._feed, self._stream)]
        missing = [hour for hour in hours if hour not in newest]
        if not missing:
            return
        proved = [hour for hour in hours if hour in newest]
        holes = [hour for hour in missing if proved and proved[0] < hour < proved[-1]]
        if holes:
            self._fail(f"{self._path}: a hole: {_few(holes)} archived and not proved, hours before and after them are")
        others = [hour for hour in missing if hour not in holes]
        if others:
            self._check.notes.append(f"{self._path}: {_few(others)} archived and not proved")


class Rederiver:
    """Builds hours as `datasets.verify` asks for them, and derives their proof again beside.

    A ledger or a row of its files that was changed is found even where every hash was made anew.
    """

    def __init__(self, data: Path, check: ProofCheck, make_rule: MakeRule = rules.hour_rule) -> None:
        self._data, self._check, self._make_rule = data, check, make_rule

    def build(self, archive_root: Path, dataset_root: Path, feed: Feed, stream: str, hour: datetime) -> HourReport:
        """Build an hour's datasets below `dataset_root`, as `build_hour` does."""
        root = self._data / "proof"
        before = None
        stored = None
        try:
            stored = read_ledger(root, feed.name, stream, hour)
            if stored is not None and stored.carried is not None:
                before = before_hour(root, feed.name, stream, hour)
        except ArchiveError as error:
            self._check.problems.append(str(error))
        if stored is None:
            return build_hour(archive_root, dataset_root, feed, stream, hour)
        report, derived = derive_hour(archive_root, dataset_root, feed, stream, hour, before, make_rule=self._make_rule)
        if derived is not None:
            self._check.rederived += 1
            for kind, content in sorted(derived.files.items()):
                path = proof_file(root, feed.name, stream, hour, kind)
                if not path.is_file() or path.read_bytes() != content:
                    self._check.problems.append(f"{path}: says something else than its archive gives")
        return report


def unproved_streams(data: Path) -> list[str]:
    """Streams with an archive, or in a copy with datasets, and without any proof."""
    found = []
    tree = "archive" if (data / "archive").is_dir() else "datasets"
    for name in sorted(feeds.FEEDS):
        root = data / tree / name
        for folder in sorted(root.iterdir()) if root.is_dir() else ():
            if folder.is_dir() and not (data / "proof" / name / folder.name).is_dir():
                found.append(f"{name}/{folder.name}")
    return found


def _shown(key: str) -> str:
    try:
        return f"{key[:44]} ({fingerprint(key)})"
    except ValueError:
        return repr(key[:44])


def _few(hours: list[str]) -> str:
    shown = ", ".join(hours[:5])
    return f"{shown} are" if len(hours) <= 5 else f"{shown} and {len(hours) - 5} more are"
