"""The ledger of an hour as an asset: its word, its reasons and its place in the chain; and what its checks say.

None of the checks blocks: a degraded hour is data all the same, and says of itself how far it can be trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from ssmd_assets.defs.datasets.checks import Finding
from ssmd_assets.defs.datasets.hour import Hour
from ssmd_assets.defs.datasets.materializations import Made
from ssmd_assets.lib.checks import hourly_check
from ssmd_assets.lib.database import with_database
from ssmd_assets.lib.keys import OWNERS, archive_key, identifier, ledger_key
from ssmd_assets.lib.text import cell, visible
from ssmd_assets.partitions import HOURLY
from ssmd_core.archive.paths import parse_hour
from ssmd_core.feeds.base import Feed
from ssmd_core.settings import Settings

if TYPE_CHECKING:
    import psycopg

    from ssmd_core.proof.ledger import Ledger, Reason

_FRESHNESS = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=3), warn_window=timedelta(hours=2))
_SHOWN = 20
# A reason names at most five things that were seen; a venue's words in them may be long.
_DETAIL_CHARS = 600
# code -> what to do; what is not named needs no action beyond reading the evidence.
_ADVICE = {
    "slots_missing": "Look at the archiver; materialise the hour again when its slots are sealed.",
    "messages_lost": "The stream expired before it was archived: raise its max_age, and look at the archiver.",
    "ordinals_missing": "Messages were received and not archived: verify the archive and the spool.",
    "not_connected": "Look at the connector's log of that time; trades can be fetched with `ssmd health trades`.",
    "not_acknowledged": "The venue did not confirm: look at the refusals and limits of the connection.",
    "refused": "Remove what the venue refuses from the instruments, or correct its name.",
    "live_count_differs": "What the socket delivered is not what the archive holds: verify the archive.",
    "untrusted": "Leave the intervals out, or use the books before and after them.",
    "checks_failed": "Compare the failing messages with the venue's; the intervals are exported.",
    "drift": "The venue changed its format: see docs/drift.md.",
    "rejects": "Read the reasons in the rejects file; mend the schema and materialise the hour again.",
    "null_column": "The venue may have renamed a member: compare a raw line with the schema's sources.",
    "clock_offset": "Set this machine's clock, by NTP.",
    "no_control_events": "The archive was not written by ssmd's connectors: nothing can be proved.",
    "two_connectors": "Stop one of the connectors: `ssmd connector status` names them.",
    "handover": "Nothing: what came in these seconds is there twice, each under its own `_epoch`.",
    "carried_state_missing": "Prove the hour before, then this one again.",
}
_INTEGRITY = ("untrusted", "checks_failed")
_DRIFT = ("drift", "null_column")


def ledger_spec(feed: Feed, stream: str) -> dg.AssetSpec:
    """The asset."""
    return dg.AssetSpec(
        ledger_key(feed, stream),
        deps=[archive_key(feed, stream)],
        description=(
            f"What every hour of {feed.display_name} proves about itself: asked, acknowledged, delivered and missed, "
            f"per connection and minute; checks by the venue's own numbers; hash-chained and signed. "
            f"`proof/{feed.name}/{stream}/YYYY-MM-DD/`, tables `ledger_hours`, `ledger_minutes`, `untrusted_intervals`."
        ),
        skippable=True,
        group_name=identifier(feed.name),
        owners=OWNERS,
        kinds={"parquet", "postgres", feed.name},
        partitions_def=HOURLY,
        freshness_policy=_FRESHNESS,
    )


def ledger_check_specs(feed: Feed, stream: str) -> list[dg.AssetCheckSpec]:
    """Three checks an hour."""
    key = ledger_key(feed, stream)
    return [
        hourly_check("complete", key, "The hour is complete, or empty and proved to be.", blocking=False),
        hourly_check("integrity", key, "The venue's own counters and checksums hold.", blocking=False),
        hourly_check("drift", key, "The messages have the shape that they had before.", blocking=False),
    ]


def ledger_made(hour: Hour, settings: Settings) -> Made:
    """The hour's ledger, loaded into Postgres where there is one. Its data version is the hash that the chain holds."""
    from ssmd_core.proof.chain import newest
    from ssmd_core.proof.ledger import hour_id, proof_file

    ledger = _ledger(hour)
    moment = parse_hour(hour.report.hour)
    entry = newest(settings.proof_root, hour.feed.name, hour.stream)[hour_id(moment)]
    path = proof_file(settings.proof_root, hour.feed.name, hour.stream, moment, "ledger")
    metadata: dict[str, Any] = {
        "dagster/partition_row_count": ledger.totals.messages,
        "word": ledger.word,
        "reasons": dg.MetadataValue.md(_table(ledger.reasons)),
        "totals": dg.MetadataValue.md(_totals(ledger)),
        "carried": ledger.carried.hour if ledger.carried else "nothing: the hour before is not proved",
        "postgres": _load(hour, settings),
        "path": dg.MetadataValue.path(str(path)),
        "sha256": entry.ledger,
        "chain": f"line {entry.n + 1}, sealed {entry.sealed_at} with key {entry.key[:16]}…",
    }
    return Made(ledger_key(hour.feed, hour.stream), metadata, entry.ledger)


