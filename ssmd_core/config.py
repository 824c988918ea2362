"""feed.yaml and env.yaml: what an operator may say about a feed and about one capture of it.

Both are optional: the registry of feeds has a default for everything. Files lie in the configuration folder, at
`feeds/{feed}.yaml` and `environments/{feed}-{stream}.yaml`. An unknown key is an error, because a misspelt one that
is ignored is found months later.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ssmd_core import feeds
from ssmd_core.errors import ConfigError
from ssmd_core.feeds.base import Feed
from ssmd_core.feeds.subjects import StreamName

# A template's host must never be dialled: such a connector once ran for weeks against nothing.
_PLACEHOLDER_HOSTS = ("example.com", "example.org", "example.net", "example", "invalid", "test")
_PLACEHOLDER_WORDS = ("placeholder", "changeme", "missing_", "your-", "your_", "<", ">", "{", "}", "${")


def check_endpoint(url: str, schemes: tuple[str, ...]) -> str:
    """The URL, if it can be meant.

    Raises:
        ConfigError: not one of the schemes, no host, credentials inside, or a placeholder.
    """
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        _ = parts.port
    except ValueError as error:
        raise ConfigError(f"endpoint {url!r} is not a URL: {error}") from error
    if parts.scheme not in schemes or not host:
        raise ConfigError(f"endpoint {url!r} must be a {' or '.join(schemes)} URL with a host")
    if parts.username or parts.password:
        raise ConfigError(f"endpoint at {host!r} carries credentials; use keys")
    if any(host == name or host.endswith("." + name) for name in _PLACEHOLDER_HOSTS) or any(
        word in url.lower() for word in _PLACEHOLDER_WORDS
    ):
        raise ConfigError(f"endpoint {url!r} is a placeholder")
    return url


_M = TypeVar("_M", bound=BaseModel)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CaptureLocation(_Model):
    """Where a feed is captured."""

    site: str
    type: Literal["cloud", "colo", "on_prem"] = "cloud"
    provider: str = ""
    region: str = ""
    clock: str = ""


class ProtocolConfig(_Model):
    """What the endpoint speaks."""

    transport: Literal["wss", "ws", "https", "multicast", "tcp"] = "wss"
    message: Literal["json", "itch", "fix", "sbe", "protobuf"] = "json"
    version: str = ""


class FeedVersion(_Model):
    """How a feed is reached during a period.

    Attributes:
        effective_from, effective_to: first and last day; no last day: until further notice.
        endpoint: WebSocket URL.
        rest_endpoint: base URL of the public REST interface; "" for the registry's.
        max_symbols_per_connection: shard size; None for the registry's.
        rate_limit_per_second: commands a second on one connection; None for the registry's.
    """

    version: str
    effective_from: date
    effective_to: date | None = None
    protocol: ProtocolConfig = ProtocolConfig()
    endpoint: str
    rest_endpoint: str = ""
    auth_method: Literal["api_key", "oauth", "mtls", "none"] = "none"
    rate_limit_per_second: float | None = Field(default=None, gt=0)
    max_symbols_per_connection: int | None = Field(default=None, gt=0)
    supports_orderbook: bool = True
    supports_trades: bool = True
    supports_historical: bool = False
    parser_config: dict[str, Any] = Field(default_factory=dict)

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, value: str) -> str:
        return _as_value_error(value, ("wss", "ws"))

    @field_validator("rest_endpoint")
    @classmethod
    def _check_rest_endpoint(cls, value: str) -> str:
        return _as_value_error(value, ("https", "http")) if value else value

    @model_validator(mode="after")
    def _check_period(self) -> FeedVersion:
        if self.effective_to is not None and self.effective_to < self.effective_from:
            raise ValueError(f"effective_to {self.effective_to} is before effective_from {self.effective_from}")
        return self


def _as_value_error(url: str, schemes: tuple[str, ...]) -> str:
    try:
        return check_endpoint(url, schemes)
    except ConfigError as error:
        raise ValueError(str(error)) from error


class Calendar(_Model):
    """When the venue trades."""

    timezone: str = "UTC"
    holiday_calendar: str = ""
    open_time: str = ""
    close_time: str = ""


class FeedConfig(_Model):
    """feed.yaml."""

    name: str
    display_name: str = ""
    type: Literal["websocket", "rest", "multicast"] = "websocket"
    status: Literal["active", "deprecated", "disabled"] = "active"
    capture_locations: tuple[CaptureLocation, ...] = ()
    versions: tuple[FeedVersion, ...] = Field(min_length=1)
    calendar: Calendar = Calendar()

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        try:
            return feeds.get(value).name
        except ConfigError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _check_versions(self) -> FeedConfig:
        starts = [version.effective_from for version in self.versions]
        if len(set(starts)) != len(starts):
            raise ValueError(f"two versions start on the same day: {sorted(map(str, starts))}")
        return self

    def version_on(self, day: date) -> FeedVersion:
        """The version with the latest `effective_from` not after `day`, if it still holds then.

        Raises:
            ConfigError: there is none.
        """
        begun = [version for version in self.versions if version.effective_from <= day]
        valid = [version for version in begun if version.effective_to is None or version.effective_to >= day]
        if not valid:
            raise ConfigError(f"feed {self.name!r} has no version for {day}")
        return max(valid, key=lambda version: version.effective_from)

    @property
    def latest(self) -> FeedVersion:
        """The version with the latest `effective_from`."""
        return max(self.versions, key=lambda version: version.effective_from)


class Schedule(_Model):
    """When a day of this environment begins and ends."""

    timezone: str = "UTC"
    day_start: str = "00:00"
    day_end: str = "00:00"
    auto_roll: bool = True


class KeyConfig(_Model):
    """A credential, named but never held here.

    Attributes:
        source: `env:A,B`: the environment variables that hold the fields.
    """

    type: Literal["api_key", "transport", "storage", "tls", "webhook"]
    description: str = ""
    required: bool = True
    fields: tuple[str, ...] = ()
    source: str = Field(pattern=r"^env:[A-Za-z_][A-Za-z0-9_]*(,[A-Za-z_][A-Za-z0-9_]*)*$")
    rotation_days: int | None = Field(default=None, gt=0)

    def resolve(self, environment: Mapping[str, str] | None = None) -> dict[str, str]:
        """Variable name -> value.

        Raises:
            ConfigError: a required variable is not set. Values are never repeated.
        """
        values = os.environ if environment is None else environment
        names = self.source.removeprefix("env:").split(",")
        missing = [name for name in names if not values.get(name)]
        if missing and self.required:
            raise ConfigError(f"environment variables not set: {', '.join(missing)}")
        return {name: values[name] for name in names if values.get(name)}


class SecmasterConfig(_Model):
    """Take the instruments from the security master: those of active markets for which everything said here holds.

    Attributes:
        categories: of the market's event, or of its series where the event has none; empty: all. Polymarket: of the
            condition.
        series: Kalshi: series tickers; empty: all.
        suffixes: Kalshi: ends of series tickers, e.g. `15M`; empty: all. With `series`, either is enough.
        min_volume: Kalshi: contracts traded in the series, because a new market has none; Polymarket: dollars of the
            condition. A volume that is not known does not pass.
        closing_within_hours: the market closes (Polymarket: ends) within so many hours from now, which moves on. One
            without a known time does not pass.
        games_only: Kalshi: only series of single games.
        close_grace_s: an instrument stays subscribed so long after it is wanted no more: last trades, the closing
            snapshot and the settlement come after the close.
        reconcile_s: how often the database is read again, to heal what no change event has told.
        max_shards: connections at most; None: the registry's. What does not fit is told as overflow.
    """

    categories: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    min_volume: Decimal | None = Field(default=None, gt=0)
    closing_within_hours: float | None = Field(default=None, gt=0)
    games_only: bool = False
    close_grace_s: float = Field(default=60.0, ge=0)
    reconcile_s: float = Field(default=180.0, gt=0)
    max_shards: int | None = Field(default=None, gt=0)


class SubscriptionConfig(_Model):
    """How subscriptions are sent; without this section the registry's limits hold.

    Attributes:
        batch_size: instruments in one command.
        batch_delay_ms: pause between commands.
    """

    batch_size: int = Field(default=100, ge=1, le=500)
    batch_delay_ms: int = Field(default=1000, ge=0)


class LifecycleConfig(_Model):
    """Kalshi: capture the lifecycle channel only.

    Attributes:
        series: kept for files of older versions; the archive keeps every series whatever stands here.
    """

    enabled: bool = False
    series: tuple[str, ...] = ()


class TransportConfig(_Model):
    """Where messages are published."""

    type: Literal["nats", "mqtt", "memory"] = "nats"
    url: str = ""
    stream: str = ""
    subject_prefix: str = ""


class StorageConfig(_Model):
    """Where the archive lies."""

    type: Literal["local", "s3", "gcs"] = "local"
    path: str = ""
    bucket: str = ""
    region: str = ""


class CacheConfig(_Model):
    """Cache of the security master."""

    type: Literal["memory", "redis"] = "memory"
    max_size: int | None = Field(default=None, gt=0)
    url: str = ""


class LivenessConfig(_Model):
    """Overrides of the registry's `Liveness`; seconds.

    Attributes:
        group_timeouts_s: by channel; null switches a channel's watchdog off.
    """

    ping_interval_s: float | None = Field(default=None, gt=0)
    pong_timeout_s: float | None = Field(default=None, gt=0)
    data_timeout_s: float | None = Field(default=None, gt=0)
    group_timeout_s: float | None = Field(default=None, gt=0)
    group_timeouts_s: dict[str, float | None] = Field(default_factory=dict)


class DiscoveryConfig(_Model):
    """Polymarket: which open markets to take when no tokens are named; dollars."""

    min_volume: float = Field(default=10_000, ge=0)
    min_liquidity: float = Field(default=5_000, ge=0)


class CaptureConfig(_Model):
    """What a connector subscribes and how.

    Attributes:
        channels, instruments: empty for the registry's defaults.
        channel_options: parameters of a channel's subscribe command, e.g. `{book: {depth: 100}}`.
        websocket: transport.
    """

    channels: tuple[str, ...] = ()
    instruments: tuple[str, ...] = ()
    channel_options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    liveness: LivenessConfig = LivenessConfig()
    discovery: DiscoveryConfig = DiscoveryConfig()
    websocket: Literal["picows", "websockets"] = "picows"


class EnvConfig(_Model):
    """env.yaml."""

    name: str
    feed: str
    stream: str = ""
    schema_: str = Field(default="", alias="schema")
    schedule: Schedule = Schedule()
    keys: dict[str, KeyConfig] = Field(default_factory=dict)
    secmaster: SecmasterConfig | None = None
    subscription: SubscriptionConfig = SubscriptionConfig()
    lifecycle: LifecycleConfig = LifecycleConfig()
    capture: CaptureConfig = CaptureConfig()
    transport: TransportConfig = TransportConfig()
    storage: StorageConfig = StorageConfig()
    cache: CacheConfig = CacheConfig()

    @field_validator("feed")
    @classmethod
    def _check_feed(cls, value: str) -> str:
        try:
            return feeds.get(value).name
        except ConfigError as error:
            raise ValueError(str(error)) from error


def _load(path: Path, model: type[_M]) -> _M:
    try:
        document = yaml.safe_load(path.read_text())
        return model.model_validate(document)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'file'}: {problem['msg']}" for problem in error.errors()
        )
        raise ConfigError(f"{path}: {problems}") from error


def load_feed(path: Path) -> FeedConfig:
    """Read a feed.yaml.

    Raises:
        ConfigError: it cannot be read, is not YAML, or breaks the model; the text names each member at fault.
    """
    return _load(path, FeedConfig)


def load_env(path: Path) -> EnvConfig:
    """Read an env.yaml.

    Raises:
        ConfigError: as for `load_feed`.
    """
    return _load(path, EnvConfig)


def feed_path(root: Path, feed: Feed) -> Path:
    """Where the feed's feed.yaml lies."""
    return root / "feeds" / f"{feed.name}.yaml"


