"""`ssmd connector list|status` and `ssmd archiver list|status`: what the running installation says of its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssmd_api.cli.output import EXIT_FAILED, clear_errors, print_json, settings
from ssmd_api.cli.secmaster import JsonOption
from ssmd_api.cli.stack import DataOption
from ssmd_api.cli.tables import print_table
from ssmd_core.errors import ConfigError, SsmdError

if TYPE_CHECKING:
    from pathlib import Path

    from ssmd_stream.servers.state import UnitState

_TIMEOUT_S = 3.0
_MAX_HEALTH_BYTES = 1024 * 1024
_CONNECTOR, _ARCHIVER = "connector-", "archiver"


def connector_list(data: DataOption = None, as_json: JsonOption = False) -> None:
    """The connectors of the running installation; exit 1 if one is not healthy."""
    _list(_CONNECTOR, data, as_json)


def connector_status(
    name: Annotated[str, typer.Argument(help="As listed, or FEED/STREAM.")],
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """What a connector says of itself; exit 1 if it is not healthy."""
    _status(_CONNECTOR, name.replace("/", "-"), data, as_json)


def archiver_list(data: DataOption = None, as_json: JsonOption = False) -> None:
    """The archiver of the running installation; exit 1 if it is not healthy."""
    _list(_ARCHIVER, data, as_json)


def archiver_status(data: DataOption = None, as_json: JsonOption = False) -> None:
    """What the archiver says of itself, stream by stream; exit 1 if it is not healthy."""
    _status(_ARCHIVER, _ARCHIVER, data, as_json)


def _units(prefix: str, data: Path | None) -> list[UnitState]:
    from ssmd_stream.servers.state import read_state

    folder = settings(data).data
    state = read_state(folder)
    if state is None or not state.running:
        raise SsmdError(f"nothing is running on {folder}: start it with `ssmd up`")
    return [unit for unit in state.units if unit.name.startswith(prefix)]


def _list(prefix: str, data: Path | None, as_json: bool) -> None:
    import msgspec

    with clear_errors():
        units = _units(prefix, data)
        if as_json:
            print_json([msgspec.to_builtins(unit) for unit in units])
        else:
            print_table(
                ("name", "state", "since", "restarts", "pid", "metrics", "detail"),
                [(one.name, one.state, one.since, one.restarts, one.pid, one.url, one.detail) for one in units],
            )
        if not units:
            typer.echo(f"no {prefix.rstrip('-')} is running: `ssmd up` without --no-capture runs it", err=True)
        if not units or any(unit.state != "healthy" for unit in units):
            raise typer.Exit(EXIT_FAILED)


def _status(prefix: str, name: str, data: Path | None, as_json: bool) -> None:
    with clear_errors():
        units = {unit.name.removeprefix(_CONNECTOR): unit for unit in _units(prefix, data)}
        unit = units.get(name.removeprefix(_CONNECTOR))
        if unit is None:
            raise ConfigError(f"no {name!r} is running; running: {', '.join(units) or 'none'}")
        answered, health = _health(unit)
        told = {"name": unit.name, "state": unit.state, "since": unit.since, "restarts": unit.restarts,
                "detail": unit.detail, "health": health}  # fmt: skip
        if as_json:
            print_json(told)
        else:
            flat = _flat(told)
            print_table(("member", "value"), flat)
        if not answered or unit.state != "healthy":
            raise typer.Exit(EXIT_FAILED)


def _health(unit: UnitState) -> tuple[bool, Any]:
    """Whether /health answered with 200, and what it said."""
    import urllib.error
    import urllib.request

    import orjson

    if not unit.url:
        return False, "it has no address"
    url = unit.url.removesuffix("/metrics") + "/health"
    try:
        try:
            # The address is the supervisor's own, from its state file.
            with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:
                return True, orjson.loads(response.read(_MAX_HEALTH_BYTES))
        except urllib.error.HTTPError as error:
            return False, orjson.loads(error.read(_MAX_HEALTH_BYTES))
    except orjson.JSONDecodeError:
        return False, "its answer is not JSON"
    except OSError as error:
        return False, f"it does not answer: {error}"


def _flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """Members of members as `outer.inner`."""
    if isinstance(value, dict):
        return [pair for key, item in value.items() for pair in _flat(item, f"{name}.{key}" if name else str(key))]
    return [(name, value)]
