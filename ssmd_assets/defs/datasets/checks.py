"""Checks of an hour, from the report of the function that made it: no second read of the files.

Each says in a sentence or two what is wrong and what to do. Blocking are those after which the files must not be used:
`schema` and `row_balance`. The others warn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from ssmd_assets.defs.datasets.hour import Hour
from ssmd_assets.lib.checks import hourly_check
from ssmd_assets.lib.keys import dataset_key, dataset_types, rejects_key
from ssmd_assets.lib.text import visible
from ssmd_core.feeds.base import Feed

_SHOWN = 20
_WARN = dg.AssetCheckSeverity.WARN
_ERROR = dg.AssetCheckSeverity.ERROR


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result.

    Attributes:
        asset, check: which.
        passed, severity, description, metadata: as Dagster has them.
    """

    asset: dg.AssetKey
    check: str
    passed: bool
    severity: dg.AssetCheckSeverity
    description: str
    metadata: Mapping[str, Any]

    @property
    def key(self) -> dg.AssetCheckKey:
        """Dagster's key of the check."""
        return dg.AssetCheckKey(self.asset, self.check)

    @property
    def blocks(self) -> bool:
        """Whether the hour's files must not be used."""
        return not self.passed and self.severity == _ERROR

    def result(self) -> dg.AssetCheckResult:
        """For a step that yields it."""
        return dg.AssetCheckResult(
            asset_key=self.asset,
            check_name=self.check,
            passed=self.passed,
            severity=self.severity,
            description=self.description,
            metadata=self.metadata,
        )

    def evaluation(self, partition: str) -> dg.AssetCheckEvaluation:
        """For a run over several hours, which logs one for each."""
        return dg.AssetCheckEvaluation(
            asset_key=self.asset,
            check_name=self.check,
            passed=self.passed,
            severity=self.severity,
            description=self.description,
            metadata=self.metadata,
            partition=partition,
        )


def check_specs(feed: Feed, stream: str) -> list[dg.AssetCheckSpec]:
    """Two checks for every message type, three for the hour."""
    specs = []
    for name in dataset_types(feed):
        key = dataset_key(feed, stream, name)
        specs.append(hourly_check("schema", key, "Messages fit the columns of the registry.", blocking=True))
        specs.append(hourly_check("null_rates", key, "No column that used to be filled is empty.", blocking=False))
    books = rejects_key(feed, stream)
    balance = "Archived messages = messages with rows + rejects + messages of types without a schema."
    specs.append(hourly_check("row_balance", books, balance, blocking=True))
    specs.append(hourly_check("duplicate_sequences", books, "Each sequence is archived once.", blocking=False))
    specs.append(hourly_check("sequence_gaps", books, "No sequence is missing.", blocking=False))
    return specs


def type_findings(hour: Hour, message_type: str) -> list[Finding]:
    """`schema` and `null_rates` of one message type."""
    key = dataset_key(hour.feed, hour.stream, message_type)
    return [_schema(key, hour, message_type), _null_rates(key, hour, message_type)]


def hour_findings(hour: Hour) -> list[Finding]:
    """`row_balance`, `duplicate_sequences` and `sequence_gaps` of the hour."""
    key = rejects_key(hour.feed, hour.stream)
    return [_row_balance(key, hour), _duplicates(key, hour), _sequence_gaps(key, hour)]


