"""An API on the small security master of `tests/secmaster_rows.py`, and a request for each of its routes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from api_rig import ApiRig, api_settings
from secmaster_rows import CONDITION, NOW, TOKENS, fill

from ssmd_api.auth.access import Scope
from ssmd_api.rest import quality, secmaster
from ssmd_api.routing import Route
from ssmd_stream.servers.postgres import PostgresServer

IDS = {"series": "ticker", "events": "eventTicker", "markets": "ticker", "pairs": "pairId", "conditions": "conditionId"}
READ = (Scope.SECMASTER_READ, Scope.DATASETS_READ)


class Told(ApiRig):
    """The API on the story, with a key for everything."""

    everything: str

    def ask(self, path: str, **parameters: Any) -> Any:
        """The JSON of a request that must succeed; parameters by their own names, `from_` for `from`."""
        return self.json(path, self.everything, **{name.rstrip("_"): value for name, value in parameters.items()})

    def keys(self, path: str, **parameters: Any) -> list[str]:
        """The ids of the rows of a list."""
        name = path.rpartition("/")[2]
        return [row[IDS[name]] for row in self.ask(path, **parameters)[name]]

    def status(self, path: str, key: str = "", **parameters: Any) -> int:
        """Of any request."""
        return self.get(path, key or self.everything, **parameters).status_code


@contextmanager
def telling(database_url: str, folder: Path) -> Iterator[Told]:
    """The API on a database that holds the story."""
    fill(database_url)
    rig = Told(api_settings(database_url, folder, SSMD_CLOCK=f"{NOW}@0"))
    with rig.running():
        rig.everything = rig.key(*READ)
        yield rig


@pytest.fixture(scope="module")
def told(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """For tests that only look."""
    folder = tmp_path_factory.mktemp("story")
    name = f"{folder.name}_{os.getpid()}"
    with psycopg.connect(postgres_server.url_of("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE migrated STRATEGY FILE_COPY".encode())
    with telling(postgres_server.url_of(name), folder) as rig:
        yield rig
    with psycopg.connect(postgres_server.url_of("postgres"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def changing(database_url: str, tmp_path: Path) -> Iterator[Told]:
    """For tests that change something."""
    with telling(database_url, tmp_path / "data") as rig:
        yield rig


#: One request for each route.
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/events": {"limit": 1},
    "/v1/events/{ticker}": {"ticker": "KXBTC-1"},
    "/v1/markets": {"include_snapshot": "true"},
    "/v1/markets/{ticker}": {"ticker": "KXBTC-1-0"},
    "/v1/markets/lookup": {"ids": f"KXBTC-1-0,kraken:XXBTZUSD,{CONDITION},{TOKENS[0]}"},
    "/v1/series": {},
    "/v1/series/stats": {},
    "/v1/series/{ticker}": {"ticker": "KXBTC"},
    "/v1/pairs": {},
    "/v1/pairs/stats": {},
    "/v1/pairs/{pair_id}": {"pair_id": "kraken:XXBTZUSD"},
    "/v1/pairs/{pair_id}/snapshots": {"pair_id": "kraken:PF_XBTUSD"},
    "/v1/conditions": {},
    "/v1/conditions/{id}": {"id": CONDITION},
    "/v1/polymarket/tokens": {"category": "crypto"},
    "/v1/fees": {},
    "/v1/fees/stats": {},
    "/v1/fees/{series}": {"series": "KXBTC"},
    "/v1/fees/{series}/calculate": {"series": "KXBTC", "price": "0.50", "contracts": "100"},
    "/v1/secmaster/stats": {},
    "/v1/secmaster/runs": {},
    "/v1/secmaster/markets/timeseries": {},
    "/v1/secmaster/markets/active-by-category": {},
    "/v1/health/daily": {},
    "/v1/health/sla": {},
    "/v1/health/gaps": {"feed": "kalshi"},
    "/v1/series/{ticker}/history": {"ticker": "KXBTC"},
    "/v1/events/{ticker}/history": {"ticker": "KXBTC-1"},
    "/v1/markets/{ticker}/history": {"ticker": "KXNFL-1-X"},
    "/v1/fees/{series}/history": {"series": "KXBTC"},
    "/v1/pairs/{pair_id}/history": {"pair_id": "kraken:XXBTZUSD"},
    "/v1/conditions/{id}/history": {"id": CONDITION},
    "/v1/polymarket/tokens/{id}/history": {"id": TOKENS[0]},
}
ROUTES: tuple[Route, ...] = (*secmaster.ROUTES, *quality.ROUTES)


def request_of(route: Route) -> tuple[str, dict[str, Any]]:
    """Path and parameters of the route's request."""
    parameters = dict(REQUESTS[route.path])
    path = route.path
    for name in list(parameters):
        if f"{{{name}}}" in path:
            path = path.replace(f"{{{name}}}", parameters.pop(name))
    return path, parameters
