"""Checks of a sync, from its report and a look at the tables. None blocks: what they find has been committed.

Texts of the venue stand in metadata only, never in a description.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from ssmd_assets.defs.secmaster.run import Synced
from ssmd_assets.defs.secmaster.state import KEY_RULES, TableState
from ssmd_assets.defs.secmaster.syncs import Sync
from ssmd_assets.lib.keys import secmaster_key
from ssmd_assets.lib.text import visible

if TYPE_CHECKING:
    from ssmd_core.db.merge import TableReport

# Kalshi once renamed a member of its series: a filter then matched none of them, and the sync reported success. A
# whole listing does not lose a fifth between two runs, unless the venue or the sync is at fault.
MAX_FALL = 0.2
MAX_REJECTED = 0.01
_WARN = dg.AssetCheckSeverity.WARN
_ERROR = dg.AssetCheckSeverity.ERROR


@dataclass(frozen=True, slots=True)
class Before:
    """What the asset's last materialisation said; None where there is none.

    Attributes:
        rows: live rows.
        listed_in_full: distinct records of the last full listing.
    """

    rows: int | None = None
    listed_in_full: int | None = None

    @classmethod
    def of(cls, instance: dg.DagsterInstance, key: dg.AssetKey) -> Before:
        """The asset's."""
        event = instance.get_latest_materialization_event(key)
        metadata = event.asset_materialization.metadata if event and event.asset_materialization else {}
        return cls(_number(metadata, "dagster/row_count"), _number(metadata, "listed_in_full"))


def check_specs(sync: Sync) -> list[dg.AssetCheckSpec]:
    """Three checks for every table, four where keys have a rule."""
    specs = []
    for table, key in zip(sync.tables, sync.keys, strict=True):
        specs.append(dg.AssetCheckSpec("row_count", asset=key, description="Rows have not fallen by a fifth."))
        specs.append(dg.AssetCheckSpec("rejects", asset=key, description="At most 1 % of the records are refused."))
        specs.append(dg.AssetCheckSpec("deletes", asset=key, description="No deletion had to be refused."))
        if table in KEY_RULES:
            specs.append(dg.AssetCheckSpec("keys", asset=key, description=KEY_RULES[table].says))
    return specs


def check_results(sync: Sync, synced: Synced, table: str, before: Before) -> list[dg.AssetCheckResult]:
    """Results of `check_specs` for one table."""
    key, report, state = secmaster_key(sync.feed, table), synced.table(table), synced.states[table]
    results = [
        _row_count(key, synced.full, report, state, before),
        _rejects(key, report),
        _deletes(key, synced.full, report),
    ]
    if table in KEY_RULES:
        results.append(_keys(key, table, state))
    return results


def _row_count(
    key: dg.AssetKey, full: bool, report: TableReport, state: TableState, before: Before
) -> dg.AssetCheckResult:
    listed = report.fetched - report.repeated
    if full and not listed:
        text = (
            "The venue listed nothing that could be read. Nothing was deleted; see the rejects, and compare one "
            "answer of its REST interface with what the sync reads of it."
        )
    elif full and _fell(before.listed_in_full, listed):
        text = (
            f"The venue listed {listed:,} records, {before.listed_in_full:,} the last time. Ask it by hand: if they "
            f"are there, a filter or a member has changed its name, and the sync must learn the new one."
        )
    elif _fell(before.rows, state.rows):
        text = (
            f"{state.rows:,} live rows, {before.rows:,} the last time. A sync deletes a tenth at most: look into "
            f"{key.path[-1]}_history for who deleted the others, and run a full sync to bring them back."
        )
    else:
        text = f"{state.rows:,} live rows" + ("." if before.rows is None else f", {before.rows:,} the last time.")
        return _result(key, "row_count", True, _WARN, text, {"rows": state.rows})
    return _result(key, "row_count", False, _WARN, text, {"rows": state.rows, "listed": listed})


def _rejects(key: dg.AssetKey, report: TableReport) -> dg.AssetCheckResult:
    records = report.fetched + report.rejected
    share = report.rejected / records if records else 0.0
    passed = share <= MAX_REJECTED
    text = f"{report.rejected:,} of {records:,} records refused."
    if not passed:
        text += (
            " They keep their former values. Read the reasons under `rejects` of the materialisation; the venue may "
            "have changed a format."
        )
    return _result(key, "rejects", passed, _WARN, text, {"rejected": report.rejected, "share": share})


def _deletes(key: dg.AssetKey, full: bool, report: TableReport) -> dg.AssetCheckResult:
    if report.refused:
        text = (
            f"The listing shows too few of the live rows, so nothing was deleted ({report.missing:,} are missing). If "
            f"the venue really removed them, delete them by hand; else its listing was cut: run the full sync again."
        )
    elif not full:
        text = "An incremental listing deletes nothing."
    elif report.missing:
        text = f"{report.missing:,} live rows were not shown; {report.deleted:,} of them for the second time: deleted."
    else:
        text = "Every live row that could be deleted was shown."
    return _result(key, "deletes", not report.refused, _WARN, text, {"missing": report.missing})


def _keys(key: dg.AssetKey, table: str, state: TableState) -> dg.AssetCheckResult:
    rule = KEY_RULES[table]
    text = f"Not so for {state.broken_keys:,}: {rule.says} {rule.remedy}" if state.broken_keys else rule.says
    metadata = {"broken": state.broken_keys, "examples": [visible(key) for key in state.examples]}
    return _result(key, "keys", not state.broken_keys, _ERROR, text, metadata)


def _result(
    key: dg.AssetKey,
    name: str,
    passed: bool,
    severity: dg.AssetCheckSeverity,
    description: str,
    metadata: Mapping[str, Any],
) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=key, check_name=name, passed=passed, severity=severity, description=description, metadata=metadata
    )


def _fell(before: int | None, now: int) -> bool:
    return before is not None and now < before * (1 - MAX_FALL)


def _number(metadata: Mapping[str, dg.MetadataValue[Any]], name: str) -> int | None:
    value = metadata.get(name)
    return value.value if value is not None and isinstance(value.value, int) else None
