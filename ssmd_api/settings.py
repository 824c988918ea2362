"""Settings of the API, from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ssmd_core.errors import ConfigError
from ssmd_core.settings import Settings

DEFAULT_PORT = 8080


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Settings of one API process.

    Attributes:
        core: data folder, servers, clock.
        public_url: how clients reach the API (`SSMD_API_PUBLIC_URL`), for links and signed URLs; "" to go by each
            request's Host.
        cors_origins: origins whose pages may read answers (`CORS_ORIGINS`, separated by commas); default none.
        dagster_url: base URL of Dagster's webserver (`DAGSTER_URL`), for lineage; "" if there is none.
        storage_url: where sealed files and datasets are uploaded and downloads come from (`SSMD_STORAGE_URL`,
            e.g. `gs://bucket/prefix`); "" for the data folder itself.
        environment: everything that was set, for the parts that read their own (LLM upstream, signing keys).
    """

    core: Settings
    public_url: str = ""
    cors_origins: tuple[str, ...] = ()
    dagster_url: str = ""
    storage_url: str = ""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> ApiSettings:
        """Read the environment.

        Raises:
            ConfigError: a value cannot be used.
        """
        values = os.environ if environment is None else environment
        origins = tuple(part.strip() for part in values.get("CORS_ORIGINS", "").split(",") if part.strip())
        for origin in origins:
            _check_origin("CORS_ORIGINS", origin)
        public_url = values.get("SSMD_API_PUBLIC_URL", "").rstrip("/")
        if public_url:
            _check_origin("SSMD_API_PUBLIC_URL", public_url)
            public_url = _as_asked_for(public_url)
        return cls(
            core=Settings.from_environment(values),
            public_url=public_url,
            cors_origins=origins,
            dagster_url=values.get("DAGSTER_URL", "").rstrip("/"),
            storage_url=values.get("SSMD_STORAGE_URL", ""),
            environment=values,
        )


def _as_asked_for(url: str) -> str:
    """The URL without its scheme's own port, which clients leave out of the Host that is signed."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.removesuffix(':443' if scheme.lower() == 'https' else ':80')}"


def _check_origin(name: str, text: str) -> None:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise ConfigError(f"{name}: {text!r} is not a URL: {error}") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path or parts.query or parts.username:
        raise ConfigError(f"{name}: {text!r} is not of the form https://host[:port]")
