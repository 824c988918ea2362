"""Where messages go that cannot be used: a stream of their own, with the reason, for a person to look at."""

from __future__ import annotations

import contextlib

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError

from ssmd_core.errors import StreamMismatchError
from ssmd_core.messages.headers import MSG_ID, RECV_NS
from ssmd_stream.consumers.pull import Message, PullError
from ssmd_stream.jetstream import STREAM_NOT_FOUND, ApiError, api, covers

log = structlog.get_logger()

STREAM = "DEAD_LETTERS"
PREFIX = "deadletter"
ORIGINAL_ID = "Ssmd-Msg-Id"
MAX_AGE_S = 30 * 24 * 3600
REASON_CHARS = 500
ACK_TIMEOUT_S = 5.0


class DeadLetters:
    """Writes to JetStream stream `DEAD_LETTERS`, subject `deadletter.{consumer}.{original subject}`.

    The payload is the original one, byte for byte. Headers: `Ssmd-Reason`, `Ssmd-Subject`, `Ssmd-Stream`,
    `Ssmd-Stream-Seq`, `Ssmd-Deliveries`; `Ssmd-Recv-Ns` as it was, the original `Nats-Msg-Id` as `Ssmd-Msg-Id`.

    Args:
        client: connected.
        consumer: name of the consumer, second token of the subject.
    """

    def __init__(self, client: Client, consumer: str) -> None:
        self._client = client
        self._consumer = consumer

    async def ensure(self) -> None:
        """Make the stream if there is none, check it if there is one.

        Raises:
            StreamMismatchError: it does not hold the subjects.
            PullError: NATS does not answer, or refused.
        """
        wanted = f"{PREFIX}.>"
        config = {
            "name": STREAM,
            "subjects": [wanted],
            "storage": "file",
            "retention": "limits",
            "max_age": MAX_AGE_S * 1_000_000_000,
            "duplicate_window": 120_000_000_000,
        }
        try:
            try:
                info = await api(self._client, f"STREAM.INFO.{STREAM}")
            except ApiError as error:
                if error.err_code != STREAM_NOT_FOUND:
                    raise
                with contextlib.suppress(ApiError):  # what is wrong shows in the next line
                    await api(self._client, f"STREAM.CREATE.{STREAM}", config)
                info = await api(self._client, f"STREAM.INFO.{STREAM}")
        except (ApiError, NatsError, TimeoutError, OSError) as error:
            raise PullError(f"stream {STREAM}: {error or type(error).__name__}") from error
        subjects = info["config"].get("subjects") or []
        if not any(covers(subject, wanted) for subject in subjects):
            raise StreamMismatchError(f"stream {STREAM} holds {subjects}, not {wanted}")

    async def put(self, message: Message, stream: str, incarnation: str, reason: str) -> None:
        """Store a message; afterwards the original may be acknowledged.

        Args:
            stream, incarnation: where it comes from, and when that stream was made.
            reason: what is wrong with it; cut at 500 characters.

        Raises:
            PullError: not stored.
        """
        plain = reason.encode("ascii", "backslashreplace").decode()
        headers = {
            # Of the original headers only ssmd's own: JetStream would act on those of an atomic batch.
            **{name: value for name, value in message.headers.items() if name == RECV_NS},
            ORIGINAL_ID: message.headers.get(MSG_ID, ""),
            # The same letter, written again after a lost acknowledgement, is stored once.
            MSG_ID: f"{self._consumer}:{stream}:{incarnation}:{message.stream_seq}",
            "Ssmd-Reason": " ".join(plain.split())[:REASON_CHARS],
            "Ssmd-Subject": message.subject,
            "Ssmd-Stream": stream,
            "Ssmd-Stream-Seq": str(message.stream_seq),
            "Ssmd-Deliveries": str(message.deliveries),
        }
        subject = f"{PREFIX}.{self._consumer}.{message.subject}"
        try:
            await self._client.jetstream().publish(subject, message.payload, ACK_TIMEOUT_S, STREAM, headers)
        except (NatsError, TimeoutError, OSError) as error:
            raise PullError(f"dead letter {subject}: {error or type(error).__name__}") from error
        log.error("dead letter", subject=message.subject, stream=stream, seq=message.stream_seq, reason=reason)
