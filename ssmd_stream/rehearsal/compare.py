"""Compare what a replay server sent with what the archive holds, message by message, in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from ssmd_core.archive.members import iter_lines
from ssmd_core.archive.paths import SLOT_FILE
from ssmd_core.messages.control import is_control
from ssmd_core.messages.frames import split_frame
from ssmd_core.messages.lines import Line, parse_line
from ssmd_stream.replay.sent_log import read_sent_log


@dataclass
class Comparison:
    """What became of the frames that were sent.

    Attributes:
        frames_served: frames the server sent.
        messages_expected: messages in them.
        messages_archived: venue messages in the archive.
        lost: messages sent on a connection that is missing them though later ones of it are archived, or though the
            connector closed it in good order.
        duplicated: messages archived more often than they were sent.
        altered: archived messages that were never sent, or not in this order.
        gap_messages: messages at the end of connections that died with their connector: they were on the socket, or
            read but not yet acknowledged. The archive shows the epoch without its closing event.
        gaps: the epochs concerned.
    """

    frames_served: int = 0
    messages_expected: int = 0
    messages_archived: int = 0
    lost: int = 0
    duplicated: int = 0
    altered: int = 0
    gap_messages: int = 0
    gaps: list[str] = field(default_factory=list)


@dataclass
class _Epoch:
    local_port: int = 0
    closed: bool = False
    messages: list[tuple[int, bytes]] = field(default_factory=list)


def archived_lines(folder: Path) -> Iterator[Line]:
    """Every line of a stream's folder, sealed files only, day by day."""
    for day in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
        for path in sorted(entry for entry in day.iterdir() if SLOT_FILE.match(entry.name)):
            for raw in iter_lines(path):
                yield parse_line(raw)


def compare(sent_log: Path, stream_folder: Path) -> Comparison:
    """Compare one server's log with one stream's archive.

    A server connection and an epoch belong together if the epoch's opening event names the port that the server saw.
    Within an epoch the archived messages must be the sent ones, in order, from the first on.
    """
    result = Comparison()
    epochs = _collect_epochs(archived_lines(stream_folder))
    by_port: dict[int, list[str]] = {}
    for name, epoch in epochs.items():
        by_port.setdefault(epoch.local_port, []).append(name)
    sent: dict[tuple[int, int], list[bytes]] = {}
    for frame in read_sent_log(sent_log):
        result.frames_served += 1
        sent.setdefault((frame.connection, frame.peer_port), []).extend(split_frame(frame.payload))
    matched = set()
    for (_, port), messages in sent.items():
        result.messages_expected += len(messages)
        # The kernel may give a port out again; connections and epochs are both in order of time.
        candidates = by_port.get(port)
        name = candidates.pop(0) if candidates else ""
        epoch = epochs.get(name, _Epoch())
        matched.add(name)
        archived = [payload for _, payload in sorted(epoch.messages)]
        result.messages_archived += len(archived)
        _compare_connection(name or f"port {port}", messages, archived, epoch.closed, result)
    for name, epoch in epochs.items():
        if name not in matched and epoch.messages:
            result.messages_archived += len(epoch.messages)
            result.altered += len(epoch.messages)
    return result


def _compare_connection(name: str, sent: list[bytes], archived: list[bytes], closed: bool, result: Comparison) -> None:
    if archived == sent[: len(archived)]:
        missing = len(sent) - len(archived)
        if not missing:
            return
        if closed:
            result.lost += missing
        else:
            result.gap_messages += missing
            result.gaps.append(f"{name}: {missing} messages sent after its last archived one")
        return
    surplus = Counter(archived) - Counter(sent)
    known = set(sent)
    for message, count in surplus.items():
        if message in known:
            result.duplicated += count
        else:
            result.altered += count
    absent = Counter(sent) - Counter(archived)
    result.lost += absent.total()
    if not surplus and not absent:
        # Every message is there, but not in the order it was sent in.
        result.altered += sum(before != after for before, after in zip(sent, archived, strict=True))


def _collect_epochs(lines: Iterable[Line]) -> dict[str, _Epoch]:
    epochs: dict[str, _Epoch] = {}
    for line in lines:
        epoch = epochs.setdefault(line.epoch, _Epoch())
        if is_control(line.payload):
            event = orjson.loads(line.payload)["ssmd"]
            if event["event"] == "open":
                epoch.local_port = int(str(event.get("local", ":0")).rpartition(":")[2])
            elif event["event"] == "closed":
                epoch.closed = True
        else:
            epoch.messages.append((line.ordinal, line.payload))
    return epochs
