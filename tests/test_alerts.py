"""Alerts: told once, over restarts too; a storm becomes a handful; a dead channel holds nobody up."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mail_rig import Inbox, Ntfy, ntfy_server, smtp_server

from ssmd_core.alerts import Alert, Alerter, channels, sender
from ssmd_core.alerts.alert import Message
from ssmd_core.alerts.channels import NtfyChannel, channels_of
from ssmd_core.alerts.state import CONFIRM_S, PER_HOUR, QUIET_S, REMINDER_S, RETRY_S, Memory
from ssmd_core.clock import Clock
from ssmd_core.errors import ConfigError
from ssmd_core.mail.alert import alert_mail
from ssmd_core.settings import Settings

MUTE = Alert("mute:kraken/spot/c0", "Kraken is mute", "No message for 61 s.", "critical", "kraken", "spot")
NOON_S = 1_795_262_400.0  # 2026-11-21T12:00Z
TOKEN = "tk_s3cr3t"


class Watch(Clock):
    """A clock that is set by hand."""

    now_s = NOON_S

    def now_ns(self) -> int:
        return int(self.now_s * 1e9)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "PAUSES_S", (0.02, 0.02))
    monkeypatch.setattr(sender, "_TICK_S", 0.05)


@pytest.fixture
def ntfy() -> Iterator[Ntfy]:
    with ntfy_server() as server:
        yield server


Made = Callable[..., Alerter]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    """Makes alerters that share a state file, and closes them."""
    alerters = []

    def make(environment: dict[str, str], clock: Clock | None = None) -> Alerter:
        alerter = Alerter("connector", tmp_path / "a" / "c.json", channels_of(environment), clock or Watch())
        alerters.append(alerter)
        return alerter

    yield make
    for alerter in alerters:
        alerter.close(1.0)


def until(true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_it_is_told_once_and_its_end_too(made: Made, ntfy: Ntfy) -> None:
    """Through a restart in the middle."""
    watch, environment = Watch(), {"NTFY_URL": ntfy.url, "NTFY_TOKEN": TOKEN}
    first = made(environment, watch)
    for _ in range(5):
        first.raise_(MUTE)
    until(lambda: len(ntfy.got) == 1)
    assert first.status()["raised"] == [MUTE.key]
    first.close()
    (got,) = ntfy.got
    assert got["path"] == "/"
    assert (got["topic"], got["title"], got["priority"], got["tags"]) == (
        "alerts-6c1f",
        "Kraken is mute",
        5,
        ["rotating_light"],
    )
    assert got["message"].startswith("No message for 61 s.\n(kraken/spot · connector · since 2026-11-21 12:00 UTC")
    assert got["headers"]["Authorization"] == f"Bearer {TOKEN}"

    watch.now_s += 2 * 3600 + 300
    second = made(environment, watch)
    second.raise_(MUTE)
    second.clear(MUTE.key)
    second.clear("never raised")
    second.close()
    assert ntfy.titles == ["Kraken is mute", "Over: Kraken is mute"]
    assert "after 2 h 05 min" in ntfy.got[1]["message"]
    assert ntfy.got[1]["priority"] == 3
    assert second.status() == {
        "channels": ["ntfy at 127.0.0.1"], "sent": 1, "failed": 0, "dropped": 0, "raised": [], "error": "",
    }  # fmt: skip


def test_what_is_raised_and_cleared_at_once_is_told_twice(made: Made, ntfy: Ntfy) -> None:
    """The end waits for the beginning."""
    alerter = made({"NTFY_URL": ntfy.url})
    alerter.raise_(MUTE)
    alerter.clear(MUTE.key)
    alerter.close()
    assert ntfy.titles == ["Kraken is mute", "Over: Kraken is mute"]


def test_a_storm_becomes_a_handful(made: Made, ntfy: Ntfy) -> None:
    alerter = made({"NTFY_URL": ntfy.url})
    begun_s = time.monotonic()
    for number in range(1_000):
        alerter.raise_(Alert(f"k{number}", f"Market {number} is mute", "…", "warning"))
    alerter.raise_(MUTE)
    assert time.monotonic() - begun_s < 1
    alerter.close()
    assert len(ntfy.got) == 12
    assert ntfy.titles[10:] == [MUTE.title, "and 990 more"]
    assert "WARNING Market 10 is mute" in ntfy.got[-1]["message"]
    assert "and 970 others" in ntfy.got[-1]["message"]
    # They are on, and they have been told: a second time nothing is said.
    again = made({"NTFY_URL": ntfy.url})
    for number in range(1_000):
        again.raise_(Alert(f"k{number}", f"Market {number} is mute", "…", "warning"))
    again.close()
    assert len(ntfy.got) == 12


@pytest.mark.parametrize("answers", [[429, 500], [0, 503]], ids=str)
def test_it_is_tried_three_times(answers: list[int], made: Made, ntfy: Ntfy) -> None:
    ntfy.answers = answers
    alerter = made({"NTFY_URL": ntfy.url})
    assert alerter.send_now(MUTE)
    assert len(ntfy.got) == 1
    assert alerter.status()["failed"] == 0


@pytest.mark.parametrize(("answer", "tries", "said"), [(302, 1, "not followed"), (403, 1, "403"), (500, 3, "500")])
def test_what_is_refused_is_told_and_tried_again_later(
    answer: int, tries: int, said: str, made: Made, ntfy: Ntfy
) -> None:
    ntfy.answers = [answer] * tries
    watch = Watch()
    alerter = made({"NTFY_URL": ntfy.url, "NTFY_TOKEN": TOKEN}, watch)
    assert not alerter.send_now(MUTE)
    assert not alerter.send_now(MUTE)
    assert ntfy.asked == tries
    status = alerter.status()
    assert status["failed"] == 1
    assert said in status["error"]
    assert TOKEN not in repr(status)
    watch.now_s += RETRY_S
    until(lambda: len(ntfy.got) == 1)
    assert alerter.send_now(MUTE)


def test_a_dead_channel_holds_nobody_up(made: Made, ntfy: Ntfy) -> None:
    """ntfy never answers; mail gets it at once, and the caller waits for neither."""
    ntfy.answers = [-1]
    inbox = Inbox()
    with smtp_server(inbox) as port:
        mail = {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(port), "SMTP_TO": "a@b.c", "SMTP_FROM": "s@b.c"}
        alerter = made({"NTFY_URL": ntfy.url, **mail})
        begun_s = time.monotonic()
        alerter.raise_(MUTE)
        assert time.monotonic() - begun_s < 0.1
        assert alerter.send_now(MUTE, timeout_s=5)
        begun_s = time.monotonic()
        alerter.close(0.3)
        assert time.monotonic() - begun_s < 2
    (got,) = inbox.mails
    assert got["Subject"] == "[ssmd] CRITICAL Kraken is mute"
    assert "No message for 61 s." in got.get_body(("plain",)).get_content()  # type: ignore[union-attr]


def test_a_server_that_never_answers_is_cut_off(ntfy: Ntfy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "_DEADLINE_S", 0.2)
    ntfy.answers = [-1]
    (channel,) = channels_of({"NTFY_URL": ntfy.url})
    begun_s = time.monotonic()
    with pytest.raises(channels.ChannelError):
        channel.send(Message("k", "raised", "info", "t", "x"))
    assert time.monotonic() - begun_s < 5


def test_a_mail_that_some_do_not_get_is_not_sent_again(made: Made) -> None:
    inbox = Inbox()
    inbox.refuse = {"gone@b.c"}
    with smtp_server(inbox) as port:
        mail = {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(port), "SMTP_TO": "a@b.c,gone@b.c", "SMTP_FROM": "s@b.c"}
        assert made(mail).send_now(MUTE)
    assert len(inbox.mails) == 1


def test_nobody_listens(made: Made) -> None:
    """The server is gone: no exception, and it is counted."""
    with ntfy_server() as gone:
        url = gone.url
    alerter = made({"NTFY_URL": url})
    assert not alerter.send_now(MUTE)
    assert "refused" in alerter.status()["error"]


def test_without_a_channel_it_is_logged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = Settings.from_environment({"SSMD_DATA": str(tmp_path)})
    with Alerter.from_environment("dagster", settings, {}) as alerter:
        assert not alerter.send_now(MUTE)
        assert alerter.status()["channels"] == []
    said = capfd.readouterr()
    assert "Kraken is mute" in said.out + said.err
    assert (tmp_path / "alerts" / "dagster.json").exists()


def test_processes_share_what_has_been_told(made: Made, ntfy: Ntfy) -> None:
    one, other = made({"NTFY_URL": ntfy.url}), made({"NTFY_URL": ntfy.url})
    assert one.send_now(MUTE)
    assert other.send_now(MUTE)
    other.clear(MUTE.key)
    until(lambda: len(ntfy.got) == 2)
    until(lambda: one.status()["raised"] == [])


@pytest.mark.parametrize("damage", [b"", b"{", b'{"entries":{"k":3}}', b"\xff\xfe"])
def test_a_damaged_state_is_set_aside(damage: bytes, made: Made, ntfy: Ntfy, tmp_path: Path) -> None:
    path = tmp_path / "a" / "c.json"
    path.parent.mkdir()
    path.write_bytes(damage)
    assert made({"NTFY_URL": ntfy.url}).send_now(MUTE)
    assert path.with_name("c.json.damaged").read_bytes() == damage


def test_a_disk_that_cannot_be_written_keeps_nothing_back(ntfy: Ntfy, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    alerter = Alerter("c", tmp_path / "file" / "c.json", channels_of({"NTFY_URL": ntfy.url}), Watch())
    assert alerter.send_now(MUTE)
    assert "state not kept" in alerter.status()["error"]
    alerter.close()
    assert len(ntfy.got) == 1


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://me:hunter2@ntfy.sh/topic-1", "carries credentials"),
        ("http://ntfy.sh/topic-1", "must be https"),
        ("http://127.0.0.1.ntfy.sh/topic-1", "must be https"),
        ("ftp://ntfy.sh/topic-1", "must be a https or http URL"),
        ("https://ntfy.sh", "must end in a topic"),
        ("https://ntfy.sh/a/topic-1", "must end in a topic"),
        ("https://ntfy.sh/topic-1?auth=hunter2", "must end in a topic"),
        ("https://ntfy.sh:99999/topic-1", "not a URL"),
        ("https://ntfy.example.com/topic-1", "placeholder"),
    ],
)
def test_addresses_that_cannot_be_used(url: str, said: str) -> None:
    """The topic is a secret, too."""
    with pytest.raises(ConfigError, match=said) as error:
        channels_of({"NTFY_URL": url})
    assert "topic-1" not in str(error.value)
    assert "hunter2" not in str(error.value)


def test_secrets_are_not_shown() -> None:
    (channel,) = channels_of({"NTFY_URL": "https://ntfy.sh/topic-1", "NTFY_TOKEN": TOKEN})
    assert isinstance(channel, NtfyChannel)
    assert (channel.host, channel.port, channel.tls, channel.topic) == ("ntfy.sh", 443, True, "topic-1")
    assert not {TOKEN, "topic-1"} & set(repr(channel).replace("'", " ").split())
    with pytest.raises(ConfigError, match="NTFY_TOKEN") as error:
        channels_of({"NTFY_URL": "https://ntfy.sh/topic-1", "NTFY_TOKEN": f"{TOKEN}\r\nX: y"})
    assert TOKEN not in str(error.value)
    with pytest.raises(ConfigError, match="SMTP_HOST not set"):
        channels_of({"SMTP_TO": "a@b.c"})


# -- the rules, without threads


class Told:
    """A memory whose channels take everything at once, and a clock."""

    def __init__(self, path: Path, takes: bool = True) -> None:
        self.memory = Memory("c", path)
        self.now_s = NOON_S
        self.takes = takes
        self.told: list[Message] = []

    def _tell(self, messages: Sequence[Message | None]) -> None:
        for message in messages:
            if message is not None:
                self.told.append(message)
                self._tell([self.memory.settle(message, self.takes, self.now_s)])

    def on(self, alert: Alert = MUTE) -> None:
        self._tell([self.memory.raise_(alert, self.now_s)])

    def off(self, key: str = MUTE.key) -> None:
        self._tell([self.memory.clear(key, self.now_s)])

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self._tell(self.memory.due(self.now_s, last=False))

    @property
    def kinds(self) -> list[str]:
        return [message.kind for message in self.told]


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path / "c.json")


def test_a_reminder_after_a_day(told: Told) -> None:
    told.on()
    for _ in range(49):
        told.wait(REMINDER_S / 48)
        told.on()
    assert told.kinds == ["raised", "reminder"]
    assert "For 24 h 00 min" in told.told[1].text


def test_flapping_is_told_as_such(told: Told) -> None:
    """For five hours on and off by the minute: it began, was over, is back, is over."""
    for _ in range(150):
        told.on()
        told.wait(60)
        told.off()
        told.wait(60)
    assert told.kinds == ["raised", "over", "back"]
    told.wait(QUIET_S)
    assert told.kinds == ["raised", "over", "back", "over"]
    assert "came back 149 times" in told.told[-1].text
    told.wait(QUIET_S)
    told.on()  # forgotten by now
    assert told.kinds[4:] == ["raised"]


def test_once_more_within_ten_minutes_is_not_told(told: Told) -> None:
    told.on()
    told.off()
    told.wait(60)
    told.on()
    told.wait(60)
    told.off()
    told.wait(3 * QUIET_S)
    assert told.kinds == ["raised", "over"]


def test_what_gets_worse_is_news(told: Told) -> None:
    for severity in ("info", "info", "warning", "critical", "warning"):
        told.on(Alert("k", "Lag", "…", severity))
    assert [message.severity for message in told.told] == ["info", "warning", "critical"]


def test_a_summary_an_hour(told: Told) -> None:
    """A storm that never ends costs eleven messages an hour, and its end is told as one."""
    for number in range(60):
        told.on(Alert(f"k{number}", f"Lag {number}", "…", "info"))
        told.wait(60)
    assert len(told.told) == PER_HOUR["info"] + 1
    for number in range(60):
        told.off(f"k{number}")
    told.wait(3600)
    told.wait(3600)
    assert told.kinds.count("summary") in {2, 3}
    assert told.memory.raised == []
    told.wait(2 * QUIET_S)
    assert told.memory.entries == {}


def test_a_summary_that_nobody_took_comes_again(told: Told) -> None:
    for number in range(12):
        told.on(Alert(f"k{number}", f"Lag {number}", "…", "info"))
    told.takes = False
    told.wait(61)
    told.takes = True
    told.wait(RETRY_S)
    assert [one.title for one in told.told[10:]] == ["and 2 more", "and 2 more"]


def test_too_many_keys_are_told_as_that(told: Told) -> None:
    for number in range(2_005):
        told.on(Alert(f"k{number}", "x" * 500, "y" * 5_000, "info"))
    assert len(told.memory.raised) == 2_000
    told.wait(61)
    assert "CRITICAL more than 2,000 alerts at once" in told.told[-1].text
    assert len(told.told[-1].text.encode()) < 6_000


def test_a_clock_that_was_wrong_silences_nothing(told: Told, tmp_path: Path) -> None:
    """Written in 2036; read again with the right time."""
    told.now_s += 10 * 365 * 86_400
    told.on()
    told.memory.save()
    again = Told(tmp_path / "c.json")
    again.memory.load(again.now_s)
    again.on()
    again.wait(REMINDER_S)
    assert again.kinds == ["reminder"]


def test_what_an_earlier_process_left_raised_ends_if_nobody_sees_it_again(told: Told, tmp_path: Path) -> None:
    told.on()
    told.on(Alert("k", "Lag", "…"))
    told.memory.save()
    again = Told(tmp_path / "c.json")
    again.memory.load(again.now_s)
    again.wait(CONFIRM_S - 1)
    again.on()
    assert again.kinds == []
    again.wait(1)
    assert [message.title for message in again.told] == ["Over: Lag"]
    assert again.memory.raised == [MUTE.key]


_STEPS = st.lists(
    st.tuples(st.sampled_from(["on", "off", "wait", "fail", "work", "restart"]), st.integers(0, 12), st.integers(0, 7)),
    max_size=80,
)


@settings(max_examples=200)
@given(_STEPS)
def test_whatever_happens_people_end_up_knowing_the_truth(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    """Never more messages an hour than allowed; when all is quiet, what was told last is what is."""
    path = tmp_path_factory.mktemp("state") / "c.json"
    told = Told(path)
    on = set()
    moments: list[tuple[float, str]] = []
    for step, key, amount in steps:
        before = len(told.told)
        match step:
            case "on":
                told.on(Alert(f"k{key}", f"Alert {key}", "…", "warning"))
                on.add(f"k{key}")
            case "off":
                told.off(f"k{key}")
                on.discard(f"k{key}")
            case "wait":
                told.wait((1.0, 30, 120, 400, 700, 4_000, 20_000, 90_000)[amount])
            case "fail" | "work":
                told.takes = step == "work"
            case "restart":
                told.memory.save()
                told.memory = Memory("c", path)
                told.memory.load(told.now_s)
                for number in sorted(on):  # its owner sees it again
                    told.on(Alert(number, f"Alert {number[1:]}", "…", "warning"))
        moments.extend((told.now_s, message.kind) for message in told.told[before:])
        assert told.memory.raised == sorted(on)
    for now_s, _ in moments:
        hour = [kind for moment, kind in moments if now_s - 3600 < moment <= now_s and kind != "summary"]
        assert len(hour) <= PER_HOUR["warning"]
    told.takes = True
    for _ in range(6):
        told.wait(3_700)
    entries = told.memory.entries
    assert set(entries) == on
    assert all(entry.told == "on" for entry in entries.values())
    assert told.memory._state.held.count == 0


# -- what strangers write


@given(st.text(max_size=300), st.text(max_size=2_000))
def test_hostile_titles_stay_text(title: str, text: str) -> None:
    alert = Alert(title, title, text, "warning", title, title)
    for one in (alert.title, alert.key, alert.feed):
        assert len(one.splitlines()) <= 1
    told = Told(Path("/nowhere"))
    told.on(alert)
    (message,) = told.told
    mail = alert_mail(message)
    assert len(mail.subject.splitlines()) == 1
    assert mail.html.count("<p ") == len(message.text.splitlines())
    assert "<script" not in mail.html
    mail.html.encode(), mail.text.encode()


def test_a_long_text_fits_into_ntfy(made: Made, ntfy: Ntfy) -> None:
    alerter = made({"NTFY_URL": ntfy.url})
    assert alerter.send_now(Alert("k", "🔥\r\nX-Evil: 1\u2028y", "🔥" * 5_000, "info"))
    (got,) = ntfy.got
    assert got["title"] == "🔥 X-Evil: 1 y"
    assert len(got["message"].encode()) <= 4_096
    assert "X-Evil" not in got["headers"]
    assert json.dumps(got["headers"]).isascii()


def test_calls_after_the_end_are_counted(made: Made) -> None:
    alerter = made({})
    alerter.close()
    alerter.raise_(MUTE)
    assert not alerter.send_now(MUTE)
    assert alerter.status()["dropped"] == 2


def test_a_severity_that_there_is_not(made: Any) -> None:
    with pytest.raises(ValueError, match="severity 'fatal' is none of"):
        Alert("k", "t", "x", "fatal")  # type: ignore[arg-type]
