"""Dagster's storage: Postgres where the environment names one, else SQLite in the data folder.

Two faults of plain `storage: postgres` are mended. Dagster reads the `dagster.yaml` of the working directory also when
DAGSTER_HOME is not set, so no command of a fresh shell in the checkout would work: its variables have no defaults. And
it opens a connection for every operation: one hour of all feeds, 288 events, took 21-26 s, and 9-12 s with a pool.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from ssmd_core.errors import ConfigError
from ssmd_core.settings import Settings

_PARTS = ("hostname", "port", "username", "password", "db_name")


class PostgresStorage(DagsterStorage, ConfigurableClass):
    """Makes the storage that `dagster.yaml` asks for; never instantiated itself.

    Its config holds, for each of hostname, port, username, password and db_name, the name of an environment variable,
    and the SQLAlchemy `scheme`.
    """

    @classmethod
    def config_type(cls) -> dict[str, type[str]]:
        """See the class."""
        return {name: str for name in (*_PARTS, "scheme")}

    @classmethod
    def from_config_value(  # type: ignore[override]  # Dagster types the base less exactly
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> DagsterStorage:
        """Postgres if the variables are set, SQLite if none is.

        SQLite lies in DAGSTER_HOME, or else in `dagster` of the data folder, where every process of one
        `dagster dev` finds it.

        Raises:
            ConfigError: some of the variables are set and some are not.
        """
        missing = [config_value[part] for part in _PARTS if not os.environ.get(config_value[part])]
        if len(missing) == len(_PARTS):
            home = os.environ.get("DAGSTER_HOME")
            folder = Path(home) if home else Settings.from_environment().data / "dagster"
            return DagsterSqliteStorage.from_local(str(folder), inst_data=inst_data)
        if missing:
            raise ConfigError(f"Dagster's Postgres is named only in part; not set: {', '.join(missing)}")
        from dagster_postgres import DagsterPostgresStorage
        from dagster_postgres.utils import get_conn_string
        from sqlalchemy import create_engine

        value = {part: os.environ[config_value[part]] for part in _PARTS}
        url = get_conn_string(
            username=value["username"],
            password=value["password"],
            hostname=value["hostname"],
            port=value["port"],
            db_name=value["db_name"],
            scheme=config_value["scheme"],
        )
        storage = DagsterPostgresStorage(url, inst_data=inst_data)
        parts: tuple[Any, ...] = (storage.run_storage, storage.event_log_storage, storage.schedule_storage)
        for part in parts:
            # The ping keeps what a connection for every operation was good for: a restart of Postgres is survived.
            part._engine = create_engine(
                url, isolation_level="AUTOCOMMIT", pool_size=1, max_overflow=20, pool_recycle=3600, pool_pre_ping=True
            )
        return storage
