"""The mails on health, diagnosis and volume: the same as page, pictures and plain text, whoever wrote what they say."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from datetime import date, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mail_rig import Inbox, ntfy_server, smtp_server
from typer.testing import CliRunner

from ssmd_api.cli.main import app
from ssmd_core.alerts import Alert, Alerter
from ssmd_core.clock import Clock
from ssmd_core.errors import ConfigError
from ssmd_core.mail import charts, parts
from ssmd_core.mail.diagnosis import (
    Citation,
    DiagnosisMail,
    FeedDiagnosis,
    Recommendation,
    TrendNote,
    diagnosis_mail,
)
from ssmd_core.mail.health import FeedHealth, HealthMail, Points, health_mail
from ssmd_core.mail.preview import write_preview
from ssmd_core.mail.render import Mail
from ssmd_core.mail.smtp import SmtpSettings, send
from ssmd_core.mail.volume import FeedVolume, Highlight, VolumeMail, volume_mail
from ssmd_core.text import Score

DAY = date(2026, 11, 21)
WORDS = ("complete", "degraded", "empty", "missing", None)


def points(*scores: Score) -> Points:
    return [(DAY - timedelta(days=len(scores) - 1 - place), score) for place, score in enumerate(scores)]


HEALTH = HealthMail(
    DAY,
    Decimal("78.5"),
    "YELLOW",
    [
        FeedHealth(
            "kalshi/crypto",
            Decimal("58.4"),
            "F",
            {"coverage": Decimal("42.5"), "integrity": 100, "reconciliation": None},
            ["complete"] * 3 + ["missing"] * 3 + ["degraded"] + ["empty"] + ["complete"] * 15 + [None],
            points(97, None, 88, 58),
            "The archiver was down.",
        ),
        FeedHealth("kraken/spot", None, ""),
    ],
    ["kalshi/crypto: 3 hours are missing."],
    points(95, 78),
)
DIAGNOSIS = DiagnosisMail(
    DAY,
    "RED",
    "kalshi lost three hours.",
    "rules",
    "No key is set.",
    [FeedDiagnosis("kalshi", "RED", "3 hours are missing.", "The archiver.", "Look at it.", ["hour:k", "score:none"])],
    [TrendNote("kalshi", "degrading", "97, now 58")],
    [Recommendation("Fetch the trades.", ["drift:17"])],
    [Citation("hour:k", "no sealed slot", "https://ssmd.local/k?a=1&b"), Citation("drift:17", "x", "javascript:a()")],
)
VOLUME = VolumeMail(
    DAY,
    "A calm day.",
    feeds=[
        FeedVolume("kalshi", 182_344, Decimal("5123456.50"), "contracts", ["KXBTCD"], "Half of it at noon."),
        FeedVolume("polymarket", None, None, "USD"),
    ],
    highlights=[Highlight("KXBTCD", "kalshi", "Ten times the usual.")],
    observations=["Nothing else."],
)


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_health_says_the_same_twice() -> None:
    mail = health_mail(HEALTH)
    assert mail.subject == "[ssmd] Health YELLOW (79/100) 2026-11-21"
    assert "  CCCMMM DECCCC CCCCCC CCCCC.  " in mail.text
    told = "complete 18 h, degraded 06 (1 h), empty 07 (1 h), missing 03-05 (3 h), not proved 23 (1 h)"
    page = Page(mail.html)
    for said in (
        "kalshi/crypto",
        "coverage 43 · integrity 100 · reconciliation –",
        told,
        "18 Nov to 21 Nov: 97 to 58, lowest 58 on 21 Nov, 1 day without a score",
        "kalshi/crypto: 3 hours are missing.",
        "1 thing to look at",
        "not proved 00-23 (24 h)",
    ):
        assert said in page.text
        assert said in mail.text
    pictures = [about for tag, about in page.tags if tag == "img"]
    assert {about["src"] for about in pictures} == {f"cid:{image.cid}" for image in mail.images}
    assert len({image.cid for image in mail.images}) == len(mail.images)
    assert f"Hours of kalshi/crypto: {told}" in [about["alt"] for about in pictures]
    assert mail == health_mail(HEALTH)


def test_a_good_day_is_short_and_an_unknown_one_is_no_zero() -> None:
    good = health_mail(HealthMail(DAY, 100, "GREEN", []))
    assert "Nothing needs to be done." in good.text
    unknown = health_mail(HealthMail(DAY, None, "UNKNOWN", []))
    assert unknown.subject == "[ssmd] Health UNKNOWN (–/100) 2026-11-21"


def test_diagnosis_cites_what_is_there() -> None:
    mail = diagnosis_mail(DIAGNOSIS)
    assert mail.subject == "[ssmd] Diagnosis RED 2026-11-21"
    for said in (
        "3 hours are missing. [1]\n",
        "Likely cause: The archiver.",
        "Fetch the trades. [2]",
        "Written by fixed rules. No key is set.",
        "kalshi degrading: 97, now 58",
        "[1] hour:k no sealed slot",
    ):
        assert said in mail.text
        assert said.rstrip() in Page(mail.html).text
    assert [about["href"] for tag, about in Page(mail.html).tags if tag == "a"] == ["https://ssmd.local/k?a=1&b"]


def test_volume_sums_nothing_over_feeds() -> None:
    mail = volume_mail(VOLUME)
    assert mail.subject == "[ssmd] Volume 2026-11-21"
    assert "kalshi: 5,123,456.50 contracts, 182,344 trades" in mail.text
    assert "polymarket: trades not known" in mail.text
    assert "KXBTCD (kalshi): Ten times the usual." in Page(mail.html).text


def test_it_arrives_with_its_pictures() -> None:
    inbox = Inbox()
    with smtp_server(inbox) as port:
        given = {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(port), "SMTP_TO": "a@b.c", "SMTP_FROM": "s@b.c"}
        send(health_mail(HEALTH), SmtpSettings.from_environment(given))
    (got,) = inbox.mails
    text, related = got.iter_parts()
    assert (text.get_content_type(), related.get_content_type()) == ("text/plain", "multipart/related")
    page, *pictures = related.iter_parts()
    assert page.get_content().replace("\r\n", "\n") == health_mail(HEALTH).html
    for part, image in zip(pictures, health_mail(HEALTH).images, strict=True):
        assert part["Content-ID"] == f"<{image.cid}>"
        assert part.get_content_disposition() == "inline"
        assert part.get_content() == image.png


def decoded(png: bytes) -> np.ndarray:
    """RGBA pixels of a PNG, read without the code that wrote it."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, place = {}, 8
    while place < len(png):
        (length,) = struct.unpack_from(">I", png, place)
        kind, data = png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        assert struct.unpack_from(">I", png, place + 8 + length)[0] == zlib.crc32(kind + data)
        chunks[kind] = data
        place += 12 + length
    width, height, depth, colour, *_ = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, colour) == (8, 3)
    palette = np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)
    alpha = np.frombuffer(chunks[b"tRNS"], np.uint8).reshape(-1, 1)
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert not lines[:, 0].any()
    return np.hstack([palette, alpha])[lines[:, 1:]]


