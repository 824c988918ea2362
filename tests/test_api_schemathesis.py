"""Thousands of generated requests to every route: no 5xx, no answer that the OpenAPI document does not describe."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_rig import ApiRig, api_settings
from fake_upstream import FakeUpstream
from installation import CLOCK, Installation

from ssmd_api.auth.access import Scope

EXAMPLES = 8
SEED = 20_261_122
ONE_KEY = r"/v1/keys/\{prefix\}"
#: Sends events for as long as somebody listens.
ENDLESS = "/v1/status/live"
#: A cursor or a status may be text and still be none; wrong keys are limited to so many, and told so.
EXCLUDED = "positive_data_acceptance,ignored_auth"


@pytest.fixture
def rig(installation: Installation, tmp_path: Path) -> Iterator[ApiRig]:
    """The installation with a provider of models."""
    data = tmp_path / "data"
    data.mkdir()
    for name in ("archive", "datasets", "proof"):
        (data / name).symlink_to(installation.data / name)
    with FakeUpstream().running() as upstream, installation.copy("schemathesis") as url:
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        said = {"message": {"role": "assistant", "content": "No."}, "finish_reason": "stop", "index": 0}
        upstream.answer = lambda body: {"id": "1", "model": body["model"], "choices": [said], "usage": usage}
        given = {"SSMD_LLM_BASE_URL": f"{upstream.url}/openai", "SSMD_LLM_API_KEY": "a key", "SSMD_CLOCK": CLOCK}
        with ApiRig(api_settings(url, data, **given)).running() as running:
            yield running


@pytest.mark.timeout(240)
def test_no_request_gets_what_the_document_does_not_say(rig: ApiRig, tmp_path: Path) -> None:
    rig.sql("INSERT INTO settings (key, value) VALUES ('rate_limit_tiers', '{\"internal\": 100000}')")
    # Requests that change keys find the one that they are sent with, too.
    run(rig, tmp_path, "--exclude-path-regex", ONE_KEY)
    run(rig, tmp_path, "--include-path-regex", ONE_KEY)


def run(rig: ApiRig, folder: Path, *which: str) -> None:
    """Generate, send, check."""
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{rig.url}/openapi.json", *which),
            *("--header", f"X-API-Key: {rig.key(*Scope)}", "--exclude-path", ENDLESS, "--exclude-checks", EXCLUDED),
            *("--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES), "--seed", str(SEED)),
            *("--workers", "2", "--no-color", "--request-timeout", "20"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[ran.stdout.find("FAILURES") :][:20_000]
    assert "Tested: " in ran.stdout
