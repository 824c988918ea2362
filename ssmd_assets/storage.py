"""Dagster's storage: Postgres where the environment names one, else SQLite in the data folder.

Dagster reads the `dagster.yaml` of the working directory also when DAGSTER_HOME is not set. With plain
`storage: postgres`, no command of a fresh shell in the checkout would work: its variables have no defaults.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from ssmd_core.errors import ConfigError
from ssmd_core.settings import Settings

_PARTS = ("hostname", "port", "username", "password", "db_name")


class PostgresStorage(ConfigurableClass):
    """Makes the storage that `dagster.yaml` asks for.

    Its config holds, for each of hostname, port, username, password and db_name, the name of an environment variable,
    and the SQLAlchemy `scheme`.
    """

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """None: what is made keeps its own."""
        return None

    @classmethod
    def config_type(cls) -> dict[str, type[str]]:
        """See the class."""
        return {name: str for name in (*_PARTS, "scheme")}

    @classmethod
    def from_config_value(  # type: ignore[override]
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> DagsterStorage | Self:
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

        value = {part: os.environ[config_value[part]] for part in _PARTS}
        return DagsterPostgresStorage.from_config_value(
            inst_data, {"postgres_db": {**value, "port": int(value["port"]), "scheme": config_value["scheme"]}}
        )