def _schema(key: dg.AssetKey, hour: Hour, message_type: str) -> Finding:
    schema = hour.feed.message_types[message_type].schema
    assert schema is not None
    label = f"{schema.name} {schema.version}"
    report = hour.report
    accepted, rejected = report.accepted.get(message_type, 0), report.rejects.get(message_type, 0)
    written = hour.output(message_type)
    passed, severity = False, _ERROR
    if written and (written.schema_name, written.schema_version) != (schema.name, schema.version):
        text = (
            f"The file is {written.schema_name} {written.schema_version}, the registry has {label}: reload the code "
            f"location and rebuild the hour."
        )
    elif rejected and not accepted:
        text = (
            f"All {rejected:,} messages break {label}: the venue has changed its format. Read the reasons in "
            f"{report.rejects_file}, teach the schema of {hour.feed.name} the new members and rebuild the hour."
        )
    elif rejected:
        severity = _WARN
        text = (
            f"{rejected:,} of {accepted + rejected:,} messages break {label}. Read the reasons in "
            f"{report.rejects_file}; where the venue is right, mend the schema and rebuild the hour."
        )
    else:
        passed = True
        text = f"All {accepted:,} messages fit {label}." if accepted else "No message of this type, nothing to check."
    return Finding(key, "schema", passed, severity, text, {"accepted": accepted, "rejected": rejected})


def _null_rates(key: dg.AssetKey, hour: Hour, message_type: str) -> Finding:
    rows = hour.report.rows.get(message_type, 0)
    gone = [found for found in hour.turned_null if found.message_type == message_type]
    text = f"No column that used to be filled is empty in {rows:,} rows."
    if gone:
        text = visible(gone[0].detail)
        if len(gone) > 1:
            text += f" Likewise: {', '.join(found.path for found in gone[1:])}."
    return Finding(key, "null_rates", not gone, _WARN, text, {"null_rates": hour.nulls(message_type)})


def _row_balance(key: dg.AssetKey, hour: Hour) -> Finding:
    report = hour.report
    accepted, rejected = sum(report.accepted.values()), sum(report.rejects.values())
    no_schema = sum(report.no_schema.values())
    sums = f"{accepted:,} with rows + {rejected:,} rejected + {no_schema:,} without a schema"
    foreign = report.rejects.get("unparsed", 0)
    if not report.balanced:
        text = (
            f"{report.messages:,} messages are not {sums}: {report.messages - accepted - rejected - no_schema:+,} are "
            f"unaccounted for. Do not use the hour; verify its archive files and report the fault with their hashes."
        )
    elif foreign:
        text = (
            f"{foreign:,} of {report.messages:,} lines are no message of {hour.feed.name}: a file is damaged or not "
            f"written by the archiver. Read the reasons in {report.rejects_file} and verify the archive."
        )
    else:
        text = f"{report.messages:,} messages = {sums}."
    metadata = {"messages": report.messages, "accepted": accepted, "rejected": rejected, "no_schema": no_schema}
    return Finding(key, "row_balance", report.balanced and not foreign, _ERROR, text, metadata)


def _duplicates(key: dg.AssetKey, hour: Hour) -> Finding:
    count = hour.report.duplicate_seqs
    if count:
        text = (
            f"{count:,} messages are archived more than once and were taken once. Nothing is lost; two archivers may "
            f"be writing the same stream, or a late file overlaps another: compare first_seq and last_seq of the files."
        )
    else:
        text = "Each sequence is archived once."
    return Finding(key, "duplicate_sequences", not count, _WARN, text, {"duplicates": count})


def _sequence_gaps(key: dg.AssetKey, hour: Hour) -> Finding:
    if hour.lost:
        first = next(hole for hole in hour.holes if hole.lost)
        text = (
            f"{hour.lost:,} sequences are missing, first after {first.after_seq} ({first.reason}). `expired`: the "
            f"archiver was away longer than the stream keeps messages, raise the stream's max_age; `deleted`: somebody "
            f"purged the stream; `unknown`: a file of the hour is not there or not sealed yet, look into the folder."
        )
    elif hour.holes:
        text = f"Nothing is missing; {len(hour.holes):,} holes are dropped duplicates or lie in a neighbouring hour."
    else:
        text = "No sequence is missing."
    holes = [hole._asdict() for hole in hour.holes[:_SHOWN]]
    return Finding(key, "sequence_gaps", not hour.lost, _WARN, text, {"missing": hour.lost, "holes": holes})
