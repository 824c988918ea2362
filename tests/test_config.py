"""feed.yaml and env.yaml: strict, dated, never a placeholder; what overrides what."""

from __future__ import annotations

import dataclasses
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from ssmd_core import config, feeds
from ssmd_core.clock import Clock
from ssmd_core.errors import ConfigError
from ssmd_core.settings import Settings
from ssmd_stream.capture.options import ConnectorOptions, make_plan

DAY = date(2026, 11, 22)


def _settings(data: Path, env: str = "prod") -> Settings:
    return Settings(data=data, env=env, nats_url="", database_url="", redis_url="", clock=Clock())


def test_init_writes_valid_files_once(tmp_path: Path) -> None:
    written = config.init(tmp_path, DAY)
    assert {path.name for path in written} >= {"kalshi.yaml", "kraken.yaml", "kraken-spot.yaml"}
    assert set(config.validate(tmp_path).values()) == {""}
    assert config.init(tmp_path, DAY) == []
    for feed in feeds.FEEDS.values():
        found = config.find_feed(tmp_path, feed)
        assert found is not None
        assert found.latest.endpoint == feed.websocket_urls["prod"]
        for stream in feed.streams:
            plan_with_files = config.find_env(tmp_path, feed, stream)
            assert plan_with_files is not None
            assert plan_with_files.capture.channels == feed.default_channels


def test_version_is_chosen_by_date() -> None:
    feed = config.FeedConfig.model_validate(
        {
            "name": "kraken",
            "versions": [
                {"version": "3", "effective_from": "2027-01-01", "endpoint": "wss://c.kraken.com/v3"},
                {"version": "1", "effective_from": "2024-01-01", "endpoint": "wss://a.kraken.com/v1"},
                {
                    "version": "2",
                    "effective_from": "2025-01-01",
                    "effective_to": "2026-06-30",
                    "endpoint": "wss://b.kraken.com/v2",
                },
            ],
        }
    )
    assert feed.version_on(date(2024, 5, 5)).version == "1"
    assert feed.version_on(date(2026, 6, 30)).version == "2"
    assert feed.version_on(date(2026, 7, 1)).version == "1"
    assert feed.latest.version == "3"
    with pytest.raises(ConfigError, match="no version for 2023-12-31"):
        feed.version_on(date(2023, 12, 31))


@pytest.mark.parametrize(
    "url",
    [
        "wss://kalshi.example.com/MISSING_FEED_CONFIGMAP",
        "wss://your-venue.io/ws",
        "wss://${HOST}/ws",
        "https://ws.kraken.com/v2",
        "wss:///v2",
        "wss://user:secret@ws.kraken.com/v2",
        "wss://ws.kraken.com:port/v2",
        "",
    ],
)
def test_unusable_endpoints_are_refused(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.check_endpoint(url, ("wss", "ws"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"chanels": ["book"]}, "capture.chanels"),
        ({"liveness": {"data_timeout_s": 0}}, "capture.liveness.data_timeout_s"),
        ({"websocket": "curl"}, "capture.websocket"),
    ],
)
def test_env_errors_name_the_member(tmp_path: Path, change: dict[str, object], problem: str) -> None:
    path = config.env_path(tmp_path, feeds.get("kraken"), "spot")
    path.parent.mkdir()
    path.write_text(yaml.safe_dump({"name": "x", "feed": "kraken", "capture": change}))
    assert problem in config.validate(tmp_path)[path]
    with pytest.raises(ConfigError, match=problem.rpartition(".")[2]):
        config.find_env(tmp_path, feeds.get("kraken"), "spot")


def test_broken_and_misnamed_files_are_found(tmp_path: Path) -> None:
    config.init(tmp_path, DAY)
    broken = tmp_path / "feeds" / "kraken.yaml"
    broken.write_text("name: [")
    (tmp_path / "feeds" / "kalshi.yaml").rename(tmp_path / "feeds" / "polymarket.yaml")
    (tmp_path / "environments" / "kraken-spot.yaml").rename(tmp_path / "environments" / "spot.yaml")
    problems = {path.name: problem for path, problem in config.validate(tmp_path).items() if problem}
    assert set(problems) == {"kraken.yaml", "polymarket.yaml", "spot.yaml"}


