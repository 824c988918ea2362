"""A headless Chromium, driven over its DevTools protocol: what a person would see, press and read."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--remote-debugging-port=0",
)


def chromium() -> str | None:
    """The program, None if it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Tab:
    """One page.

    Attributes:
        complaints: what scripts and the browser complained of: exceptions, console errors, broken policies.
    """

    def __init__(self, url: str) -> None:
        self._connection = connect(url, max_size=None, legacy=True)
        self._ids = itertools.count(1)
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol."""
        wanted = next(self._ids)
        self._connection.send(json.dumps({"id": wanted, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=20))
            if message.get("id") == wanted:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        about = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(about["exceptionDetails"])[:500])
        elif message.get("method") == "Log.entryAdded" and about["entry"]["level"] in {"error", "warning"}:
            self.complaints.append(about["entry"]["text"] + " " + about["entry"].get("url", ""))
        elif message.get("method") == "Runtime.consoleAPICalled" and about["type"] in {"error", "warning"}:
            self.complaints.append(json.dumps(about["args"])[:500])

    def size(self, width: int, height: int, *, dark: bool = False, calm: bool = False) -> None:
        """Set the window, the colour scheme, and whether motion is to be reduced."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        self.call(
            "Emulation.setEmulatedMedia",
            features=[
                {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
                {"name": "prefers-reduced-motion", "value": "reduce" if calm else "no-preference"},
            ],
        )

    def go(self, url: str) -> None:
        """Load a page anew, even where only its fragment differs."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.protocol === 'http:'")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, expression: str, timeout_s: float = 10.0) -> Any:
        """Wait until an expression gives something true; gives it."""
        deadline_s = time.monotonic() + timeout_s
        while not (found := self.value(expression)):
            assert time.monotonic() < deadline_s, (expression, self.complaints, self.value("document.body.innerText"))
            time.sleep(0.05)
        return found

    def text(self, selector: str) -> str:
        """The text of an element, "" if it is not to be seen."""
        element = f"document.querySelector({json.dumps(selector)})"
        found: str = self.value(f"{element}?.checkVisibility() ? {element}.innerText : ''")
        return found

    def press(self, key: str) -> None:
        """Press a key: `Enter`, `Tab`, `ArrowRight`, …"""
        codes = {"Enter": 13, "Tab": 9, "Escape": 27, "ArrowRight": 39, "ArrowDown": 40, "ArrowLeft": 37, "ArrowUp": 38}
        about = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **about, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def write(self, text: str) -> None:
        """Write into what has the focus."""
        self.call("Input.insertText", text=text)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Save what is seen, or all of the page."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@contextmanager
def browsing(folder: Path) -> Iterator[Tab]:
    """A browser with one page; `folder` for its profile."""
    program = chromium()
    assert program is not None
    port_file = folder / "DevToolsActivePort"
    process = subprocess.Popen(
        [program, *_ARGUMENTS, f"--user-data-dir={folder}", "about:blank"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"HOME": str(folder)},  # crash reports go there
    )
    try:
        deadline_s = time.monotonic() + 30
        while not (port_file.exists() and "\n" in port_file.read_text()):
            assert process.poll() is None and time.monotonic() < deadline_s, "chromium did not start"
            time.sleep(0.05)
        port, path = port_file.read_text().split("\n")[:2]
        browser = connect(f"ws://127.0.0.1:{port}{path}", max_size=None, legacy=True)
        browser.send(json.dumps({"id": 1, "method": "Target.createTarget", "params": {"url": "about:blank"}}))
        while (answer := json.loads(browser.recv(timeout=20))).get("id") != 1:
            pass
        tab = Tab(f"ws://127.0.0.1:{port}/devtools/page/{answer['result']['targetId']}")
        try:
            yield tab
        finally:
            tab.close()
            browser.send(json.dumps({"id": 2, "method": "Browser.close"}))
            browser.close()
    finally:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
