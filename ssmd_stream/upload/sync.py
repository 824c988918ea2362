"""Copy what is sealed to an object store, read back what arrived, say what does not hold.

Order: a day's files, then its manifest; a proof's files, then the ledgers that name them, then the chain that names
these; at last the catalog. So whoever reads the store finds every file that a manifest or a chain there names. Nothing
is deleted, here or there. What differs there from what was proved is named and left as it is, unless a repair is asked
for: it may be the only trace of how that came to be. A chain only ever grows: one that is longer there than here is
never replaced, by no repair either.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog

from ssmd_core.errors import SsmdError
from ssmd_core.storage.layout import CATALOG_NAME, Day, Kind
from ssmd_core.storage.store import Digest, Storage, StorageError, Stored
from ssmd_stream.upload.plan import DayPlan, Item, find_days, find_proofs, plan_catalog, plan_day, plan_proof
from ssmd_stream.upload.record import Proof, Record, open_record

log = structlog.get_logger()

AT_ONCE = 8
# A day is planned anew if its datasets were built again meanwhile.
_PLANS = 3
_T = TypeVar("_T")
_R = TypeVar("_R")
Progress = Callable[[int, int, str], None]


@dataclass
class UploadReport:
    """What a run did.

    Attributes:
        uploaded: objects written and read back.
        proved: objects that were there and have been read back.
        unchanged: objects that were there as proved before.
        problems: what is not in the store as it should be, each naming the object.
        notes: what was left for another run.
    """

    storage: str
    days: int = 0
    uploaded: int = 0
    uploaded_bytes: int = 0
    proved: int = 0
    unchanged: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether everything that was planned is there."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "seconds": round(self.seconds, 3), "holds": self.holds}


class _ChangedMeanwhileError(Exception):
    """The local file is not the planned one."""


def sync_archive(
    data: Path,
    storage: Storage,
    streams: Sequence[str] = (),
    *,
    read_all: bool = False,
    repair: bool = False,
    progress: Progress | None = None,
) -> UploadReport:
    """Bring the object store up to what the data folder's manifests name.

    Args:
        streams: `FEED/STREAM`; none for all.
        read_all: read back what was proved before, too.
        repair: write anew what is there with other bytes.
        progress: gets folders done, folders in all, and the object that was last brought there.

    Raises:
        ConfigError: a stream of which nothing is there.
        SsmdError: another run is under way.
    """
    began_s = time.monotonic()
    report = UploadReport(storage.url)
    with open_record(data, storage.url) as record, ThreadPoolExecutor(AT_ONCE, "upload") as pool:
        run = _Run(data, storage, record, pool, report, read_all=read_all, repair=repair)
        # Read before the days' manifests, so that it names no day that they do not.
        catalog = run.attempt(CATALOG_NAME, lambda: plan_catalog(data))
        days, proofs = find_days(data, streams), find_proofs(data, streams)
        work = [partial(run.sync_day, day) for day in days] + [partial(run.sync_proof, *names) for names in proofs]
        for number, one in enumerate(work):
            run.tell = partial(progress, number, len(work)) if progress is not None else None
            one()
        if catalog is not None:
            run.sync_catalog(catalog, whole=not streams)
    report.seconds = time.monotonic() - began_s
    log.info("archive_synced", storage=storage.url, uploaded=report.uploaded, problems=len(report.problems))
    return report


@dataclass
class _There:
    """What is known of a folder of the store."""

    objects: dict[str, Stored]
    proofs: dict[str, Proof]


class _Run:
    """One run. Workers talk to the store; the record and the report belong to the thread that made the run."""

    def __init__(
        self,
        data: Path,
        storage: Storage,
        record: Record,
        pool: ThreadPoolExecutor,
        report: UploadReport,
        *,
        read_all: bool,
        repair: bool,
    ) -> None:
        self._data = data
        self._storage = storage
        self._record = record
        self._pool = pool
        self._report = report
        self._read_all = read_all
        self._repair = repair
        self._looked: tuple[str, _There] | None = None
        self._datasets_hold = True
        self.tell: Callable[[str], None] | None = None

    def attempt(self, what: str, work: Callable[[], _R]) -> _R | None:
        """The result; None if it failed, which is then in the report."""
        try:
            return work()
        except (SsmdError, OSError) as error:
            self._report.problems.append(f"{what}: {error}")
            return None

    def sync_day(self, day: Day) -> None:
        """All files of a day, then its manifest."""
        if not self._sync_day(day) and day.kind is Kind.PARQUET:
            self._datasets_hold = False

    def _sync_day(self, day: Day) -> bool:
        self._report.days += 1
        there = self.attempt(day.folder, lambda: self._look(f"{day.kind}/{day.feed}/{day.stream}"))
        plan = self.attempt(day.folder, lambda: plan_day(self._data, day))
        if plan is None or there is None:
            return False
        problems, changed = self._bring(plan.files, there)
        for _ in range(_PLANS if changed else 0):
            anew = self.attempt(day.folder, lambda: plan_day(self._data, day))
            if anew is None or anew == plan:
                break
            plan = anew
            problems, changed = self._bring(plan.files, there)
        return self._finish_day(plan, problems + changed, there)

    def _finish_day(self, plan: DayPlan, problems: list[str], there: _There) -> bool:
        """What names the day's files, if all of them are there."""
        self._report.problems += problems
        if problems:
            self._report.notes += [
                f"{item.path}: not uploaded, because not all of its files are there" for item in plan.naming
            ]
            return False
        return self._finish(plan.naming, there)

    def sync_proof(self, feed: str, stream: str) -> None:
        """A stream's ledgers with their files, then its chain."""
        folder = f"{Kind.PROOF}/{feed}/{stream}"
        there = self.attempt(folder, lambda: self._look(folder))
        plan = self.attempt(folder, lambda: plan_proof(self._data, feed, stream))
        if plan is None or there is None:
            return
        for _ in range(_PLANS):
            found = [(day, *self._bring(day.files, there)) for day in plan.days]
            # As for a day: if an hour was proved again meanwhile, it is planned anew.
            if not any(changed for _, _, changed in found):
                break
            anew = self.attempt(folder, lambda: plan_proof(self._data, feed, stream))
            if anew is None or anew == plan:
                break
            plan = anew
        self._report.days += len(plan.days)
        self._report.problems += plan.problems
        holds = [self._finish_day(day, problems + changed, there) for day, problems, changed in found]
        if all(holds) and not plan.problems:
            self._finish((plan.chain,), there)
        else:
            self._report.notes.append(
                f"{plan.chain.path}: not uploaded, because not all ledgers that it names are there"
            )

    def sync_catalog(self, catalog: Item, *, whole: bool) -> None:
        """The catalog, if all datasets that it names are there."""
        if not whole or not self._datasets_hold:
            reason = "only some streams were asked for" if not whole else "not all that it names is there"
            self._report.notes.append(f"{CATALOG_NAME}: not uploaded, because {reason}")
            return
        proof = self._record.find(CATALOG_NAME)
        found = self.attempt(CATALOG_NAME, lambda: self._storage.head(CATALOG_NAME))
        self._finish(
            (catalog,),
            _There({CATALOG_NAME: found} if found else {}, {CATALOG_NAME: proof} if proof else {}),
        )

    def _finish(self, items: Sequence[Item], there: _There) -> bool:
        problems, changed = self._bring(items, there)
        self._report.problems += problems + changed
        return not problems and not changed

    def _look(self, folder: str) -> _There:
        """All that is there of a stream; asked for once, because its days follow one another."""
        if self._looked is None or self._looked[0] != folder:
            objects = {stored.path: stored for stored in self._storage.objects(folder)}
            self._looked = folder, _There(objects, self._record.below(folder))
        return self._looked[1]

    def _bring(self, items: Sequence[Item], there: _There) -> tuple[list[str], list[str]]:
        """Bring the objects there; what does not hold, and which local files are not those of the plan."""
        problems: list[str] = []
        changed: list[str] = []
        todo = []
        for item in items:
            proof, stored = there.proofs.get(item.path), there.objects.get(item.path)
            same = stored is not None and proof == Proof(item.sha256, stored.version)
            if same and stored is not None and stored.size_bytes == item.size_bytes and not self._read_all:
                self._report.unchanged += 1
            else:
                todo.append((item, stored is not None, proof))
        work = _in_order(self._pool, lambda one: self._bring_one(*one), todo)
        with closing(work):
            for (item, _, _), done in work:
                if self.tell is not None:
                    self.tell(item.path)
                try:
                    digest, uploaded = done.result()
                except _ChangedMeanwhileError as error:
                    changed.append(str(error))
                    continue
                except (SsmdError, OSError) as error:
                    problems.append(f"{item.path}: {error}")
                    continue
                proof = Proof(digest.sha256, digest.version)
                self._record.keep(item.path, proof)
                there.proofs[item.path] = proof
                there.objects[item.path] = Stored(item.path, digest.size_bytes, digest.version)
                if uploaded:
                    self._report.uploaded += 1
                    self._report.uploaded_bytes += item.size_bytes
                else:
                    self._report.proved += 1
        return problems, changed

    def _bring_one(self, item: Item, is_there: bool, proof: Proof | None) -> tuple[Digest, bool]:
        """Prove one object, or upload it and prove it then; runs in a worker."""
        found = self._storage.digest(item.path) if is_there else None
        if found is not None:
            if (found.sha256, found.size_bytes) == (item.sha256, item.size_bytes):
                return found, False
            self._check_replaceable(item, found, proof)
        content = item.content if item.content is not None else self._checked_file(item)
        self._storage.put(item.path, content, item.attributes)
        arrived = self._storage.digest(item.path)
        if arrived is None or (arrived.sha256, arrived.size_bytes) != (item.sha256, item.size_bytes):
            raise StorageError(
                f"read back after the upload, it has sha256 {arrived.sha256 if arrived else 'of nothing'}, "
                f"not {item.sha256}"
            )
        return arrived, True

    def _check_replaceable(self, item: Item, found: Digest, proof: Proof | None) -> None:
        """Refuse to write over what is not an earlier state of the same object."""
        if item.grows:
            self._check_grown(item, found)
            return
        earlier = found.sha256 == found.stated_sha256 or (proof is not None and proof.sha256 == found.sha256)
        if self._repair or (earlier and not item.final):
            return
        raise StorageError(
            f"the store holds {'an other file' if earlier else 'a damaged one'}: sha256 is {found.sha256}, "
            f"{item.sha256} was expected; it is left as it is (--repair writes it anew)"
        )

    def _check_grown(self, item: Item, found: Digest) -> None:
        """Refuse to write over what is not the beginning of this one."""
        assert item.content is not None
        if found.size_bytes > item.size_bytes:
            raise StorageError(
                f"the store holds a longer one: {found.size_bytes} bytes, {item.size_bytes} here: lines were cut off "
                f"here, or this folder is older than the store; it is never replaced by a shorter one"
            )
        if hashlib.sha256(item.content[: found.size_bytes]).hexdigest() != found.sha256 and not self._repair:
            raise StorageError(
                "the store holds another one, that this one does not continue: one of both was changed; it is left as "
                "it is (--repair writes it anew)"
            )

    def _checked_file(self, item: Item) -> Path:
        path = self._data / item.path
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
        if (digest, size) != (item.sha256, item.size_bytes):
            raise _ChangedMeanwhileError(
                f"{item.path}: changed after it was sealed: sha256 is {digest}, its manifest or ledger says "
                f"{item.sha256}; not uploaded"
            )
        return path


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[_T], _R], items: Sequence[_T]
) -> Generator[tuple[_T, Future[_R]], None, None]:
    """Items with their finished work, in order; no more than twice `AT_ONCE` are under way or waiting to be taken."""
    pending: deque[tuple[_T, Future[_R]]] = deque()
    try:
        for item in items:
            pending.append((item, pool.submit(work, item)))
            if len(pending) >= 2 * AT_ONCE:
                yield _finished(pending)
        while pending:
            yield _finished(pending)
    finally:
        for _, future in pending:
            future.cancel()


def _finished(pending: deque[tuple[_T, Future[_R]]]) -> tuple[_T, Future[_R]]:
    item, future = pending.popleft()
    future.exception()
    return item, future
