"""Where ssmd finds its data folder and its servers: from the environment, with defaults for one machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ssmd_core.clock import Clock


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one process.

    Attributes:
        data: one folder for everything that ssmd writes (`SSMD_DATA`, default `.data` in the working directory).
        env: environment name, first token of every subject (`SSMD_ENV`, default `prod`).
        nats_url: `NATS_URL`.
        database_url: `DATABASE_URL`; "" if there is none.
        redis_url: `REDIS_URL`; "" if there is none.
        clock: `SSMD_CLOCK`, see `Clock.parse`; default the system's.
    """

    data: Path
    env: str
    nats_url: str
    database_url: str
    redis_url: str
    clock: Clock

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read the environment.

        Raises:
            ConfigError: `SSMD_CLOCK` cannot be read.
        """
        values = os.environ if environment is None else environment
        return cls(
            data=Path(values.get("SSMD_DATA", ".data")).absolute(),
            env=values.get("SSMD_ENV", "prod"),
            nats_url=values.get("NATS_URL", "nats://127.0.0.1:4222"),
            database_url=values.get("DATABASE_URL", ""),
            redis_url=values.get("REDIS_URL", ""),
            clock=Clock.parse(values.get("SSMD_CLOCK")),
        )

    @property
    def archive_root(self) -> Path:
        """Root of the archive."""
        return self.data / "archive"

    @property
    def dataset_root(self) -> Path:
        """Root of the parquet datasets."""
        return self.data / "datasets"

    @property
    def proof_root(self) -> Path:
        """Root of the ledgers and of what they prove."""
        return self.data / "proof"

    @property
    def backfill_root(self) -> Path:
        """Root of the datasets of trades that capture missed and REST told afterwards."""
        return self.data / "backfill"

    @property
    def spool_root(self) -> Path:
        """Where connectors keep frames while NATS is away."""
        return self.data / "spool"

    @property
    def config_root(self) -> Path:
        """Where feed.yaml and env.yaml files lie."""
        return self.data / "config"