def env_path(root: Path, feed: Feed, stream: str) -> Path:
    """Where the env.yaml of one stream lies."""
    return root / "environments" / f"{feed.name}-{stream}.yaml"


def find_feed(root: Path, feed: Feed) -> FeedConfig | None:
    """The feed's configuration, None if there is no file.

    Raises:
        ConfigError: the file is broken or describes another feed.
    """
    path = feed_path(root, feed)
    if not path.exists():
        return None
    config = load_feed(path)
    if config.name != feed.name:
        raise ConfigError(f"{path}: describes {config.name!r}, not {feed.name!r}")
    return config


def find_env(root: Path, feed: Feed, stream: str) -> EnvConfig | None:
    """The configuration of one stream, None if there is no file.

    Raises:
        ConfigError: the file is broken or describes another feed or stream.
    """
    path = env_path(root, feed, stream)
    if not path.exists():
        return None
    config = load_env(path)
    if config.feed != feed.name or config.stream not in ("", stream):
        raise ConfigError(f"{path}: describes {config.feed}/{config.stream}, not {feed.name}/{stream}")
    return config


def default_feed(feed: Feed, day: date) -> FeedConfig:
    """A feed.yaml that says what the registry says, in force from `day`."""
    version = FeedVersion(
        version="1",
        effective_from=day,
        endpoint=feed.websocket_urls["prod"],
        rest_endpoint=feed.rest_url,
        auth_method="none" if feed.auth == "none" else "api_key",
        rate_limit_per_second=feed.limits.commands_per_s,
        max_symbols_per_connection=feed.limits.instruments_per_connection,
    )
    return FeedConfig(name=feed.name, display_name=feed.display_name, versions=(version,))


