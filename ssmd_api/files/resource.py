"""What the routes about files share: one per process."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import structlog

from ssmd_api.auth.access import Principal
from ssmd_api.errors import UnavailableError
from ssmd_api.files.holdings import Holdings
from ssmd_api.files.keyring import Keyring
from ssmd_api.files.serving import Server
from ssmd_api.files.signing import Grant, signed_url
from ssmd_api.settings import ApiSettings
from ssmd_core.errors import ConfigError
from ssmd_core.storage.store import Storage, StorageError

log = structlog.get_logger()

# The API answers within seconds or says that the store is away.
_STORE_TIMEOUT_S = 10.0


class Files:
    """Holdings, keys, and the object store if there is one.

    Attributes:
        offered: what downloads are made from: the object store where there is one, else the data folder.
        local: what the data folder holds.
        server: what answers `/v1/files`.

    Raises:
        ConfigError: a setting cannot be used.
    """

    def __init__(self, settings: ApiSettings) -> None:
        self.data = settings.core.data
        self._keyring = Keyring(settings.environment, self.data)
        self.storage: Storage | None = None
        if settings.storage_url:
            self.storage = Storage.open(
                settings.storage_url, settings.environment, timeout_s=_STORE_TIMEOUT_S, retry_s=_STORE_TIMEOUT_S
            )
        # A store that cannot sign (a folder) is a copy; downloads come from the data folder then.
        self.signing_storage = self.storage if self.storage is not None and self.storage.signs else None
        self.local = Holdings(self.data, None)
        self.offered = Holdings(self.data, self.signing_storage) if self.signing_storage else self.local
        self.server = Server(self.data, self.local)

    def keys(self) -> Mapping[str, bytes]:
        """The keys that sign and verify local URLs.

        Raises:
            UnavailableError: their file has become unusable since the start; what is wrong is in the log.
        """
        try:
            return self._keyring.keys
        except ConfigError as error:
            log.error("signing_keys_unusable", error=str(error))
            raise UnavailableError("URLs cannot be signed or checked now") from error

    async def sign(
        self, files: Sequence[tuple[str, str]], key_prefix: str, life: timedelta, base_url: str
    ) -> tuple[list[str], datetime]:
        """URLs of files, and the moment until which all of them hold.

        Args:
            files: path and sha256.
            key_prefix: of the API key that they are made for.
            life: see `life_of`.
            base_url: how the client reaches this API.

        Raises:
            UnavailableError: the object store's credentials cannot sign.
        """
        # The system's clock, not ssmd's: a rehearsal's fast day is no reason to let a URL run out.
        expires_at = datetime.fromtimestamp(int(time.time()), UTC) + life
        if self.signing_storage is not None:
            try:
                urls = await self.signing_storage.sign([path for path, _ in files], life)
            except StorageError as error:
                raise UnavailableError("the object store's credentials cannot sign URLs") from error
            return urls, expires_at
        key_id, key = next(iter(self.keys().items()))
        host, expires = urlsplit(base_url).netloc, int(expires_at.timestamp())
        grants = [Grant(host, path, expires, key_prefix, sha256) for path, sha256 in files]
        return [signed_url(base_url, key_id, key, grant) for grant in grants], expires_at


def life_of(asked: timedelta, principal: Principal, now: datetime) -> timedelta:
    """How long a URL holds: as asked, but not longer than the API key that it is made for.

    Args:
        asked: at most twelve hours.
        now: by the clock that API keys end by.
    """
    if principal.expires_at is None:
        return asked
    return min(asked, max(timedelta(seconds=1), timedelta(seconds=int((principal.expires_at - now).total_seconds()))))