def luminance(colour: np.ndarray) -> float:
    parts_ = colour[:3] / 255
    linear = np.where(parts_ <= 0.03928, parts_ / 12.92, ((parts_ + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def test_pictures_show_on_both_grounds_and_without_colours() -> None:
    shapes = set()
    for word in WORDS:
        pixels = decoded(charts.swatch(word))
        shapes.add((pixels[..., 3] > 0).tobytes())
        for colour in np.unique(pixels[pixels[..., 3] == 255], axis=0):
            assert 1.05 / (luminance(colour) + 0.05) >= 3
            assert (luminance(colour) + 0.05) / (luminance(np.array([18, 18, 18])) + 0.05) >= 3
    assert len(shapes) == len(WORDS)
    strip = decoded(charts.strip(("complete",) * 23 + ("missing",)))
    assert strip.shape == (charts.STRIP_HEIGHT, charts.STRIP_WIDTH, 4)
    assert (strip[:, -charts.STRIP_HEIGHT :] == decoded(charts.swatch("missing"))).all()


@settings(max_examples=12, deadline=None)
@given(st.lists(st.none() | st.integers(-5, 105) | st.decimals(0, 100, places=2), max_size=40))
def test_any_trend_can_be_drawn(scores: list[Score]) -> None:
    pixels = decoded(charts.trend(tuple(scores)))
    assert pixels.shape == (charts.TREND_HEIGHT, charts.TREND_WIDTH, 4)
    marks = pixels[pixels[..., 3] == 255]
    assert bool(len(marks)) == any(score is not None for score in scores)


def test_days_that_are_not_given_have_no_score() -> None:
    given_days = [(date(2026, 11, 21), 90), (date(2026, 11, 18), 80), (date(2025, 1, 1), 10)]
    told = parts.every_day(given_days)
    assert (len(told), told[0], told[-1], told[-4]) == (
        30,
        (date(2026, 10, 23), None),
        (date(2026, 11, 21), 90),
        (date(2026, 11, 18), 80),
    )


_TEXT = st.text(st.characters(), max_size=80) | st.sampled_from(
    ["<script>alert(1)</script>", "a\r\nBcc: x@y.z", '"><img src=x onerror=a()>', "\u202e\u2028", "\ud800", "&amp;"]
)


def all_mails(text: str) -> list[Mail]:
    return [
        health_mail(HealthMail(DAY, 1, text, [FeedHealth(text, 1, text, {text: 1}, [text], (), text)], [text])),
        diagnosis_mail(
            DiagnosisMail(
                DAY, text, text, "model", text, [FeedDiagnosis(text, text, text, text, text, [text])],
                [TrendNote(text, text, text, [text])],  # type: ignore[arg-type]
                [Recommendation(text, [text])], [Citation(text, text, text)],
            )
        ),
        volume_mail(
            VolumeMail(
                DAY, text, "model", text, [FeedVolume(text, 1, 1, text, [text], text)], [Highlight(text, text, text)],
                [text],
            )
        ),
    ]  # fmt: skip


@settings(max_examples=40)
@given(_TEXT)
def test_strangers_text_stays_text(text: str) -> None:
    for mail, harmless in zip(all_mails(text), all_mails("x"), strict=True):
        assert len(mail.subject.splitlines()) == 1
        tags = {tag for tag, _ in Page(mail.html).tags}
        assert tags <= {tag for tag, _ in Page(harmless.html).tags}
        for _, attributes in Page(mail.html).tags:
            assert not [name for name in attributes if name.startswith("on")]
        assert mail.html.encode() and mail.text.encode()
        assert not re.search(r"[\u202a-\u202e\u2066-\u2069\x1b]", mail.html + mail.text)


@pytest.mark.parametrize("text", ['&"<>' * 2_000, "🔥" * 5_000, "é ñ" * 3_000], ids=["markup", "emoji", "letters"])
def test_no_mail_is_cut_off_for_its_size(text: str) -> None:
    """100 kB and more are not shown whole by some mail programs; as sent, pictures included."""
    words = [WORDS[(7 * hour * hour) % 5] for hour in range(24)]
    trend = points(*[(37 * day) % 101 for day in range(30)])
    feeds = [FeedHealth(text, 50, "F", {f"{n}{text}": 50 for n in range(30)}, words, trend, text) for _ in range(60)]
    some = [text] * 90
    mails = [
        health_mail(HealthMail(DAY, 50, "RED", feeds, some, trend)),
        diagnosis_mail(
            DiagnosisMail(
                DAY, "RED", text, "model", text,
                [FeedDiagnosis(text, "RED", text, text, text, some[:2]) for _ in some],
                [TrendNote(text, "stable", text) for _ in some], [Recommendation(text) for _ in some],
                [Citation(f"{n}{text}", text, "https://a.b/" + "x" * 280) for n in range(90)],
            )
        ),
        volume_mail(
            VolumeMail(
                DAY, text, "model", text, [FeedVolume(text, 1, 1, text, some, text) for _ in some],
                [Highlight(text, text, text) for _ in some], some,
            )
        ),
    ]  # fmt: skip
    inbox = Inbox()
    with smtp_server(inbox) as port:
        given_ = {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(port), "SMTP_TO": "a@b.c", "SMTP_FROM": "s@b.c"}
        for mail in mails:
            send(mail, SmtpSettings.from_environment(given_))
    sizes = [len(envelope.content or b"") for envelope in inbox.envelopes]
    assert max(sizes) < 100_000, sizes
    assert all("more" in mail.text for mail in mails)


def test_a_preview_needs_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "health.html"
    assert write_preview(health_mail(HEALTH), path) == tmp_path / "health.txt"
    page = Page(path.read_text())
    sources = [about["src"] or "" for tag, about in page.tags if tag == "img"]
    assert sources
    for source in sources:
        decoded(base64.b64decode(source.removeprefix("data:image/png;base64,")))
    assert (tmp_path / "health.txt").read_text() == health_mail(HEALTH).text
    with pytest.raises(ConfigError, match="cannot be a"):
        write_preview(health_mail(HEALTH), tmp_path / "health.txt")


def test_alerts_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: str) -> tuple[int, str]:
        answer = CliRunner().invoke(app, ["alerts", command])
        return answer.exit_code, answer.output

    monkeypatch.setenv("SSMD_DATA", str(tmp_path))
    for name in ("NTFY_URL", "SMTP_HOST", "SMTP_TO"):
        monkeypatch.delenv(name, raising=False)
    assert run("list") == (0, "no alert is on\n")
    code, said = run("test")
    assert (code, "alerts reach nobody" in said) == (2, True)
    with ntfy_server() as ntfy:
        monkeypatch.setenv("NTFY_URL", ntfy.url)
        assert run("test") == (0, "sent by ntfy at 127.0.0.1\n")
        ntfy.answers = [403]
        assert run("test") == (1, "FAILED ntfy at 127.0.0.1 answers 403\n")
    with Alerter("connector", tmp_path / "alerts" / "connector.json", [], Clock()) as alerter:
        alerter.raise_(Alert("lag", "It \x1b[31mlags", "…"))
    code, said = run("list")
    assert code == 1
    assert "connector" in said
    assert "\x1b" not in said
