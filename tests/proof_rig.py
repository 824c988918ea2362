"""An installation with one more day, 2026-11-19, of `kraken/spot`: an hour of each word; see `add_day`."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
from api_rig import ApiRig, api_settings
from installation import CLOCK, FRAMES_PER_SLOT, SEED, Installation
from little_archive import LittleArchive
from told_archive import Told

from ssmd_core.clock import NS_PER_S
from ssmd_core.datasets.build import build_hour
from ssmd_core.feeds import get
from ssmd_core.messages.frames import split_frame
from ssmd_core.proof.hour import prove_hour
from ssmd_core.proof.load import load_ledger
from ssmd_core.settings import Settings
from ssmd_stream.replay.generator.frames import generate_frames

COMPLETE = datetime(2026, 11, 19, 8, tzinfo=UTC)
EMPTY = COMPLETE + timedelta(hours=1)
#: Nothing is archived of the hour before; in its third quarter the updates of `BROKEN` are missing.
DEGRADED = COMPLETE + timedelta(hours=3)
BROKEN, WHOLE = "BTC/USD", "ETH/USD"
#: Built and not proved.
NOT_PROVED = COMPLETE + timedelta(hours=4)


def add_day(data: Path, url: str) -> None:
    """Archive, build and prove the day."""
    settings = Settings.from_environment({"SSMD_DATA": str(data), "SSMD_CLOCK": CLOCK})
    told = Told(data / "archive", COMPLETE)
    told.busy_hour()
    told.seal()
    quiet = Told(data / "archive", EMPTY, next_seq=told.next_seq, ordinals=told.ordinals)
    quiet.quiet_hour()
    quiet.seal()
    little = LittleArchive(data / "archive")
    little.next_seq = quiet.next_seq
    for hour in (DEGRADED, NOT_PROVED):
        frames = generate_frames("kraken", 4 * FRAMES_PER_SLOT, seed=SEED, start_ns=int(hour.timestamp()) * NS_PER_S)
        messages = [message for frame in frames for message in split_frame(frame)]
        quarter = len(messages) // 4
        for number in range(4):
            part = messages[number * quarter : (number + 1) * quarter]
            if hour == DEGRADED and number == 2:
                part = [message for message in part if not _is_update(message)]
            little.seal(hour + timedelta(minutes=15 * number), part)
    kraken = get("kraken")
    for hour in (COMPLETE, EMPTY, DEGRADED):
        prove_hour(settings, kraken, "spot", hour)
    build_hour(data / "archive", data / "datasets", kraken, "spot", NOT_PROVED)
    asyncio.run(_load(settings, url))


def _is_update(message: bytes) -> bool:
    found = json.loads(message)
    return bool(found.get("channel") == "book" and found["type"] == "update" and found["data"][0]["symbol"] == BROKEN)


async def _load(settings: Settings, url: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        for hour in (COMPLETE, EMPTY, DEGRADED):
            now = COMPLETE + timedelta(days=1)
            await load_ledger(connection, settings.proof_root, "kraken", "spot", hour, now=now)


@contextmanager
def proved(installation: Installation, folder: Path, name: str) -> Iterator[ApiRig]:
    """A running API on a copy of the installation with the day more."""
    data = folder / "data"
    shutil.copytree(installation.data, data)
    with installation.copy(f"{name}_{os.getpid()}") as url:
        add_day(data, url)
        with ApiRig(api_settings(url, data, SSMD_CLOCK=CLOCK)).running() as rig:
            yield rig
