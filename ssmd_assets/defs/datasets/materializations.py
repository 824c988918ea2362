"""What is reported of the files of an hour."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from ssmd_assets.defs.datasets.hour import Hour
from ssmd_assets.lib.keys import DATA_VERSION_TAG, dataset_key, rejects_key
from ssmd_assets.lib.sealed import SLOTS_PER_HOUR


@dataclass(frozen=True, slots=True)
class Made:
    """One asset's share of an hour.

    Attributes:
        key: which asset.
        metadata: of its materialisation.
        data_version: sha256 of the file, or what stands for it where there is none.
    """

    key: dg.AssetKey
    metadata: dict[str, Any]
    data_version: str

    def result(self) -> dg.MaterializeResult[None]:
        """For a run of one hour."""
        return dg.MaterializeResult(
            asset_key=self.key, metadata=self.metadata, data_version=dg.DataVersion(self.data_version)
        )

    def event(self, partition: str) -> dg.AssetMaterialization:
        """For a run over several hours: a result would be copied to all of them."""
        return dg.AssetMaterialization(
            self.key, partition=partition, metadata=self.metadata, tags={DATA_VERSION_TAG: self.data_version}
        )


def dataset_made(hour: Hour, message_type: str, dataset_root: Path) -> Made | None:
    """A message type's rows, or the proof that there were none; None where the archive proves neither."""
    key = dataset_key(hour.feed, hour.stream, message_type)
    output = hour.output(message_type)
    rejected = hour.report.rejects.get(message_type, 0)
    if output is not None and output.rows:
        metadata = {
            "dagster/partition_row_count": output.rows,
            "empty": False,
            "path": dg.MetadataValue.path(str(dataset_root / output.path)),
            "bytes": output.bytes,
            "schema": f"{output.schema_name} {output.schema_version}",
            "messages": hour.report.accepted.get(message_type, 0),
            "rejected": rejected,
            "null_rates": hour.nulls(message_type),
            "source_files": hour.source_files,
            "sha256": output.sha256,
        }
        return Made(key, metadata, output.sha256)
    if rejected or not hour.whole:
        return None
    metadata = {
        "dagster/partition_row_count": 0,
        "empty": True,
        "source_files": hour.source_files,
    }
    return Made(key, metadata, "empty")


def rejects_made(hour: Hour, dataset_root: Path) -> Made:
    """The hour's rejects and its books; always there, with 0 rejects too."""
    report = hour.report
    metadata: dict[str, Any] = {
        "dagster/partition_row_count": sum(report.rejects.values()),
        "messages": report.messages,
        "accepted": dict(report.accepted),
        "rejects": dict(report.rejects),
        "no_schema": dict(report.no_schema),
        "slots": f"{hour.slots} of {SLOTS_PER_HOUR}",
        "build_s": round(report.seconds, 3),
        "source_files": hour.source_files,
    }
    if report.rejects_file:
        metadata["path"] = dg.MetadataValue.path(str(dataset_root / report.rejects_file))
    sources = "\n".join(f"{name} {sha256}" for name, sha256 in hour.source_files.items())
    return Made(rejects_key(hour.feed, hour.stream), metadata, hashlib.sha256(sources.encode()).hexdigest())
