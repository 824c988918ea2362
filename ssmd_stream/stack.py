"""What `ssmd up` runs beside the servers: connectors, archiver, CDC, cache, consumers, Dagster, the API."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssmd_core import config
from ssmd_core.db.migrate import migrate
from ssmd_core.errors import ConfigError
from ssmd_core.feeds import FEEDS, get
from ssmd_core.feeds.base import Feed
from ssmd_core.settings import Settings
from ssmd_stream.servers.children import ChildSpec
from ssmd_stream.servers.ports import choose_port
from ssmd_stream.servers.stack import ServerUrls

DAGSTER_PORT = 3000
API_PORT = 8080
API = "api"
# Consumer -> feed whose streams it follows.
CONSUMERS = {"lifecycle": "kalshi", "funding-rates": "kraken-futures"}
# "off": the schedules skip, so that looking at a data folder does not ask the venues anything.
SCHEDULES = "SSMD_SCHEDULES"
_DAGSTER_STAGE, _CONSUMER_STAGE, _CONNECTOR_STAGE = 0, 1, 2
_KALSHI_SECRETS = ("KALSHI_API_KEY", "KALSHI_PRIVATE_KEY")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to run.

    Attributes:
        make: gives the children once the servers' URLs are known.
        notices: what is left out and how to change that, for a person.
    """

    make: Callable[[ServerUrls], Sequence[ChildSpec]]
    notices: Sequence[str]


def children(settings: Settings, *, capture: bool, environment: Mapping[str, str] = os.environ) -> Plan:
    """Everything for one machine: connectors, archiver, CDC, cache, the consumers, Dagster's two processes, the API.

    The database is brought to the newest revision before anything that uses it starts.

    Raises:
        ConfigError: dagster.yaml or workspace.yaml is not where the checkout has it.
    """
    home = dagster_home(settings.data)
    notices: list[str] = []
    streams = _streams(settings.config_root, notices) if capture else []
    if any(feed.auth == "kalshi_rsa_pss" for feed, _ in streams) and not all(map(environment.get, _KALSHI_SECRETS)):
        streams = [(feed, stream) for feed, stream in streams if feed.auth == "none"]
        notices.append(f"kalshi is left out: its WebSocket needs {' and '.join(_KALSHI_SECRETS)} (key id; PEM or path)")

    def make(urls: ServerUrls) -> list[ChildSpec]:
        migrate(urls.database)
        specs = [_connector(feed, stream) for feed, stream in streams]
        if streams:
            names = [f"{feed.name}/{stream}" for feed, stream in streams]
            specs.append(_daemon("archiver", ["-m", "ssmd_stream.archive", *names], stop_grace_s=15.0))
            specs += [_daemon("cdc", ["-m", "ssmd_stream.cdc"]), _daemon("cache", ["-m", "ssmd_stream.cache"])]
        for consumer, feed_name in CONSUMERS.items():
            followed = [f"{feed.name}/{stream}" for feed, stream in streams if feed.name == feed_name]
            if followed:
                specs.append(_daemon(consumer, ["-m", "ssmd_stream.consumers", consumer, *followed]))
        dagster = _dagster(home, capture=capture)
        return [*specs, *dagster, _api(dagster_url=dagster[0].url)]

    return Plan(make, notices)


def _streams(config_root: Path, notices: list[str]) -> list[tuple[Feed, str]]:
    """The registry's streams and those that an env.yaml describes, without feeds that feed.yaml has switched off.

    Raises:
        ConfigError: a file cannot be used.
    """
    streams = [(feed, stream) for feed in FEEDS.values() for stream in feed.streams]
    for path in config.list_files(config_root, "environments"):
        env = config.load_env(path)
        feed = get(env.feed)
        streams.append((feed, env.stream or path.stem.removeprefix(f"{feed.name}-")))
    disabled = set()
    for feed in FEEDS.values():
        file = config.find_feed(config_root, feed)
        if file is not None and file.status == "disabled":
            disabled.add(feed.name)
            notices.append(f"{feed.name} is left out: {config.feed_path(config_root, feed)} says that it is disabled")
    named = {(feed.name, stream): (feed, stream) for feed, stream in streams if feed.name not in disabled}
    return list(named.values())


def _connector(feed: Feed, stream: str) -> ChildSpec:
    port = choose_port(None)
    argv = [sys.executable, "-m", "ssmd_stream.capture", "--feed", feed.name, "--stream", stream]
    return ChildSpec(
        name=f"connector-{feed.name}-{stream}",
        argv=[*argv, "--health-port", str(port)],
        health_url=f"http://127.0.0.1:{port}/health",
        url=f"http://127.0.0.1:{port}/metrics",
        stop_grace_s=12.0,
        stage=_CONNECTOR_STAGE,
    )


def _daemon(name: str, arguments: Sequence[str], *, stop_grace_s: float = 10.0) -> ChildSpec:
    port = choose_port(None)
    return ChildSpec(
        name=name,
        argv=[sys.executable, *arguments, "--health-port", str(port)],
        health_url=f"http://127.0.0.1:{port}/health",
        url=f"http://127.0.0.1:{port}/metrics",
        stop_grace_s=stop_grace_s,
        stage=_CONSUMER_STAGE,
    )


def _dagster(home: Path, *, capture: bool) -> list[ChildSpec]:
    env = {"DAGSTER_HOME": str(home), SCHEDULES: "on" if capture else "off"}
    port = choose_port(DAGSTER_PORT)
    workspace = ["-w", str(home / "workspace.yaml")]
    url = f"http://127.0.0.1:{port}"
    webserver = [sys.executable, "-m", "dagster_webserver", "-h", "127.0.0.1", "-p", str(port), *workspace]
    return [
        ChildSpec(name="dagster-webserver", argv=webserver, env=env, health_url=f"{url}/server_info", url=url),
        ChildSpec(name="dagster-daemon", argv=[sys.executable, "-m", "dagster._daemon", "run", *workspace], env=env),
    ]


def _api(*, dagster_url: str) -> ChildSpec:
    port = choose_port(API_PORT)
    url = f"http://127.0.0.1:{port}"
    return ChildSpec(
        name=API,
        argv=[sys.executable, "-m", "ssmd_api", "--port", str(port)],
        env={"DAGSTER_URL": dagster_url},
        health_url=f"{url}/health",
        url=url,
        stop_grace_s=12.0,
    )


def dagster_home(data: Path) -> Path:
    """Dagster's home in the data folder, with the checkout's dagster.yaml and workspace.yaml.

    Raises:
        ConfigError: they are not where the checkout has them.
    """
    home = data / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    checkout = Path(__file__).resolve().parents[1]
    for name in ("dagster.yaml", "workspace.yaml"):
        if not (checkout / name).is_file():
            raise ConfigError(f"{checkout / name} is missing: run ssmd from its checkout")
        shutil.copyfile(checkout / name, home / name)
    return home
