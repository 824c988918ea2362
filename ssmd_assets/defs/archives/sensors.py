"""The sensor that reports sealed files and asks for their hours."""

import hashlib
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from ssmd_assets.defs.datasets.jobs import hourly_datasets
from ssmd_assets.defs.resources import Environment
from ssmd_assets.lib.keys import DATA_VERSION_TAG, STREAMS, archive_key, hour_keys, stream_key
from ssmd_assets.lib.sealed import SLOTS_PER_HOUR, Cursor, Scan, SealedHour, scan
from ssmd_assets.partitions import is_partition
from ssmd_core.archive.manifest import FileEntry
from ssmd_core.archive.paths import hour_key
from ssmd_core.clock import NS_PER_S

# Dagster gives up a tick after 60 s.
DEADLINE_S = 20.0
MAX_HOURS_PER_TICK = 24
# A stream is reported as materialised only if its newest slot is as young as that: an archive of last year, copied
# into place, must not make a dead stream look fresh.
_LIVE = timedelta(hours=1)


@dg.sensor(
    job=hourly_datasets,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Reports sealed archive files and asks for their hours: one run an hour, for all feeds together.",
)
def sealed_hours(context: dg.SensorEvaluationContext, environment: Environment) -> dg.SensorResult:
    """One tick: what has been sealed, re-sealed or come late since the cursor."""
    began = time.monotonic()
    settings = environment.settings()
    now = datetime.fromtimestamp(settings.clock.now_ns() // NS_PER_S, UTC)
    cursor = Cursor.read(context.cursor)
    found = scan(
        settings.archive_root,
        STREAMS,
        cursor,
        now,
        askable=is_partition,
        deadline=began + DEADLINE_S,
        max_hours=MAX_HOURS_PER_TICK,
    )
    events: list[dg.AssetMaterialization] = [_stream_event(name, entry) for name, entry in _live(found, cursor, now)]
    requests = []
    for hour, group in sorted(found.due.items()):
        events.extend(_archive_event(one) for one in group)
        requests.append(_request(hour, group))
    for broken in found.broken:
        context.log.error(f"manifest cannot be read, its day is left out: {broken}")
    if found.cut:
        context.log.info(f"more is left for the next tick: {found.cut}")
    return dg.SensorResult(
        run_requests=requests,
        asset_events=events,
        cursor=cursor.text(),
        skip_reason=None if requests else _why_nothing(found, str(settings.archive_root)),
    )


def _live(found: Scan, cursor: Cursor, now: datetime) -> list[tuple[str, FileEntry]]:
    """Streams with a slot newer than the one reported last; notes them in the cursor."""
    fresh = []
    for name, entry in found.live.items():
        if entry.end > cursor.live.get(name, "") and now - datetime.fromisoformat(entry.end) <= _LIVE:
            cursor.live[name] = entry.end
            fresh.append((name, entry))
    return fresh


def _stream_event(name: str, newest: FileEntry) -> dg.AssetMaterialization:
    feed, stream = next((feed, stream) for feed, stream in STREAMS if f"{feed.name}/{stream}" == name)
    return dg.AssetMaterialization(
        stream_key(feed, stream),
        metadata={
            "newest_slot_end": newest.end,
            "messages_in_slot": newest.records,
            "last_seq": newest.last_seq,
            "messages_by_type": newest.records_by_type,
        },
    )


def _archive_event(one: SealedHour) -> dg.AssetMaterialization:
    slots = len({entry.name[:4] for entry in one.files})
    return dg.AssetMaterialization(
        archive_key(one.feed, one.stream),
        partition=hour_key(one.hour),
        metadata={
            "dagster/partition_row_count": sum(entry.records for entry in one.files),
            "bytes": sum(entry.bytes for entry in one.files),
            "raw_bytes": sum(entry.raw_bytes for entry in one.files),
            "slots_sealed": f"{slots} of {SLOTS_PER_HOUR}",
            "late_files": len(one.files) - slots,
            "files": {entry.name: entry.sha256 for entry in one.files},
        },
        tags={DATA_VERSION_TAG: one.digest},
    )


def _request(hour: datetime, group: Sequence[SealedHour]) -> dg.RunRequest:
    names = sorted(group, key=lambda one: one.name)
    digest = hashlib.sha256("\n".join(f"{one.name} {one.digest}" for one in names).encode()).hexdigest()[:16]
    return dg.RunRequest(
        run_key=f"{hour_key(hour)}:{digest}",
        partition_key=hour_key(hour),
        asset_selection=[key for one in names for key in hour_keys(one.feed, one.stream)],
        tags={"ssmd/streams": ",".join(one.name for one in names)},
    )


def _why_nothing(found: Scan, archive_root: str) -> str:
    if found.broken:
        return f"nothing new; {len(found.broken)} manifests cannot be read, first: {found.broken[0]}"
    if found.waiting:
        return f"nothing is ready; waiting for more slots of {', '.join(found.waiting[:4])}"
    if found.cut:
        return f"nothing new so far; {found.cut}"
    return f"nothing new is sealed under {archive_root}"
