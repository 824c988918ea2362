"""Every example of docs/api/ does what the page says."""

from __future__ import annotations

from api_rig import ApiRig
from examples import http_examples

from ssmd_api.auth.access import Scope


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