def test_keys_are_read_from_the_environment_and_never_shown() -> None:
    key = config.KeyConfig(type="api_key", source="env:A,B")
    assert key.resolve({"A": "1", "B": "2"}) == {"A": "1", "B": "2"}
    with pytest.raises(ConfigError, match="not set: B") as caught:
        key.resolve({"A": "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_options_go_over_env_over_feed_over_registry(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    registry = feeds.get("kraken-futures")
    plan = make_plan(ConnectorOptions("kraken-futures", "futures"), settings)
    assert (plan.url, plan.channels) == (registry.websocket_urls["prod"], registry.default_channels)
    demo = make_plan(ConnectorOptions("kraken-futures", "futures"), _settings(tmp_path, "demo"))
    assert demo.url == registry.websocket_urls["demo"]

    config.create_feed(settings.config_root, registry, date(2020, 1, 1), "wss://other.kraken.com/ws")
    env = {
        "name": "x",
        "feed": "kraken-futures",
        "capture": {
            "channels": ["book"],
            "instruments": ["PF_XBTUSD", "PF_XBTUSD"],
            "liveness": {"data_timeout_s": 5, "group_timeouts_s": {"book": None}},
        },
    }
    path = config.env_path(settings.config_root, registry, "futures")
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(env))
    plan = make_plan(ConnectorOptions("kraken-futures", "futures"), settings)
    assert (plan.url, plan.channels, plan.instruments) == ("wss://other.kraken.com/ws", ("book",), ("PF_XBTUSD",))
    assert plan.liveness.data_timeout_s == 5
    assert plan.liveness.pong_timeout_s == registry.liveness.pong_timeout_s
    plan = make_plan(
        ConnectorOptions("kraken-futures", "futures", url="ws://127.0.0.1:9", channels=("trade",)), settings
    )
    assert (plan.url, plan.channels) == ("ws://127.0.0.1:9", ("trade",))


def test_disabled_feed_is_not_captured(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    path = config.create_feed(settings.config_root, feeds.get("kraken"), date(2020, 1, 1))
    path.write_text(path.read_text() + "status: disabled\n")
    with pytest.raises(ConfigError, match="disabled"):
        make_plan(ConnectorOptions("kraken", "spot"), settings)


def test_env_sets_pace_and_names_the_key_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _settings(tmp_path)
    path = config.create_env(settings.config_root, feeds.get("kalshi"), "crypto")
    document = yaml.safe_load(path.read_text())
    document["keys"] = {"mine": {"type": "api_key", "source": "env:MY_ID,MY_PEM"}}
    document["subscription"] = {"batch_size": 50, "batch_delay_ms": 500}
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigError, match="MY_ID, MY_PEM"):
        make_plan(ConnectorOptions("kalshi", "crypto"), settings)
    monkeypatch.setenv("MY_ID", "id")
    monkeypatch.setenv("MY_PEM", "s3cret")
    plan = make_plan(ConnectorOptions("kalshi", "crypto"), settings)
    assert plan.credentials == {"KALSHI_API_KEY": "id", "KALSHI_PRIVATE_KEY": "s3cret"}
    assert "s3cret" not in repr(plan)
    assert (plan.feed.limits.instruments_per_command, plan.feed.limits.commands_per_s) == (50, 2.0)


@pytest.mark.parametrize(
    ("feed", "change", "problem"),
    [
        ("kalshi", {"secmaster": {"category": ["Crypto"]}}, "secmaster.category"),
        ("kalshi", {"secmaster": {"url": "https://x"}}, "secmaster.url"),
        ("kalshi", {"cdc": {"enabled": True}}, "cdc"),
        ("kalshi", {"secmaster": {"min_volume": 0}}, "min_volume"),
        ("kalshi", {"secmaster": {}, "capture": {"instruments": ["A"]}}, "only one can decide"),
        ("kraken", {"secmaster": {}}, "do not come from the security master"),
        ("polymarket", {"secmaster": {"suffixes": ["15M"]}}, "no such thing"),
    ],
)
def test_security_master_section_is_strict(tmp_path: Path, feed: str, change: dict[str, object], problem: str) -> None:
    settings = dataclasses.replace(_settings(tmp_path), database_url="postgresql://127.0.0.1/x")
    known = feeds.get(feed)
    path = config.env_path(settings.config_root, known, known.streams[0])
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump({"name": "x", "feed": feed, **change}))
    with pytest.raises(ConfigError, match=problem):
        make_plan(ConnectorOptions(feed, known.streams[0]), settings)


def test_security_master_section_needs_a_database_and_named_instruments_go_before_it(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    path = config.env_path(settings.config_root, feeds.get("kalshi"), "crypto")
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump({"name": "x", "feed": "kalshi", "secmaster": {"min_volume": 0.5}}))
    with pytest.raises(ConfigError, match="DATABASE_URL"):
        make_plan(ConnectorOptions("kalshi", "crypto"), settings)
    assert make_plan(ConnectorOptions("kalshi", "crypto", instruments=("A",)), settings).secmaster is None
    settings = dataclasses.replace(settings, database_url="postgresql://127.0.0.1/x")
    plan = make_plan(ConnectorOptions("kalshi", "crypto"), settings)
    assert plan.secmaster is not None
    assert plan.secmaster.min_volume == Decimal("0.5")
    path.unlink()
    assert make_plan(ConnectorOptions("kalshi", "crypto"), settings).secmaster is None
