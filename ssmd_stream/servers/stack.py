"""The servers of one ssmd installation: local ones in its data folder, or external ones by URL."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from ssmd_core.settings import Settings
from ssmd_stream.servers.external import ExternalServer, dagster_url, installation_reason, nats_reason, redis_reason
from ssmd_stream.servers.nats import NatsServer
from ssmd_stream.servers.postgres import PostgresServer
from ssmd_stream.servers.valkey import ValkeyServer


@dataclass(frozen=True, slots=True)
class ServerUrls:
    """Where the running servers are; database URLs hold the password.

    Attributes:
        nats: `NATS_URL`.
        nats_monitor: base of NATS's monitoring pages; "" if NATS is external.
        database: `DATABASE_URL`, ssmd's own database.
        dagster_database: Dagster's database on the same server.
        redis: `REDIS_URL`.
    """

    nats: str
    nats_monitor: str
    database: str
    dagster_database: str
    redis: str

    def environment(self) -> dict[str, str]:
        """Environment variables for child processes, those that dagster.yaml reads included."""
        dagster = urlsplit(self.dagster_database)
        return {
            "NATS_URL": self.nats,
            "DATABASE_URL": self.database,
            "REDIS_URL": self.redis,
            "DAGSTER_PG_HOST": dagster.hostname or "",
            "DAGSTER_PG_PORT": str(dagster.port or 5432),
            "DAGSTER_PG_USERNAME": unquote(dagster.username or ""),
            "DAGSTER_PG_PASSWORD": unquote(dagster.password or ""),
            "DAGSTER_PG_DB": dagster.path.lstrip("/"),
        }


class Stack:
    """NATS, Postgres and Valkey as `settings` and the environment ask for them.

    Args:
        settings: `data` is where local servers keep theirs: `{data}/servers/{name}`, logs in `{data}/logs`.
        environment: a server whose `NATS_URL`, `DATABASE_URL` or `REDIS_URL` is set here is external; default
            `os.environ`.
    """

    def __init__(self, settings: Settings, environment: Mapping[str, str] | None = None) -> None:
        values = os.environ if environment is None else environment
        folder, logs = settings.data / "servers", settings.data / "logs"
        self.nats: NatsServer | ExternalServer
        self.postgres: PostgresServer | ExternalServer
        self.valkey: ValkeyServer | ExternalServer
        if url := values.get("NATS_URL"):
            self.nats = ExternalServer("nats", url, nats_reason)
        else:
            self.nats = NatsServer(folder / "nats", log_path=logs / "nats.log")
        if url := values.get("DATABASE_URL"):
            self.postgres = ExternalServer("postgres", url, installation_reason)
        else:
            self.postgres = PostgresServer(folder / "postgres", log_path=logs / "postgres.log")
        if url := values.get("REDIS_URL"):
            self.valkey = ExternalServer("valkey", url, redis_reason)
        else:
            self.valkey = ValkeyServer(folder / "valkey", log_path=logs / "valkey.log")

    @property
    def servers(self) -> list[NatsServer | PostgresServer | ValkeyServer | ExternalServer]:
        """All of them."""
        return [self.nats, self.postgres, self.valkey]

    def urls(self) -> ServerUrls:
        """Where they are.

        Raises:
            ServerError: a local one was not started.
        """
        return ServerUrls(
            nats=self.nats.url,
            nats_monitor=self.nats.monitor_url if isinstance(self.nats, NatsServer) else "",
            database=self.postgres.url,
            dagster_database=dagster_url(self.postgres.url),
            redis=self.valkey.url,
        )
