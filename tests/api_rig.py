"""A real API on a free port, with a database and a data folder of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx2
import psycopg
from examples import HttpExample

from ssmd_api.auth.keys import make_key
from ssmd_api.serve import ApiServer
from ssmd_api.services import Services, open_services
from ssmd_api.settings import ApiSettings

#: The key that docs/api/ speaks of.
EXAMPLE_PREFIX = "sk_test_EXAMPLE1"
ANY_FEED = ("*",)
FIRST_DAY, LAST_DAY = date(2020, 1, 1), date(2099, 12, 31)


class ApiRig:
    """A running API.

    Attributes:
        url: base URL.
        data: its data folder.
        services: of the running process; use `run` for what is asynchronous.
        http: a client without a key.
    """

    def __init__(self, settings: ApiSettings) -> None:
        self.settings = settings
        self.data: Path = settings.core.data
        self.database_url = settings.core.database_url
        self.services: Services
        self.http: httpx2.Client
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._server: ApiServer
        self._up = threading.Event()
        self._error: BaseException | None = None

    def run(self, work: Any) -> Any:
        """Run a coroutine in the API's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def sql(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        """Run a statement as somebody else would."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def key(
        self,
        *scopes: str,
        feeds: Sequence[str] = ANY_FEED,
        days: tuple[date, date] = (FIRST_DAY, LAST_DAY),
        tier: str = "internal",
        expires_in: timedelta | None = None,
        email: str = "researcher@example.com",
    ) -> str:
        """A new key, as text."""
        key = make_key("test")
        self.sql(
            "INSERT INTO api_keys (id, user_id, user_email, key_prefix, key_hash, name, scopes, rate_limit_tier, "
            "allowed_feeds, date_range_start, date_range_end, expires_at) "
            "VALUES (gen_random_uuid()::text, %s, %s, %s, %s, 'a test', %s, %s, %s, %s, %s, now() + %s)",
            (email, email, key.prefix, key.digest, list(scopes), tier, list(feeds), *days, expires_in),
        )
        return key.text

    def get(self, path: str, key: str = "", **parameters: Any) -> httpx2.Response:
        """GET with a key."""
        return self.http.get(path, params=parameters, headers={"X-API-Key": key} if key else {})

    def json(self, path: str, key: str = "", **parameters: Any) -> Any:
        """The JSON of a GET that must succeed."""
        response = self.get(path, key, **parameters)
        assert response.status_code == 200, (response.status_code, response.text)
        return response.json()

    def send(self, example: HttpExample, key: str) -> httpx2.Response:
        """An example's request."""
        headers = {"X-API-Key": key} if key else {}
        if example.body:
            headers["Content-Type"] = "application/json"
        return self.http.request(example.method, example.target, content=example.body or None, headers=headers)

    def prepare_examples(self) -> None:
        """What the examples of docs/api/ speak of beside the installation: a key of somebody's."""
        self.sql(
            "INSERT INTO api_keys (id, user_id, user_email, key_prefix, key_hash, name, scopes, allowed_feeds, "
            "date_range_start, date_range_end) VALUES ('example', 'you@example.com', 'you@example.com', %s, %s, "
            "'an example', '{datasets:read}', '{kalshi}', '2026-11-01', '2026-11-30')",
            (EXAMPLE_PREFIX, "0" * 64),
        )

    async def _main(self) -> None:
        async with open_services(self.settings) as services:
            self.services = services
            self._server = ApiServer(services, "127.0.0.1", 0)
            serving = asyncio.create_task(self._server.serve())
            while not self._server.started and not serving.done():
                await asyncio.sleep(0.01)
            while not services.changes.listening:
                await asyncio.sleep(0.01)
            port = self._server.servers[0].sockets[0].getsockname()[1]
            self.url = f"http://127.0.0.1:{port}"
            self._up.set()
            await serving

    def _thread(self) -> None:
        try:
            self._loop.run_until_complete(self._main())
        except BaseException as error:
            self._error = error
        finally:
            self._up.set()
            self._loop.close()

    @contextmanager
    def running(self) -> Iterator[ApiRig]:
        """Serve meanwhile."""
        thread = threading.Thread(target=self._thread)
        thread.start()
        self._up.wait(30)
        if self._error is not None:
            thread.join()
            raise self._error
        try:
            with httpx2.Client(base_url=self.url, timeout=30) as self.http:
                yield self
        finally:
            self._server.should_exit = True
            thread.join(30)


def api_settings(database_url: str, data: Path, **more: str) -> ApiSettings:
    """Settings on a database and a folder; without NATS, though one may run on this machine."""
    nowhere = {"NATS_URL": "nats://127.0.0.1:9"}
    return ApiSettings.from_environment({"DATABASE_URL": database_url, "SSMD_DATA": str(data), **nowhere, **more})