def default_env(feed: Feed, stream: str) -> EnvConfig:
    """An env.yaml that says what the registry says."""
    keys = {}
    if feed.auth == "kalshi_rsa_pss":
        keys["kalshi"] = KeyConfig(
            type="api_key",
            description="Kalshi API key: its id, and the RSA private key as PEM text or path",
            fields=("api_key", "private_key"),
            source="env:KALSHI_API_KEY,KALSHI_PRIVATE_KEY",
        )
    capture = CaptureConfig(channels=feed.default_channels, instruments=feed.default_instruments)
    return EnvConfig(name=f"{feed.name}-{stream}", feed=feed.name, stream=stream, keys=keys, capture=capture)


def create_feed(root: Path, feed: Feed, day: date, endpoint: str = "", rest_endpoint: str = "") -> Path:
    """Write a feed.yaml with the registry's values.

    Args:
        endpoint: WebSocket URL instead of the registry's.
        rest_endpoint: base URL of the REST interface, likewise.

    Raises:
        ConfigError: the file exists already, or the endpoint cannot be used.
    """
    document = default_feed(feed, day).model_dump(by_alias=True)
    if endpoint:
        document["versions"][0]["endpoint"] = check_endpoint(endpoint, ("wss", "ws"))
    if rest_endpoint:
        document["versions"][0]["rest_endpoint"] = check_endpoint(rest_endpoint, ("https", "http"))
    path = feed_path(root, feed)
    save(path, FeedConfig.model_validate(document))
    return path


