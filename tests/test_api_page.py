"""The page at `/` and the docs page, in a real browser: what a person sees, with and without a key, at two widths."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path

import pytest
from api_rig import ApiRig, api_settings
from browser import Tab, browsing, chromium
from installation import CLOCK, DAY, Installation
from proof_rig import BROKEN, add_day
from test_status import TICK, tell

from ssmd_core.clock import Clock
from ssmd_core.feeds import FEEDS, get
from ssmd_core.feeds.subjects import StreamName

pytestmark = pytest.mark.skipif(chromium() is None, reason="chromium is not installed")

HOSTILE = "</script><img src=x onerror=\"document.title='taken'\"><b>Will it?</b>"
SHOWN_DAYS = 3
HOURS = 24
DEGRADED_CELL = '[data-at="kraken/spot/2026-11-19/1100"]'
_CONTRAST = """
(() => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const style = getComputedStyle(e);
      if (style.backgroundImage !== "none") return numbers(style.backgroundImage.match(/rgb\\([^)]*\\)/)[0]);
      const colour = numbers(style.backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const bad = [];
  for (const element of document.body.querySelectorAll("*")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.disabled) continue;
    const [front, back] = [light(numbers(getComputedStyle(element).color)), light(behind(element))];
    const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    if (ratio < 4.5) bad.push(`${ratio.toFixed(2)} ${element.className} ${element.textContent.slice(0, 30)}`);
  }
  return [...new Set(bad)];
})()
"""
_UNNAMED = """
[...document.querySelectorAll("button, input, a")]
  .filter((e) => !e.textContent && !e.ariaLabel && !e.labels?.length).map((e) => e.outerHTML)
"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browsing(tmp_path_factory.mktemp("chromium")) as found:
        yield found


class Shown(ApiRig):
    """An API on the installation, with a JetStream.

    Attributes:
        ticker: a market with a hostile title.
    """

    nats_url = ""
    ticker = ""

    def kalshi(self, yes_bid: str) -> None:
        """A ticker message comes."""
        message = {"type": "ticker", "msg": {"market_ticker": self.ticker, "yes_bid_dollars": yes_bid, "yes_ask": 97}}
        tell(self.nats_url, self.stream("kalshi"), json.dumps(message).encode(), clock=self.settings.core.clock)

    def stream(self, feed: str) -> StreamName:
        """The feed's stream."""
        return StreamName(self.settings.core.env, get(feed), get(feed).streams[0])


