"""Every example of docs/api/ does what the page says."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
from api_rig import ApiRig
from examples import blocks, http_examples
from installation import Installation
from typer.testing import CliRunner

from ssmd_api.auth.access import Scope
from ssmd_api.cli.main import app


def test_requests_are_answered_as_the_pages_say(installed_api: ApiRig) -> None:
    key = installed_api.key(*Scope)
    installed_api.prepare_examples()
    wrong = []
    for example in http_examples():
        answer = installed_api.send(example, key)
        expected = answer.status_code == example.status if example.status else answer.is_success or answer.is_redirect
        if not expected:
            wrong.append((example.name, example.method, example.target, answer.status_code, answer.text[:200]))
    assert wrong == []


def test_commands_work_as_the_pages_say(
    installation: Installation, installed_api: ApiRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(installation.data, tmp_path / ".data")
    monkeypatch.chdir(tmp_path)
    installed_api.prepare_examples()
    for name, value in {
        "SSMD_DATA": str(tmp_path / ".data"),
        "SSMD_API_URL": installed_api.url,
        "SSMD_API_KEY": installed_api.key(*Scope),
        "DATABASE_URL": installed_api.database_url,
    }.items():
        monkeypatch.setenv(name, value)
    wrong = []
    for block in blocks("bash", "api/*.md"):
        for line in block.text.splitlines():
            if line.startswith("ssmd "):
                answer = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
                if answer.exit_code != 0:
                    wrong.append((block.name, line, answer.exit_code, answer.output[-300:], repr(answer.exception)))
    assert wrong == []