def create_env(root: Path, feed: Feed, stream: str) -> Path:
    """Write an env.yaml with the registry's values.

    Raises:
        ConfigError: the file exists already, or the stream's name cannot be used.
    """
    StreamName("prod", feed, stream)
    path = env_path(root, feed, stream)
    save(path, default_env(feed, stream))
    return path


def show(config: FeedConfig | EnvConfig) -> str:
    """The configuration as YAML, defaults included."""
    return yaml.safe_dump(config.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True)


def save(path: Path, config: FeedConfig | EnvConfig) -> None:
    """Write a new configuration file.

    Raises:
        ConfigError: the file exists already, or cannot be written.
    """
    document = config.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error


def init(root: Path, day: date) -> list[Path]:
    """Write feed.yaml and env.yaml of all feeds with the registry's values; files that exist stay as they are.

    Returns:
        The files written.
    """
    written = []
    for feed in feeds.FEEDS.values():
        wanted: dict[Path, FeedConfig | EnvConfig] = {feed_path(root, feed): default_feed(feed, day)}
        for stream in feed.streams:
            wanted[env_path(root, feed, stream)] = default_env(feed, stream)
        for path, config in wanted.items():
            if not path.exists():
                save(path, config)
                written.append(path)
    return written


def list_files(root: Path, kind: Literal["feeds", "environments"]) -> list[Path]:
    """The configuration files of one kind, sorted."""
    return sorted((root / kind).glob("*.yaml"))


def validate(root: Path) -> dict[Path, str]:
    """Every configuration file below `root` and what is wrong with it, "" for nothing."""
    problems: dict[Path, str] = {}
    for path in list_files(root, "feeds"):
        problems[path] = _problem(path, lambda path: find_feed(root, feeds.get(path.stem)))
    for path in list_files(root, "environments"):
        problems[path] = _problem(path, lambda path: _check_env_file(root, path))
    return problems


def _problem(path: Path, check: Callable[[Path], object]) -> str:
    try:
        check(path)
    except ConfigError as error:
        return str(error)
    return ""


def _check_env_file(root: Path, path: Path) -> None:
    env = load_env(path)
    feed = feeds.get(env.feed)
    stream = env.stream or path.stem.removeprefix(f"{feed.name}-")
    StreamName("prod", feed, stream)
    if path != env_path(root, feed, stream):
        raise ConfigError(f"{path}: must be named {env_path(root, feed, stream).name}")
