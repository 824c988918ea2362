"""Commands that ask a running API: `SSMD_API_URL` says which, else `ssmd up`'s; `SSMD_API_KEY` with which key."""

from __future__ import annotations

from typing import Any

from ssmd_api.cli.output import service_environment
from ssmd_api.cli.tables import shown
from ssmd_core.errors import ConfigError, SsmdError

DEFAULT_URL = "http://127.0.0.1:8080"
TIMEOUT_S = 10.0


class RemoteError(SsmdError):
    """The API cannot be reached, or refused; the text is its own."""


def api_and_key() -> tuple[str, str]:
    """Base URL of the API and the key to ask it with.

    Raises:
        ConfigError: `SSMD_API_URL` is no URL, or `SSMD_API_KEY` no key.
    """
    environment = service_environment()
    url, key = environment.get("SSMD_API_URL") or DEFAULT_URL, environment.get("SSMD_API_KEY", "").strip()
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"SSMD_API_URL {url!r} is not of the form http://host:port")
    if not key:
        raise ConfigError("SSMD_API_KEY is not set: `ssmd keys create` makes a key")
    if not (key.isascii() and key.isprintable()):
        # Not repeated, as the client for HTTP would.
        raise ConfigError("SSMD_API_KEY is no key: it holds characters that none has")
    return url.rstrip("/"), key


def get(path: str, **parameters: str | int | None) -> Any:
    """The JSON of a GET.

    Args:
        parameters: of the query; None for those that are not given, `from_` for `from`.

    Raises:
        ConfigError: `SSMD_API_URL` is no URL, no key is set, or the API says that a parameter cannot be used.
        RemoteError: no answer within ten seconds, or a refusal.
    """
    import httpx2

    base, key = api_and_key()
    given = {name.rstrip("_"): value for name, value in parameters.items() if value is not None}
    try:
        with httpx2.Client(base_url=base, timeout=TIMEOUT_S) as client:
            response = client.get(path, params=given, headers={"X-API-Key": key})
    except httpx2.InvalidURL as error:
        raise ConfigError(f"SSMD_API_URL {base!r} is no URL: {error}") from error
    except httpx2.HTTPError as error:
        raise RemoteError(f"the API at {base} does not answer: {str(error) or type(error).__name__}") from error
    try:
        body = response.json()
    except ValueError as error:
        raise RemoteError(f"{base} answers {response.status_code}, and not in JSON: is it an ssmd API?") from error
    if response.status_code == 400:
        raise ConfigError(_refusal(body, response.status_code))
    if response.status_code == 401:  # often it is another API than the one that was meant
        raise RemoteError(f"{_refusal(body, response.status_code)}; asked was {base} (SSMD_API_URL)")
    if not response.is_success:
        raise RemoteError(_refusal(body, response.status_code))
    return body


def _refusal(body: Any, status: int) -> str:
    """The API's own words on one line."""
    text = body.get("error") if isinstance(body, dict) else None
    request_id = body.get("requestId") if isinstance(body, dict) else None
    line = shown(" ".join(str(text or "no reason given").split()))
    return f"{line} ({status}{f', request {request_id}' if request_id else ''})"
