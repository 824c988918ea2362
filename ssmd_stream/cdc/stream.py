"""The stream of changes and the small one beside it, which keeps on record how far Postgres was told to forget."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import msgspec
import structlog
from nats.aio.client import Client

from ssmd_core.clock import NS_PER_S
from ssmd_core.errors import PublishError, StreamMismatchError
from ssmd_stream.cdc.names import MAX_AGE_S, SLOT, STATE_STREAM, STATE_SUBJECTS, STREAM, SUBJECTS
from ssmd_stream.jetstream import STREAM_NOT_FOUND, ApiError, api, covers

log = structlog.get_logger()

DUPLICATE_WINDOW_S = 120.0
_NO_MESSAGE = 10037
_MIN_PAYLOAD_BYTES = 1024 * 1024

_COMMON: dict[str, Any] = {"retention": "limits", "storage": "file", "discard": "old", "num_replicas": 1}
_CHANGES: dict[str, Any] = _COMMON | {
    "name": STREAM,
    "subjects": [SUBJECTS],
    "max_age": int(MAX_AGE_S) * NS_PER_S,
    "duplicate_window": int(DUPLICATE_WINDOW_S) * NS_PER_S,
    "allow_direct": True,
    "allow_atomic": True,
}
_STATE: dict[str, Any] = _COMMON | {"name": STATE_STREAM, "subjects": [STATE_SUBJECTS], "max_msgs_per_subject": 1}


class Record(msgspec.Struct, frozen=True):
    """What CDC has on record of its slot, in JetStream and not in Postgres: the two are compared at every start.

    Attributes:
        phase: `creating` before the slot is made for the first time, `resnapshot` while one is under way or due.
        slot: its name.
        system_id: of the Postgres cluster.
        stream_created: when the stream was made.
        from_seq: the stream's last sequence when the slot was made: nothing up to it came through this slot.
        lsn: all that was committed before it is in the stream; Postgres may have been told so, but of nothing more.
        seq: the stream's last sequence when this was written.
        commit_lsn, ordinal: of the event at `seq`; ordinal -1 if no event has come through this slot yet.
        at: when it was written, UTC; `write_record` sets it. While CDC streams it is written anew at least every
            `names.RECORD_EVERY_S`, also when nothing changed: if it is much older, CDC is dead and not merely quiet.
        known_at: every change committed before it is in the stream; None if that is not known of any time.
        publication: what was published when the slot was made (`slot.Server.publication`).
    """

    phase: Literal["creating", "running", "resnapshot"]
    slot: str
    system_id: str
    stream_created: str
    from_seq: int
    lsn: str = "0/0"
    seq: int = 0
    commit_lsn: str = "0/0"
    ordinal: int = -1
    at: datetime | None = None
    known_at: datetime | None = None
    publication: str = ""


class _Committed(msgspec.Struct):
    commit_ts: str = ""


class Tail(NamedTuple):
    """The end of the stream.

    Attributes:
        created: when the stream was made.
        first_seq, last_seq: of the stream.
        last_id: `Nats-Msg-Id` of the message at `last_seq`, "" if it has none; None if the message is gone.
        last_commit_ts: when its change was committed, as it says; "" if it does not, or is gone.
    """

    created: str
    first_seq: int
    last_seq: int
    last_id: str | None
    last_commit_ts: str = ""


async def ensure_streams(nc: Client) -> None:
    """Make both streams where they are absent, check them where they are present.

    Raises:
        StreamMismatchError: one of them is not what CDC needs; says what differs.
        PublishError: the server cannot publish atomically (before 2.12), or takes too small messages.
        ApiError, NatsError: no answer, or another one than expected.
    """
    if nc.max_payload < _MIN_PAYLOAD_BYTES:
        raise PublishError(f"nats-server allows max_payload {nc.max_payload} bytes, CDC needs {_MIN_PAYLOAD_BYTES}")
    config = await _ensure(nc, _CHANGES)
    if not config.get("allow_atomic"):
        config = (await api(nc, f"STREAM.UPDATE.{STREAM}", {**config, "allow_atomic": True}))["config"]
    if not config.get("allow_atomic"):
        raise PublishError(f"nats-server {nc.connected_server_version} has no atomic batches: 2.12 or later is needed")
    await _ensure(nc, _STATE)


async def _ensure(nc: Client, wanted: dict[str, Any]) -> dict[str, Any]:
    name, subjects = wanted["name"], wanted["subjects"][0]
    try:
        info = await api(nc, f"STREAM.INFO.{name}")
    except ApiError as error:
        if error.err_code != STREAM_NOT_FOUND:
            raise
        log.info("stream_made", stream=name, subjects=subjects)
        try:
            info = await api(nc, f"STREAM.CREATE.{name}", wanted)
        except ApiError as refusal:
            raise StreamMismatchError(f"stream {name} on {subjects}: {refusal}") from refusal
    config: dict[str, Any] = info["config"]
    found = []
    if not any(covers(subject, subjects) for subject in config.get("subjects") or []):
        found.append(f"subjects {config.get('subjects')} do not cover {subjects}")
    for key in ("storage", "retention"):
        if config.get(key) != wanted[key]:
            found.append(f"{key} is {config.get(key)!r}, not {wanted[key]!r}")
    for key in ("sealed", "no_ack"):
        if config.get(key):
            found.append(f"{key} is on")
    if config.get("persist_mode") == "async":
        found.append("persist_mode is 'async': acknowledgements would come before the disk")
    if found:
        raise StreamMismatchError(f"stream {name}: {'; '.join(found)}")
    return config


async def read_tail(nc: Client) -> Tail:
    """The end of the stream of changes.

    Raises:
        ApiError, NatsError: see `jetstream.api`.
    """
    info = await api(nc, f"STREAM.INFO.{STREAM}")
    state = info["state"]
    tail = Tail(info["created"], state["first_seq"], state["last_seq"], None)
    if not tail.last_seq:
        return tail
    message = await _message(nc, STREAM, {"seq": tail.last_seq})
    if message is None:
        return tail
    headers = base64.b64decode(message.get("hdrs") or "").decode(errors="replace")
    ids = [line.partition(":")[2].strip() for line in headers.split("\r\n") if line.startswith("Nats-Msg-Id:")]
    try:
        committed = msgspec.json.decode(base64.b64decode(message.get("data") or ""), type=_Committed)
    except msgspec.DecodeError:  # a stranger's: the id tells
        committed = _Committed()
    return tail._replace(last_id=ids[0] if ids else "", last_commit_ts=committed.commit_ts)


async def read_record(nc: Client, slot: str = SLOT) -> Record | None:
    """What is on record of a slot; None if nothing is. `Record.at` tells whether CDC is alive.

    Raises:
        StreamMismatchError: what is there is not a record.
        ApiError, NatsError: see `jetstream.api`.
    """
    message = await _message(nc, STATE_STREAM, {"last_by_subj": _state_subject(slot)})
    if message is None:
        return None
    data = base64.b64decode(message.get("data") or "")
    try:
        return msgspec.json.decode(data, type=Record)
    except msgspec.DecodeError as error:
        raise StreamMismatchError(f"{STATE_STREAM} holds for {slot}: {data[:200]!r}: {error}") from error


async def write_record(nc: Client, record: Record) -> Record:
    """Put on record, durably: JetStream has answered when this returns.

    Returns:
        What is on record: the same, written now.

    Raises:
        ApiError, NatsError: it may or may not be on record.
    """
    record = msgspec.structs.replace(record, at=datetime.now(UTC))
    answer = await nc.request(_state_subject(record.slot), msgspec.json.encode(record), timeout=5.0)
    body = msgspec.json.decode(answer.data)
    if error := body.get("error"):
        raise ApiError(STATE_STREAM, error.get("code", 0), error.get("err_code", 0), error.get("description", ""))
    return record


def _state_subject(slot: str) -> str:
    return STATE_SUBJECTS.replace(">", slot)


async def _message(nc: Client, stream: str, which: dict[str, Any]) -> dict[str, Any] | None:
    try:
        answer = await api(nc, f"STREAM.MSG.GET.{stream}", which)
    except ApiError as error:
        if error.err_code == _NO_MESSAGE:
            return None
        raise
    message: dict[str, Any] = answer["message"]
    return message
