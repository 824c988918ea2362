"""Whether CDC runs, as those see it who live on its changes.

A feed without changes tells nothing: the tables may be quiet, or CDC dead. But CDC writes its record to JetStream at
least every `RECORD_EVERY_S`, changes or not. Here that record is looked at; a look costs one small request.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError

from ssmd_core.errors import SsmdError
from ssmd_stream import jetstream
from ssmd_stream.cdc.names import RECORD_EVERY_S, STATE_STREAM, STATE_SUBJECTS

log = structlog.get_logger()

LOOK_S = 2.0
LATE_S = RECORD_EVERY_S + LOOK_S + 1.0
SILENT_S = 30.0
_NOT_FOUND = 404


class CdcWatch:
    """Looks at CDC's record again and again.

    Args:
        nats_url: see `jetstream.connect`.
        name: of who watches, for NATS's monitoring and logs.
    """

    def __init__(self, nats_url: str, *, name: str) -> None:
        self._nats_url = nats_url
        self._name = name
        self._heard_s = time.monotonic()
        self._seq = 0
        self._unknown = ""
        self._told = False

    @property
    def silent_s(self) -> float:
        """Seconds since CDC wrote its record; since the start if it never has."""
        return time.monotonic() - self._heard_s

    @property
    def late(self) -> bool:
        """Whether a record is missing: a hint, long before `problem` says so."""
        return self.silent_s > LATE_S

    def problem(self) -> str:
        """Why changes may be missing; "" while CDC has been heard of within `SILENT_S`."""
        silent_s = self.silent_s
        if silent_s <= SILENT_S:
            return ""
        if self._unknown:
            return f"whether CDC runs is not known: {self._unknown}"
        if not self._seq:
            return "CDC has left no record: start `ssmd cdc run`"
        return f"CDC silent for {silent_s:.0f} s: changes do not come until `ssmd cdc run` runs"

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            try:
                client = await jetstream.connect(self._nats_url, name=f"ssmd-{self._name}-cdc-watch", reconnect=False)
                try:
                    while True:
                        await self._look(client)
                        await asyncio.sleep(LOOK_S)
                finally:
                    await jetstream.abort(client)
            except (SsmdError, NatsError, OSError, KeyError, ValueError) as error:
                self._unknown = str(error) or repr(error)
            self._tell()
            await asyncio.sleep(LOOK_S)

    async def _look(self, client: Client) -> None:
        try:
            answer = await jetstream.api(client, f"STREAM.MSG.GET.{STATE_STREAM}", {"last_by_subj": STATE_SUBJECTS})
        except jetstream.ApiError as error:
            if error.code != _NOT_FOUND:
                raise
            self._seq = 0
        else:
            seq = int(answer["message"]["seq"])
            if seq != self._seq:
                # The clocks of two machines differ: they are compared once, from then on only new records count.
                stored_s = datetime.fromisoformat(answer["message"]["time"]).timestamp()
                age_s = 0.0 if self._seq else max(time.time() - stored_s, 0.0)
                self._heard_s, self._seq = time.monotonic() - age_s, seq
        self._unknown = ""
        self._tell()

    def _tell(self) -> None:
        if (problem := self.problem()) and not self._told:
            log.error("cdc_silent", follower=self._name, reason=problem)
        elif self._told and not problem:
            log.info("cdc_runs_again", follower=self._name)
        self._told = bool(problem)
