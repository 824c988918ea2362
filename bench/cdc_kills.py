"""`python -m bench.cdc_kills`: CDC is killed 100 times (SIGKILL) while 200,000 changes are committed.

At the end a fold of the stream must be the tables, byte for byte, no id may come twice, and no ordinal may be missing.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from typing import Any

import msgspec

from bench.cdc_rig import CdcRig, cdc_rig
from bench.rig import wait_for
from ssmd_core.db.connect import connect
from ssmd_core.db.values import Column, RowEncoder, text_session
from ssmd_stream import jetstream
from ssmd_stream.cdc.names import STREAM, Position, parse_message_id
from ssmd_stream.cdc.resnapshot import digest

CHANGES = 200_000
KILLS = 100
MARKETS = 2_000
MOST_S = 200.0
_SIZES = (1, 1, 2, 5, 20, 100, 500, 2_000)


class _Event(msgspec.Struct):
    op: str
    key: msgspec.Raw
    data: msgspec.Raw


async def run(changes: int = CHANGES, kills: int = KILLS) -> dict[str, Any]:
    """Do it.

    Returns:
        What was done and what was found; `ok` says whether all held.
    """
    chance = random.Random(20261122)
    start_s = time.monotonic()
    async with cdc_rig(MARKETS) as rig:
        written = 0
        killed = 0

        async def write() -> None:
            nonlocal written
            pause_s = MOST_S * 0.6 * (sum(_SIZES) / len(_SIZES)) / changes
            async with await rig.connect() as connection:
                while written < changes or killed < kills:
                    size = chance.choice(_SIZES)
                    first = chance.randrange(1, MARKETS - size + 2)
                    tickers = [f"KXBTCD-26NOV2217-T{n}.99" for n in range(first, first + size)]
                    query = b"UPDATE markets SET volume = volume + 1, last_price = %s WHERE ticker = ANY (%s)"
                    await connection.execute(query, (chance.randrange(10_000) / 10_000, tickers))
                    written += size
                    await asyncio.sleep(pause_s)

        writer = asyncio.create_task(write())
        while killed < kills and time.monotonic() - start_s < MOST_S:
            process = rig.start()
            before = await rig.last_seq()
            await wait_for(lambda before=before: _grown(rig, before), "something new", 30.0)  # type: ignore[misc]  # mypy cannot type a lambda with a default
            await asyncio.sleep(chance.random() * 0.1)
            process.kill()
            killed += 1
        kills = killed
        await writer
        process = rig.start()
        await wait_for(lambda: _grown(rig, written - 1), "the last change", 60.0)
        await rig.stop(process)
        found = await _check(rig)
    ok = not found["twice"] and not found["holes"] and not found["differing"] and found["events"] == written
    took_s = round(time.monotonic() - start_s, 1)
    return {"changes": written, "kills": kills, **found, "seconds": took_s, "ok": ok}


async def _grown(rig: CdcRig, before: int) -> bool:
    return await rig.last_seq() > before


async def _check(rig: CdcRig) -> dict[str, int]:
    """Read the whole stream, and compare its fold with the table."""
    decoder = msgspec.json.Decoder(_Event)
    rows: dict[bytes, bytes] = {}
    last = Position(0, -1)
    events = twice = holes = 0
    client = await jetstream.connect(rig.nats.url, name="bench")
    async for _, message in jetstream.read_stored(client, STREAM, after_seq=0):
        _, position = parse_message_id((message.headers or {})["Nats-Msg-Id"])
        twice += position <= last
        same = position.commit_lsn == last.commit_lsn
        holes += position.ordinal != (last.ordinal + 1 if same else 0)
        last = position
        event = decoder.decode(message.data)
        rows[bytes(event.key)] = digest(bytes(event.data))
        events += 1
    await client.close()
    connection = await connect(rig.postgres.url, name="bench")
    await text_session(connection)
    cursor = await connection.execute("SELECT * FROM markets")
    description = cursor.description or []
    encoder = RowEncoder.of(description)
    key = RowEncoder([Column("ticker", 1043)])
    differing = 0
    for row in await cursor.fetchall():
        state = rows.pop(key.row(row[:1]), None)
        differing += state is not None and state != digest(encoder.row(row))
    await connection.close()
    return {"events": events, "twice": twice, "holes": holes, "differing": differing + len(rows)}


def main() -> int:
    """Print the result; 0 if all held."""
    parser = argparse.ArgumentParser(prog="python -m bench.cdc_kills", description=__doc__)
    parser.add_argument("--changes", type=int, default=CHANGES)
    parser.add_argument("--kills", type=int, default=KILLS)
    arguments = parser.parse_args()
    result = asyncio.run(run(arguments.changes, arguments.kills))
    print(" ".join(f"{name}={value}" for name, value in result.items()))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
