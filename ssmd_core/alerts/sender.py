"""Sends alerts from threads of its own: a daemon's loop is never held up, and a dead channel harms nobody else.

One thread decides (`Memory`, under a lock file that processes share), one thread for each channel sends.
"""

from __future__ import annotations

import fcntl
import os
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog

from ssmd_core.alerts.alert import Alert, Message, clean_key
from ssmd_core.alerts.channels import Channel, ChannelError, channels_of
from ssmd_core.alerts.state import Memory
from ssmd_core.clock import NS_PER_S, Clock
from ssmd_core.settings import Settings

_log = structlog.get_logger(__name__)

#: Calls that wait for the deciding thread; more are dropped and counted (1,000 of them take it some milliseconds).
MAX_WAITING = 10_000
_MAX_QUEUED_MESSAGES = 100
#: Pauses between the three tries of a message.
PAUSES_S = (1.0, 4.0)
_TICK_S = 1.0


@dataclass(slots=True)
class _Call:
    """What a caller asked for: an alert that is on, or a key that is over."""

    alert: Alert | None
    key: str
    answer: Future[bool] | None = None


@dataclass(slots=True)
class _Delivery:
    """A message on its way through all channels."""

    message: Message
    waiting: int
    taken: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(slots=True)
class _Settled:
    message: Message
    taken: bool


