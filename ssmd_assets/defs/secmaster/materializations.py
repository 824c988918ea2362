"""What is reported of a sync, table by table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import dagster as dg

from ssmd_assets.defs.secmaster.checks import Before
from ssmd_assets.defs.secmaster.run import Synced
from ssmd_assets.lib.text import visible

if TYPE_CHECKING:
    from ssmd_core.db.merge import Reject

_COUNTS = (
    "fetched", "repeated", "inserted", "changed", "unchanged", "resurrected", "newer", "rejected", "missing", "deleted"
)  # fmt: skip


def table_metadata(synced: Synced, table: str, before: Before) -> dict[str, Any]:
    """Metadata of one table's materialisation.

    Args:
        before: what the last materialisation said; its `listed_in_full` is carried on by an incremental sync.
    """
    report, done, state = synced.report, synced.table(table), synced.states[table]
    listed = done.fetched - done.repeated if synced.full else before.listed_in_full
    metadata: dict[str, Any] = {
        "dagster/row_count": state.rows,
        "rows_marked_deleted": state.deleted_rows,
        "mode": report.mode,
        "touched": done.touched,
    }
    # What somebody should see comes before what is merely counted.
    if done.refused:
        metadata["refused"] = done.refused
    if warnings := {visible(text): count for text, count in report.warnings.items() if text != done.refused}:
        metadata["warnings"] = warnings
    if rejects := [one for one in report.rejects if one.table == table]:
        metadata["rejects"] = rejects_table(rejects)
    metadata |= {name: getattr(done, name) for name in _COUNTS}
    if listed is not None:
        metadata["listed_in_full"] = listed
    if beside := {name: other.touched for name, other in report.tables.items() if name != table and other.touched}:
        metadata["touched_beside"] = beside
    if state.last_change is not None:
        metadata["last_change"] = dg.MetadataValue.timestamp(state.last_change)
    if synced.watermarks:
        metadata["watermarks"] = {name: value.isoformat() for name, value in sorted(synced.watermarks.items())}
    return metadata | {"seconds": report.seconds, "database_s": report.database_s}


def rejects_table(rejects: Iterable[Reject]) -> dg.TableMetadataValue:
    """Examples of what was refused.

    A table of Dagster's and not markdown: keys and reasons carry a stranger's text, which the UI shows here as it is
    instead of reading it as links, images or HTML.
    """
    return dg.MetadataValue.table(
        records=[dg.TableRecord({"key": visible(one.key), "reason": visible(one.reason)}) for one in rejects],
        schema=dg.TableSchema(columns=[dg.TableColumn("key"), dg.TableColumn("reason")]),
    )
