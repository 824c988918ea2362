"""What a connector is told, and how the command line, env.yaml, feed.yaml and the registry are laid over each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from ssmd_core import config, feeds
from ssmd_core.clock import NS_PER_S
from ssmd_core.db.connect import check_url
from ssmd_core.errors import ConfigError
from ssmd_core.feeds.base import Feed, Liveness
from ssmd_core.feeds.subjects import StreamName
from ssmd_core.settings import Settings
from ssmd_stream.capture.universe_venues import KALSHI_ONLY, UNIVERSES
from ssmd_stream.capture.websocket import TransportName

TICK_S = 5.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses between attempts to connect: doubled from `min_s` to `max_s`, each cut by up to half at random.

    Attributes:
        healthy_s: a connection that lasted so long starts the series anew.
    """

    min_s: float = 1.0
    max_s: float = 60.0
    healthy_s: float = 60.0


@dataclass(frozen=True, slots=True)
class ConnectorOptions:
    """What the command line says. Empty means: env.yaml, then feed.yaml, then the registry.

    Attributes:
        feed: name or alias.
        stream: stream of the feed.
        url: WebSocket endpoint.
        rest_url: base URL of the public REST interface.
        health_host, health_port: where /health, /ready and /metrics are served; port 0 takes a free one, None none.
        instruments, channels: what to subscribe.
        transport: `picows` or `websockets`.
        feed_file, env_file: configuration files elsewhere than in the configuration folder.
        liveness: replaces the registry's and env.yaml's.
        ack_timeout_s: replaces the registry's.
        backoff: between attempts to connect.
        tick_s: pause between ticks.
        down_grace_s: a shard may be without connection for so long, between two connections, before /health says so.
        drain_timeout_s: for the whole shutdown.
    """

    feed: str
    stream: str
    url: str = ""
    rest_url: str = ""
    health_host: str = "127.0.0.1"
    health_port: int | None = None
    instruments: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    transport: TransportName | Literal[""] = ""
    feed_file: Path | None = None
    env_file: Path | None = None
    liveness: Liveness | None = None
    ack_timeout_s: float | None = None
    backoff: Backoff = Backoff()
    tick_s: float = TICK_S
    down_grace_s: float = 10.0
    drain_timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a connector does, with every default filled in.

    Attributes:
        feed: registry entry with the limits of feed.yaml laid over it.
        instruments: sorted for sharding; empty: all, or discovery.
        group_timeouts_s: by channel that has its own; see `LivenessConfig`.
        secmaster: filter of the instruments where they come from the security master; None: they are named, all, or
            discovered.
        credentials: `KALSHI_API_KEY` and `KALSHI_PRIVATE_KEY` where env.yaml names other variables for them; None:
            the environment's. Not shown by repr.
    """

    feed: Feed
    stream: StreamName
    url: str
    rest_url: str
    instruments: tuple[str, ...]
    channels: tuple[str, ...]
    channel_options: Mapping[str, Mapping[str, Any]]
    transport: TransportName
    liveness: Liveness
    group_timeouts_s: Mapping[str, float | None]
    discovery: config.DiscoveryConfig
    secmaster: config.SecmasterConfig | None
    credentials: Mapping[str, str] | None = field(repr=False)


def make_plan(options: ConnectorOptions, settings: Settings) -> Plan:
    """Lay options, env.yaml, feed.yaml and the registry over each other.

    Raises:
        ConfigError: a file, an endpoint or a name cannot be used, or the feed is disabled.
    """
    feed = feeds.get(options.feed)
    stream = StreamName(settings.env, feed, options.stream)
    root = settings.config_root
    file = config.load_feed(options.feed_file) if options.feed_file else config.find_feed(root, feed)
    env = config.load_env(options.env_file) if options.env_file else config.find_env(root, feed, options.stream)
    for what, named in (("feed file", file.name if file else feed.name), ("env file", env.feed if env else feed.name)):
        if named != feed.name:
            raise ConfigError(f"{what} describes {named!r}, not {feed.name!r}")
    capture = env.capture if env else config.CaptureConfig()
    if env and env.transport.type != "nats":
        raise ConfigError(f"transport {env.transport.type!r} is not supported, only nats")
    url = feed.websocket_urls.get(settings.env, feed.websocket_urls["prod"])
    rest_url = feed.rest_url
    limits = feed.limits
    if file:
        if file.status == "disabled" or file.type != "websocket":
            raise ConfigError(f"feed {feed.name!r} is {file.status}, type {file.type}: nothing to capture")
        version = file.version_on(datetime.fromtimestamp(settings.clock.now_ns() // NS_PER_S, UTC).date())
        url, rest_url = version.endpoint, version.rest_endpoint or rest_url
        limits = dataclasses.replace(
            limits,
            instruments_per_connection=version.max_symbols_per_connection or limits.instruments_per_connection,
            commands_per_s=version.rate_limit_per_second or limits.commands_per_s,
        )
    if env and "subscription" in env.model_fields_set:
        delay_s = env.subscription.batch_delay_ms / 1000
        limits = dataclasses.replace(
            limits,
            instruments_per_command=env.subscription.batch_size,
            commands_per_s=min(limits.commands_per_s, 1 / delay_s) if delay_s else limits.commands_per_s,
        )
    if options.ack_timeout_s is not None:
        limits = dataclasses.replace(limits, ack_timeout_s=options.ack_timeout_s)
    lifecycle_only = env is not None and env.lifecycle.enabled
    channels = options.channels or (("market_lifecycle_v2",) if lifecycle_only else capture.channels)
    return Plan(
        feed=dataclasses.replace(feed, limits=limits),
        stream=stream,
        url=config.check_endpoint(options.url or url, ("wss", "ws")),
        rest_url=config.check_endpoint(options.rest_url or rest_url, ("https", "http")).rstrip("/"),
        instruments=_tidy(options.instruments or capture.instruments or feed.default_instruments, feed),
        channels=tuple(dict.fromkeys(channels or feed.default_channels)),
        channel_options=capture.channel_options,
        transport=options.transport or capture.websocket,
        liveness=options.liveness or _overlay(feed.liveness, capture.liveness),
        group_timeouts_s=capture.liveness.group_timeouts_s,
        discovery=capture.discovery,
        secmaster=None if options.instruments or env is None else _secmaster(feed, env, settings),
        credentials=_credentials(feed, env),
    )


def _secmaster(feed: Feed, env: config.EnvConfig, settings: Settings) -> config.SecmasterConfig | None:
    found = env.secmaster
    if found is None:
        return None
    if feed.name not in UNIVERSES:
        raise ConfigError(f"secmaster: instruments of {feed.name!r} do not come from the security master")
    if env.capture.instruments:
        raise ConfigError(f"env of {feed.name!r} names instruments and a secmaster section: only one can decide")
    foreign = [name for name in KALSHI_ONLY if name in found.model_fields_set and feed.name != "kalshi"]
    if foreign:
        raise ConfigError(f"secmaster.{foreign[0]}: {feed.name!r} has no such thing")
    check_url(settings.database_url)
    return found


def _credentials(feed: Feed, env: config.EnvConfig | None) -> dict[str, str] | None:
    keys = [key for key in env.keys.values() if key.type == "api_key"] if env else []
    if feed.auth != "kalshi_rsa_pss" or not keys:
        return None
    values = list(keys[0].resolve().values())
    if len(keys) != 1 or len(values) != 2:
        raise ConfigError(f"{feed.name!r} needs one key of type api_key whose source names two variables: id, PEM")
    return {"KALSHI_API_KEY": values[0], "KALSHI_PRIVATE_KEY": values[1]}


def _tidy(instruments: tuple[str, ...], feed: Feed) -> tuple[str, ...]:
    for instrument in instruments:
        if not instrument.strip() or instrument != instrument.strip():
            raise ConfigError(f"instrument {instrument!r} of {feed.name!r} is blank or has blanks around it")
    return tuple(dict.fromkeys(instruments))


def _overlay(liveness: Liveness, over: config.LivenessConfig) -> Liveness:
    values = over.model_dump(exclude={"group_timeouts_s"}, exclude_none=True)
    return dataclasses.replace(liveness, **values)