class Alerter:
    """Tells people of alerts, each once, until it is cleared.

    Threads start when it is made; make it after a fork. `close` it, or use it in a `with`.

    Args:
        owner: who raises the alerts, e.g. `connector-kraken-spot`; it is named in every message.
        state_file: what has been told; processes that share an owner share it.
        channels: none: alerts are only logged.
        clock: for the moments in messages, and for all waiting between messages.
    """

    def __init__(self, owner: str, state_file: Path, channels: Sequence[Channel], clock: Clock) -> None:
        self._clock = clock
        self._owner = owner
        self._memory = Memory(owner, state_file)
        self._lock_path = state_file.with_name(state_file.name + ".lock")
        self._work: queue.SimpleQueue[_Call | _Settled | None] = queue.SimpleQueue()
        self._waiting = 0
        self._guard = threading.Lock()
        self._closing = threading.Event()
        self._answers: dict[str, list[Future[bool]]] = {}
        self._in_flight = 0
        self._counts = {"sent": 0, "failed": 0, "dropped": 0}
        self._errors: dict[str, str] = {}
        self._raised: list[str] = []
        self._channels = [_Courier(channel, self) for channel in channels]
        self._thread = threading.Thread(target=self._run, name=f"alerts-{owner}", daemon=True)
        self._thread.start()

    @classmethod
    def from_environment(cls, owner: str, settings: Settings, environment: Mapping[str, str] | None = None) -> Alerter:
        """One with the channels of the environment (see `channels_of`) and its state in `{data}/alerts/{owner}.json`.

        Raises:
            ConfigError: a channel is set and cannot be used.
        """
        channels = channels_of(os.environ if environment is None else environment)
        if not channels:
            _log.warning("alerts.no_channel", owner=owner, set="NTFY_URL, or SMTP_HOST and SMTP_TO")
        return cls(owner, settings.data / "alerts" / f"{owner}.json", channels, settings.clock)

    def raise_(self, alert: Alert) -> None:
        """Say that it is on; as often as you like. Neither blocks nor raises."""
        self._put(_Call(alert, alert.key))

    def clear(self, key: str) -> None:
        """Say that it is over. Neither blocks nor raises; a key that is not raised is fine."""
        self._put(_Call(None, clean_key(key)))

    def send_now(self, alert: Alert, timeout_s: float = 30.0) -> bool:
        """Raise it and wait, at most `timeout_s`.

        Returns:
            Whether people have been told, now or before. False: no channel took it yet, or there is none; a later
            `raise_` or `send_now` tries again, at the earliest after five minutes.
        """
        answer: Future[bool] = Future()
        self._put(_Call(alert, alert.key, answer))
        try:
            return answer.result(timeout_s)
        except FutureTimeoutError:
            return False

    def status(self) -> dict[str, Any]:
        """What `/health` says of it. `sent` and `failed` count messages by channel, `dropped` calls and messages."""
        with self._guard:
            return {
                "channels": [courier.name for courier in self._channels],
                **self._counts,
                "raised": list(self._raised),
                "error": "; ".join(error for error in self._errors.values() if error),
            }

    def close(self, timeout_s: float = 5.0) -> None:
        """Send what is under way and end. Blocks for at most `timeout_s`; what is not sent by then is tried again by
        the owner's next process."""
        deadline_s = time.monotonic() + timeout_s
        self._closing.set()
        self._work.put(None)
        self._thread.join(timeout_s)
        for courier in self._channels:
            courier.stop(max(0.0, deadline_s - time.monotonic()))
        if self._thread.is_alive():
            _log.error("alerts.not_all_sent", owner=self._owner, **self.status())

    def __enter__(self) -> Alerter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _put(self, call: _Call) -> None:
        with self._guard:
            full = self._waiting >= MAX_WAITING or self._closing.is_set()
            self._counts["dropped"] += full
            self._waiting += not full
        if not full:
            self._work.put(call)
            return
        _log.error("alerts.call_dropped", owner=self._owner, key=call.key)
        if call.answer is not None:
            call.answer.set_result(False)

    def _run(self) -> None:
        last = False
        while True:
            batch = self._next_batch()
            # Calls that came before `close` are all in the queue, for `_put` looks at the same flag.
            last = self._closing.is_set() and self._work.empty()
            try:
                self._decide(batch, last)
            except Exception as error:
                # Whatever it is (a disk, a file of another's): alerts go on.
                self._note_error(self._owner, f"{type(error).__name__}: {error}")
                _log.exception("alerts.failed", owner=self._owner)
            if last and not self._in_flight and self._work.empty():
                return

    def _next_batch(self) -> list[_Call | _Settled]:
        batch: list[_Call | _Settled] = []
        try:
            first = self._work.get(timeout=_TICK_S)
            while first is not None or not self._work.empty():
                if first is not None:
                    batch.append(first)
                if len(batch) >= 1_000:
                    break
                first = self._work.get_nowait()
        except queue.Empty:
            pass
        calls = sum(isinstance(one, _Call) for one in batch)
        # Whoever raises an alert waits for the guard, so nothing that takes time is done under it.
        with self._guard:
            self._waiting -= calls
        return batch

    def _decide(self, batch: list[_Call | _Settled], last: bool) -> None:
        memory = self._memory
        now_s = self._clock.now_ns() / NS_PER_S
        messages: list[Message | None] = []
        with self._shared():
            self._load(now_s)
            memory.turn_back(now_s)
            for one in batch:
                if isinstance(one, _Settled):
                    self._in_flight -= 1
                    messages.append(memory.settle(one.message, one.taken, now_s))
                elif one.alert is not None:
                    messages.append(memory.raise_(one.alert, now_s))
                else:
                    messages.append(memory.clear(one.key, now_s))
            messages.extend(memory.due(now_s, last=last))
            # Saved before it is sent: after a crash in between it is sent again, five minutes later.
            self._save()
        raised = memory.raised
        with self._guard:
            self._raised = raised
        for message in messages:
            if message is not None:
                self._hand_out(message)
        self._answer(batch)

    def _answer(self, batch: list[_Call | _Settled]) -> None:
        for one in batch:
            if isinstance(one, _Call) and one.answer is not None:
                self._answers.setdefault(one.key, []).append(one.answer)
        for key in [key for key in self._answers if not self._memory.is_asked(key)]:
            for answer in self._answers.pop(key):
                answer.set_result(bool(self._channels) and self._memory.is_told(key))

    def _hand_out(self, message: Message) -> None:
        _log.warning(
            "alert", owner=self._owner, key=message.key, kind=message.kind, severity=message.severity,
            title=message.title, text=message.text,
        )  # fmt: skip
        self._in_flight += 1
        if not self._channels:
            self._work.put(_Settled(message, taken=True))
            return
        delivery = _Delivery(message, len(self._channels))
        for courier in self._channels:
            courier.take(delivery)

    def _ended(self, delivery: _Delivery, channel: str, error: str) -> None:
        """A channel took it, or gave up. Called by the couriers."""
        with delivery.lock:
            delivery.waiting -= 1
            first = not error and not delivery.taken
            delivery.taken = delivery.taken or not error
            settled = first or (not delivery.waiting and not delivery.taken)
        with self._guard:
            self._counts["failed" if error else "sent"] += 1
        self._note_error(channel, error)
        if error:
            _log.error("alerts.not_sent", owner=self._owner, channel=channel, key=delivery.message.key, error=error)
        if settled:
            self._work.put(_Settled(delivery.message, delivery.taken))

    def _note_error(self, where: str, error: str) -> None:
        with self._guard:
            self._errors[where] = error

    def _note_dropped(self) -> None:
        with self._guard:
            self._counts["dropped"] += 1

    def _load(self, now_s: float) -> None:
        try:
            self._memory.load(now_s)
        except OSError as error:
            # What this process knows is the best there is.
            self._state_trouble(error)

    def _save(self) -> None:
        try:
            self._memory.save()
        except OSError as error:
            self._state_trouble(error)
        else:
            self._note_error("state", "")

    def _state_trouble(self, error: OSError) -> None:
        if not self._errors.get("state"):
            _log.error("alerts.state_not_kept", owner=self._owner, error=str(error))
        self._note_error("state", f"state not kept: {error}")

    @contextmanager
    def _shared(self) -> Iterator[None]:
        """The lock that processes of one owner share; without it (a read-only disk) alerts go on."""
        try:
            self._lock_path.parent.mkdir(parents=True, exist_ok=True)
            file = self._lock_path.open("ab")
        except OSError as error:
            self._state_trouble(error)
            yield
            return
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class _Courier:
    """One channel, with its queue and its thread."""

    def __init__(self, channel: Channel, alerter: Alerter) -> None:
        self.name = channel.name
        self._channel = channel
        self._alerter = alerter
        self._queue: queue.Queue[_Delivery | None] = queue.Queue(_MAX_QUEUED_MESSAGES)
        self._thread = threading.Thread(target=self._run, name=f"alerts-{self.name}", daemon=True)
        self._thread.start()

    def take(self, delivery: _Delivery) -> None:
        try:
            self._queue.put_nowait(delivery)
        except queue.Full:
            self._alerter._note_dropped()
            self._alerter._ended(delivery, self.name, f"{self.name}: {_MAX_QUEUED_MESSAGES} messages wait already")

    def stop(self, timeout_s: float) -> None:
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (delivery := self._queue.get()) is not None:
            self._alerter._ended(delivery, self.name, self._send(delivery.message))

    def _send(self, message: Message) -> str:
        """Try three times; gives the last error, "" if it was taken."""
        error = ""
        for pause_s in (*PAUSES_S, 0.0):
            try:
                self._channel.send(message)
            except ChannelError as refused:
                error = str(refused)
                if refused.final:
                    break
            except Exception as unexpected:
                # A channel's fault must not end its thread: the next alert may get through.
                _log.exception("alerts.channel_failed", channel=self.name)
                return f"{type(unexpected).__name__}: {unexpected}"
            else:
                return ""
            time.sleep(pause_s)
        return error