def ledger_findings(hour: Hour) -> list[Finding]:
    """`complete`, `integrity` and `drift` of the hour."""
    ledger = _ledger(hour)
    key = ledger_key(hour.feed, hour.stream)
    totals = ledger.totals
    integrity = [reason for reason in ledger.reasons if reason.code in _INTEGRITY]
    drift = [reason for reason in ledger.reasons if reason.code in _DRIFT]
    held = f"{totals.passed:,} comparisons passed, {totals.failed:,} failed, {totals.missing:,} numbers are missing."
    if not totals.passed + totals.failed:
        held = "Nothing of the hour could be compared with numbers of the venue."
    degraded = ledger.reasons if ledger.word == "degraded" else []
    return [
        _finding(key, "complete", degraded, f"The hour is {ledger.word}.", {"word": ledger.word}),
        _finding(key, "integrity", integrity, held, {"untrusted_intervals": totals.untrusted}),
        _finding(key, "drift", drift, "The messages have the shape that they had before.", {}),
    ]


def _finding(key: dg.AssetKey, check: str, reasons: Sequence[Reason], well: str, metadata: dict[str, Any]) -> Finding:
    text = well
    if reasons:
        first = reasons[0]
        text = f"{_detail(first)}. {_ADVICE.get(first.code, '')}".strip()
        if len(reasons) > 1:
            text += f" Beside it: {', '.join(sorted({reason.code for reason in reasons[1:]}))}."
    evidence = [visible(one) for reason in reasons for one in reason.evidence][:_SHOWN]
    return Finding(
        key,
        check,
        not reasons,
        dg.AssetCheckSeverity.WARN,
        text,
        {**metadata, "evidence": evidence} if evidence else metadata,
    )


def _ledger(hour: Hour) -> Ledger:
    assert hour.ledger is not None, "an hour with sealed files has a ledger"
    return hour.ledger


def _load(hour: Hour, settings: Settings) -> str:
    """Rows into Postgres. Where that fails the files are there all the same, and the day's scores load what lacks."""
    if not settings.database_url:
        return "not loaded: DATABASE_URL is not set"
    from ssmd_stream.proved import load_hour

    moment = parse_hour(hour.report.hour)

    async def work(connection: psycopg.AsyncConnection) -> bool:
        return await load_hour(connection, settings, hour.feed.name, hour.stream, moment, hour.turned_null)

    try:
        with_database(settings, f"ledger of {hour.report.hour}", work)
    except dg.Failure as failure:
        return f"not loaded: {failure.description}"
    return "loaded"


def _totals(ledger: Ledger) -> str:
    """Only what is not 0: of 23 sums most are."""
    sums = {name: getattr(ledger.totals, name) for name in ledger.totals.__struct_fields__}
    rows = "\n".join(f"| {name.replace('_', ' ')} | {value:,} |" for name, value in sums.items() if value)
    return f"| | |\n|---|--:|\n{rows}\n\nAll others are 0." if rows else "All are 0."


def _detail(reason: Reason) -> str:
    text = visible(reason.detail).rstrip(".")
    return text if len(text) <= _DETAIL_CHARS else f"{text[:_DETAIL_CHARS]}…"


def _table(reasons: Sequence[Reason]) -> str:
    if not reasons:
        return "None."
    rows = "\n".join(f"| {reason.code} | {cell(_detail(reason))} | {reason.count} |" for reason in reasons[:_SHOWN])
    return f"| code | detail | count |\n|---|---|---|\n{rows}"