@pytest.fixture(scope="module")
def shown(installation: Installation, nats_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    clock = Clock.parse(CLOCK).shared_text()
    data = tmp_path_factory.mktemp("page") / "data"
    shutil.copytree(installation.data, data)
    with installation.copy(f"page_{os.getpid()}") as url:
        add_day(data, url)
        settings = api_settings(url, data, NATS_URL=nats_url, SSMD_ENV=f"page-{os.getpid()}", SSMD_CLOCK=clock)
        rig = Shown(settings)
        rig.nats_url = nats_url
        rig.ticker = rig.sql("SELECT ticker FROM markets ORDER BY ticker LIMIT 1")[0][0]
        rig.sql("UPDATE markets SET title = %s WHERE ticker = %s", (HOSTILE, rig.ticker))
        tell(nats_url, rig.stream("kraken"), TICK, clock=settings.core.clock)
        rig.kalshi("0.9100")
        with rig.running():
            yield rig


@contextmanager
def calm(tab: Tab, *expected: str) -> Iterator[None]:
    """No script and no browser complains meanwhile, but for what holds one of the expected texts."""
    tab.complaints.clear()
    yield
    tab.value("0")  # collects what has happened until now
    unexpected = [each for each in tab.complaints if not any(text in each for text in expected)]
    assert not unexpected


def _screenshots(folder: Path) -> Path:
    """Where to keep them: for who wants to look, `SSMD_SCREENSHOTS`."""
    return Path(os.environ.get("SSMD_SCREENSHOTS") or folder)


def _open(tab: Tab, shown: Shown, key: str) -> None:
    tab.go(f"{shown.url}/#key={key}")
    tab.until("document.querySelectorAll('#calendar .cell').length")


@pytest.fixture(autouse=True)
def _forget(tab: Tab, shown: Shown) -> None:
    tab.size(1280, 900)
    tab.go(f"{shown.url}/")
    tab.value("sessionStorage.clear()")


def test_without_a_key_it_says_what_to_do(tab: Tab, shown: Shown) -> None:
    with calm(tab):
        tab.go(f"{shown.url}/")
        assert "Enter your API key" in tab.text("#welcome") and "ssmd keys create" in tab.text("#welcome")
        assert not tab.text("#content") and not tab.text("#key-error")
        tab.press("Tab")
        assert tab.value("document.activeElement.textContent") == "Skip to content"


def test_a_wrong_key(tab: Tab, shown: Shown) -> None:
    with calm(tab, "401"):
        tab.value("document.querySelector('#key').focus()")
        tab.write("sk_live_00000000_wrong")
        tab.press("Enter")
        assert "not valid" in str(tab.until("document.querySelector('#key-error').innerText"))
        assert tab.value("document.activeElement.id") == "key" and tab.value("sessionStorage.length") == 0
        assert not tab.text("#content")
        tab.write("sk_live_schlüssel")
        tab.press("Enter")
        tab.until("document.querySelector('#key-error').innerText.includes('This is no key')")
        assert tab.value("sessionStorage.length") == 0


def test_all_is_shown_and_stays_text(tab: Tab, shown: Shown) -> None:
    with calm(tab):
        _open(tab, shown, shown.key("datasets:read"))
        assert tab.value("location.href") == f"{shown.url}/", "the key stays in the address"
        rows = tab.value("[...document.querySelectorAll('#feeds tbody tr')].map((row) => row.innerText)")
        assert len(rows) == len(FEEDS) and all(feed in row for feed, row in zip(FEEDS, rows, strict=True))
        assert "live" in rows[0] and "stale" in rows[1] and "down" in rows[2]
        assert tab.value("document.querySelectorAll('#calendar .cell').length") == SHOWN_DAYS * len(FEEDS) * HOURS
        letters = tab.value(
            "[...document.querySelectorAll('#calendar .day:first-child .row')]"
            ".map((row) => [...row.querySelectorAll('.cell')].map((cell) => cell.textContent || '-').join(''))"
        )
        hours = [letter[10:15] for letter in letters]
        # Complete, degraded, empty, missing, or not proved yet; the hour of 13:00 is not over.
        assert hours == ["MDDU-", "MDUU-", "MUUU-", "MDMU-"]
        letters = tab.value(
            "[...document.querySelectorAll('#calendar .day:nth-child(2) .row')][1].innerText.replaceAll('\\n', '')"
        )
        assert "MCEMDUM" in letters, letters
        price = tab.until("document.querySelector('#prices tbody tr')?.innerText")
        assert HOSTILE in price and "0.9100" in price and "0.97" in price
        shown.kalshi("0.9200")
        tab.until("document.querySelector('#prices tbody tr').innerText.includes('0.9200')")
        assert tab.value("document.title") == "ssmd" and tab.value("document.images.length") == 0
        tell(shown.nats_url, shown.stream("kraken-futures"), TICK, clock=shown.settings.core.clock)
        told = str(tab.until("document.querySelector('#changes').textContent"))
        assert told.startswith("kraken-futures futures is now stale")


def test_an_hour_is_opened_from_the_keyboard(tab: Tab, shown: Shown) -> None:
    with calm(tab):
        _open(tab, shown, shown.key("datasets:read", feeds=["kalshi", "kraken"]))
        assert tab.value("document.querySelectorAll('#calendar [tabindex=\"0\"]').length") == 1
        tab.value("document.querySelector('#calendar .cell').focus()")
        for _ in range(11):
            tab.press("ArrowRight")
        tab.press("ArrowDown")
        assert "kraken spot 11:00: degraded" in tab.value("document.activeElement.getAttribute('aria-label')")
        tab.press("Enter")
        tab.until(
            "document.querySelector('#details').open && document.querySelectorAll('#details-body tbody tr').length"
        )
        details = tab.text("#details")
        assert f"kraken spot, {DAY} 11:00 UTC" in details and "4 of 4" in details and "kraken_ticker" in details
        tab.press("Escape")
        tab.until("!document.querySelector('#details').open")
        assert "kraken spot 11:00" in tab.value("document.activeElement.getAttribute('aria-label')")
        tab.value("document.querySelector('#earlier').click()")
        tab.until(f"document.querySelector('#until').value === '{DAY - timedelta(days=SHOWN_DAYS)}'")
        tab.until("document.querySelector('#calendar h3').innerText.includes('17 November')")


def test_a_proved_hour_shows_what_stands_behind_its_word(tab: Tab, shown: Shown) -> None:
    with calm(tab):
        _open(tab, shown, shown.key("datasets:read"))
        tab.value(f"document.querySelector('{DEGRADED_CELL}').click()")
        tab.until("!!document.querySelector('#details-body .reasons')")
        details = tab.text("#details-body")
        assert "degraded: something is wrong" in details and "entry 3 of the chain" in details
        assert "untrusted" in details and f"untrusted:kraken/spot/2026-11-19T11/{BROKEN}" in details
        ledger = shown.json(
            "/v1/proof/ledger", shown.key("datasets:read"), feed="kraken", date="2026-11-19", hour="1100"
        )
        assert ledger["chain"]["ledger"] in details
        tab.value("document.querySelector('#details-body button').click()")
        rows = "document.querySelectorAll('#details-body table[aria-label=\"Minutes of the ledger\"] tbody tr')"
        tab.until(f"{rows}.length")
        assert tab.value(f"{rows}[0].innerText").split()[:2] == ["11:00", "c0"]
        tab.press("Escape")
        # Nobody has proved the next one: it says so, and has no ledger to show.
        tab.value(f"document.querySelector('{DEGRADED_CELL.replace('1100', '1200')}').click()")
        assert "not proved yet" in tab.text("#details-body") and "chain" not in tab.text("#details-body")
        tab.press("Escape")
        tab.value(f"document.querySelector('{DEGRADED_CELL.replace('1100', '0800')}').click()")
        tab.until("document.querySelector('#details-body').innerText.includes('entry 1 of the chain')")
        assert "complete: proved by its ledger" in tab.text("#details-body")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_it_fits_and_can_be_read(tab: Tab, shown: Shown, width: int, dark: bool, tmp_path: Path) -> None:
    tab.size(width, 800, dark=dark, calm=True)
    with calm(tab):
        assert tab.value(_CONTRAST) == []
        _open(tab, shown, shown.key("datasets:read"))
        tab.until("document.querySelectorAll('#prices tbody tr').length")
        assert tab.value("document.documentElement.scrollWidth") <= width
        assert tab.value(_CONTRAST) == []
        tab.value(f"document.querySelector('{DEGRADED_CELL}').click()")
        tab.until("document.querySelectorAll('#details-body tbody tr').length")
        tab.until("!!document.querySelector('#details-body .reasons')")
        tab.value("document.querySelector('#details-body button').click()")
        tab.until("!!document.querySelector('#details-body table[aria-label=\"Minutes of the ledger\"]')")
        assert tab.value("document.querySelector('#details').getBoundingClientRect().right") <= width
        assert tab.value(_CONTRAST) == []
        assert tab.value(_UNNAMED) == []
        body = "document.querySelector('#details-body')"
        assert tab.value(f"{body}.scrollWidth <= {body}.clientWidth"), "it scrolls sideways"
        tab.screenshot(_screenshots(tmp_path) / f"proof-{width}-{'dark' if dark else 'light'}.png")
        tab.value("document.querySelector('#details-body .minutes').scrollIntoView()")
        tab.screenshot(_screenshots(tmp_path) / f"proof-minutes-{width}-{'dark' if dark else 'light'}.png")
        tab.value("document.querySelector('#details').close()")
        tab.screenshot(_screenshots(tmp_path) / f"page-{width}-{'dark' if dark else 'light'}.png", whole=True)


def test_a_key_of_the_past_sees_the_past(tab: Tab, shown: Shown) -> None:
    with calm(tab, "403"):
        _open(tab, shown, shown.key("datasets:read", days=(date(2026, 11, 1), date(2026, 11, 10))))
        assert "Live states cannot be shown" in tab.text("#key-error")
        assert not tab.text("#feeds") and tab.value("document.querySelector('#until').value") == "2026-11-10"


def test_coverage_of_a_key_with_few_days_stays_when_it_is_asked_for_again(tab: Tab, shown: Shown) -> None:
    with calm(tab):
        _open(tab, shown, shown.key("datasets:read", days=(DAY, date(2099, 12, 31))))
        tab.value("performance.clearResourceTimings()")
        tab.value("document.querySelector('#until').dispatchEvent(new Event('change'))")
        tab.until("performance.getEntriesByType('resource').some((each) => each.name.includes('coverage?to='))")
        assert tab.value("document.querySelectorAll('#calendar .cell').length") == len(FEEDS) * HOURS
        assert not tab.text("#calendar-note")


def test_a_revoked_key(tab: Tab, shown: Shown) -> None:
    with calm(tab, "401"):
        _open(tab, shown, shown.key("datasets:read", email="soon@revoked.example"))
        shown.sql("UPDATE api_keys SET revoked_at = now() WHERE user_email = 'soon@revoked.example'")
        tab.until("document.querySelector('#key-error').innerText.includes('revoked')")
        assert not tab.text("#content")


def test_the_api_goes_away_and_comes_back(tab: Tab, shown: Shown) -> None:
    offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    tab.call("Network.enable")
    _open(tab, shown, shown.key("datasets:read"))
    tab.call("Network.emulateNetworkConditions", offline=True, **offline)
    try:
        # What is open goes on in the emulation, so it is ended as the API itself would.
        shown.sql("UPDATE api_keys SET rate_limit_tier = 'elevated' WHERE revoked_at IS NULL")
        tab.until("document.querySelector('#connection').innerText.includes('does not answer. Trying again')")
        assert tab.text("#feeds"), "the last states stay"
    finally:
        tab.call("Network.emulateNetworkConditions", offline=False, **offline)
    tab.until("document.querySelector('#connection').hidden")


def test_the_docs_page_tries_a_route(tab: Tab, shown: Shown, tmp_path: Path) -> None:
    tab.value(f"sessionStorage.setItem('ssmd-api-key', '{shown.key('datasets:read')}')")
    with calm(tab):
        tab.go(f"{shown.url}/docs")
        tab.until("document.querySelectorAll('.opblock').length")
        block = "document.querySelector('#operations-status-get_v1_status')"
        for button in ("button", ".try-out__btn", ".execute"):
            tab.until(f"!!{block}.querySelector('{button}')")
            tab.value(f"{block}.querySelector('{button}').click()")
        tab.until(f"{block}.querySelector('.live-responses-table')?.innerText.includes('\"streams\"')")
        for width in (1280, 360):
            tab.size(width, 900)
            assert tab.value("document.documentElement.scrollWidth") <= width
            tab.screenshot(_screenshots(tmp_path) / f"docs-{width}.png")


def test_events_stop_when_the_page_is_left(tab: Tab, shown: Shown) -> None:
    _open(tab, shown, shown.key("datasets:read"))
    assert shown.services.board.clients.total() >= 1
    tab.go(f"{shown.url}/version")
    deadline_s = time.monotonic() + 5
    while shown.services.board.clients:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
