"""`ssmd schedule`: Dagster's schedules and sensors, asked over its GraphQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from ssmd_api.cli.output import clear_errors, print_json, service_environment
from ssmd_api.cli.secmaster import JsonOption
from ssmd_api.cli.tables import print_table
from ssmd_core.errors import ConfigError, SsmdError

schedule_app = typer.Typer(help="What Dagster runs by itself: schedules and sensors.", no_args_is_help=True)

_TIMEOUT_S = 15.0
_MAX_ANSWER_BYTES = 8 * 1024 * 1024
_TICKS = 5
_QUERY = """
query Schedules($ticks: Int!, $now: Float!) {
  workspaceOrError {
    ... on PythonError { message }
    ... on Workspace { locationEntries { name locationOrLoadError {
      ... on PythonError { message }
      ... on RepositoryLocation { repositories {
        schedules {
          name description pipelineName cronSchedule executionTimezone
          potentialTickTimestamps(startTimestamp: $now, upperLimit: $ticks)
          scheduleState { ...State }
        }
        sensors { name description minIntervalSeconds targets { pipelineName } sensorState { ...State } }
      } }
    } } }
  }
}
fragment State on InstigationState {
  status
  ticks(limit: $ticks) { timestamp status skipReason runIds error { message } }
}
"""


class DagsterError(SsmdError):
    """Dagster cannot be reached, or does not answer as it should."""


@schedule_app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """Every schedule and sensor: whether it runs, when it last did and next will, and what came of it."""
    with clear_errors():
        found = _fetch(1)
        if as_json:
            print_json(found)
            return
        columns = ("name", "kind", "state", "when", "last", "result", "next", "job")
        lines = []
        for one in found:
            last = one["ticks"][0] if one["ticks"] else {"at": "never", "status": ""}
            first = one["next"][0] if one["next"] else None
            lines.append(
                (one["name"], one["kind"], one["state"], one["when"], last["at"], last["status"], first, one["jobs"])
            )
        print_table(columns, lines)


@schedule_app.command("describe")
def describe(
    name: Annotated[str, typer.Argument(help="As listed.")],
    as_json: JsonOption = False,
) -> None:
    """All about one schedule or sensor, with its last and next ticks."""
    with clear_errors():
        found = {one["name"]: one for one in _fetch(_TICKS)}
        if name not in found:
            raise ConfigError(f"Dagster has no {name!r}; it has {', '.join(found) or 'none'}")
        one = found[name]
        if as_json:
            print_json(one)
            return
        ticks, following = one.pop("ticks"), one.pop("next")
        print_table(("member", "value"), [*one.items(), ("next", following)])
        print_table(
            ("tick", "status", "runs", "why"),
            [(tick["at"], tick["status"], tick["runs"], tick["error"] or tick["skipped"]) for tick in ticks],
        )


def dagster_url() -> str:
    """Base URL of Dagster's webserver: `DAGSTER_URL`, else that of the running `ssmd up`.

    Raises:
        ConfigError: there is neither, or it is no URL.
    """
    from ssmd_core.settings import Settings

    environment = service_environment()
    if url := environment.get("DAGSTER_URL", ""):
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"DAGSTER_URL {url!r} is not of the form http://host:port")
        return url.rstrip("/")
    folder = Settings.from_environment(environment).data
    raise ConfigError(f"Dagster does not run on {folder}: start it with `ssmd up`, or set DAGSTER_URL")


def _fetch(ticks: int) -> list[dict[str, Any]]:
    """Schedules and sensors of every code location, by name."""
    import time

    now_s = time.time()
    data = _ask(_QUERY, {"ticks": ticks, "now": now_s})
    workspace = data["workspaceOrError"]
    if "message" in workspace:
        raise DagsterError(f"Dagster: {_first_line(workspace['message'])}")
    found = []
    for entry in workspace["locationEntries"]:
        location = entry["locationOrLoadError"] or {"message": "still loading"}
        if "message" in location:
            raise DagsterError(f"Dagster cannot load {entry['name']}: {_first_line(location['message'])}")
        for repository in location["repositories"]:
            found += [_schedule(one, now_s) for one in repository["schedules"]]
            found += [_sensor(one) for one in repository["sensors"]]
    return sorted(found, key=lambda one: one["name"])


def _schedule(one: dict[str, Any], now_s: float) -> dict[str, Any]:
    return {
        "name": one["name"],
        "kind": "schedule",
        "state": one["scheduleState"]["status"].lower(),
        "when": f"{one['cronSchedule']} {one['executionTimezone'] or 'UTC'}",
        "jobs": one["pipelineName"],
        "description": one["description"] or "",
        "ticks": _ticks(one["scheduleState"]),
        # Dagster gives ten earlier ones, too.
        "next": [_moment(at) for at in one["potentialTickTimestamps"] if at > now_s],
    }


def _sensor(one: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": one["name"],
        "kind": "sensor",
        "state": one["sensorState"]["status"].lower(),
        "when": f"every {one['minIntervalSeconds']} s",
        "jobs": ", ".join(target["pipelineName"] for target in one["targets"] or ()),
        "description": one["description"] or "",
        "ticks": _ticks(one["sensorState"]),
        "next": [],
    }


def _ticks(state: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "at": _moment(tick["timestamp"]),
            "status": tick["status"].lower(),
            "runs": tick["runIds"],
            "skipped": tick["skipReason"] or "",
            "error": _first_line(tick["error"]["message"]) if tick["error"] else "",
        }
        for tick in state["ticks"]
    ]


def _ask(query: str, variables: dict[str, Any]) -> dict[str, Any]:
    import urllib.error
    import urllib.request

    import orjson

    base = dagster_url()
    body = orjson.dumps({"query": query, "variables": variables})
    request = urllib.request.Request(f"{base}/graphql", body, {"Content-Type": "application/json"})
    try:
        # The address is the operator's, or that of the supervisor's state file.
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            answer = orjson.loads(response.read(_MAX_ANSWER_BYTES))
    except urllib.error.HTTPError as error:
        raise DagsterError(f"Dagster at {base} answers with status {error.code}") from error
    except (OSError, ValueError) as error:
        raise DagsterError(f"Dagster at {base} does not answer: {error}") from error
    if not isinstance(answer, dict) or answer.get("errors") or not isinstance(answer.get("data"), dict):
        reason = str(answer.get("errors", ""))[:200] if isinstance(answer, dict) else ""
        raise DagsterError(f"Dagster at {base} does not answer as it should {reason}".rstrip())
    data: dict[str, Any] = answer["data"]
    return data


def _moment(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")
