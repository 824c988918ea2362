"""Files that no manifest names: those of proofs, which ledgers name and these the stream's chain, and backfills."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from ssmd_api.files.answers import MissingHour, Offer, State
from ssmd_api.files.holdings import Holdings
from ssmd_core.archive.manifest import Manifest
from ssmd_core.archive.paths import SLOT_FILE
from ssmd_core.proof.ledger import FILES
from ssmd_core.storage.layout import CHAIN_TYPE, Day, Kind, StoredFile, chain_file, is_data_file

#: Types of a proof's files.
PROOF_TYPES = (*FILES, CHAIN_TYPE)

_Days = Sequence[tuple[str, str]]


async def proof_files(holdings: Holdings, feed: str, days: _Days) -> list[Offer]:
    """What the newest ledgers of the days' hours name, the ledgers, and the whole chain of each stream.

    A chain can only be checked as a whole, so it is given with any of its days.

    Args:
        days: of streams.

    Raises:
        UnavailableError: a chain or a ledger cannot be read.
    """
    offers = []
    for stream in dict.fromkeys(stream for stream, _ in days):
        chain = await holdings.chain(feed, stream)
        if chain is None:
            continue
        for day in (Day(Kind.PROOF, feed, stream, date) for name, date in days if name == stream):
            hours = [hour[-2:] for hour in sorted(chain.ledgers) if hour[:10] == day.date]
            named = await asyncio.gather(*(_hour(holdings, day, hour) for hour in hours))
            sizes = await holdings.sizes(day.folder) if any(named) else {}
            for one in named:
                # Of an hour that is being proved or uploaded now there is nothing to be had but a part.
                if one and one.keys() <= sizes.keys():
                    offers += [_offer(StoredFile(day, name), sizes[name], one[name]) for name in sorted(one)]
        offers.append(_offer(chain_file(feed, stream), chain.bytes, chain.sha256))
    return offers


async def backfill_files(holdings: Holdings, feed: str, days: _Days) -> list[Offer]:
    """Files of trades that were fetched afterwards.

    Raises:
        UnavailableError: one cannot be read.
    """
    offers = []
    for day in (Day(Kind.BACKFILL, feed, stream, date) for stream, date in days):
        names = sorted(name for name in await holdings.sizes(day.folder) if is_data_file(day.kind, name))
        for name in names:
            found = await holdings.backfill(day.file(name))
            if found is not None:
                offers.append(_offer(StoredFile(day, name), found.bytes, found.sha256, found.rows))
    return offers


async def named_sha256(holdings: Holdings, stored: StoredFile) -> str | None:
    """The SHA-256 that such a file must have; None if there is no such file, or no ledger of now names it.

    Raises:
        UnavailableError: what names it cannot be read.
    """
    day, name = stored
    if day.kind is Kind.BACKFILL:
        found = await holdings.backfill(day.file(name))
        return found.sha256 if found else None
    if not day.date:
        chain = await holdings.chain(day.feed, day.stream)
        return chain.sha256 if chain else None
    return (await _hour(holdings, day, stored.hour[:2])).get(name)


async def not_proved(
    holdings: Holdings, feed: str, days: _Days, raws: Sequence[Manifest | None], now: datetime
) -> list[MissingHour]:
    """Ended hours of the days that no ledger is there of.

    Args:
        raws: the archive's manifests of the days.

    Raises:
        UnavailableError: a chain or a ledger cannot be read.
    """
    found = []
    chains = {stream: await holdings.chain(feed, stream) for stream in {stream for stream, _ in days}}
    for (stream, date), raw in zip(days, raws, strict=True):
        archived = {file.name[:2] for file in raw.files if SLOT_FILE.match(file.name)} if raw else set()
        chain, day = chains[stream], Day(Kind.PROOF, feed, stream, date)
        for number in range(24):
            if datetime.fromisoformat(f"{date}T{number:02d}:00+00:00") + timedelta(hours=1) > now:
                break
            hour = f"{number:02d}"
            if chain is None or f"{date}T{hour}" not in chain.ledgers or not await _hour(holdings, day, hour):
                state: State = "not_proved" if hour in archived else "missing"
                found.append(MissingHour(stream, date, f"{hour}00", state))
    return found


async def _hour(holdings: Holdings, day: Day, hour: str) -> Mapping[str, str]:
    """SHA-256 of the files of an hour's proof, by name; none if the ledger that is there is not the newest one."""
    chain = await holdings.chain(day.feed, day.stream)
    newest = chain.ledgers.get(f"{day.date}T{hour}") if chain else None
    if newest is None:
        return {}
    name = f"ledger_{hour}00.json"
    ledger = await holdings.ledger(day.file(name))
    if ledger is None or ledger.sha256 != newest:
        return {}
    folder = f"{day.folder}/"
    names = {path.removeprefix(folder): sha256 for path, sha256 in ledger.outputs.items() if path.startswith(folder)}
    return {name: sha256 for name, sha256 in names.items() if is_data_file(day.kind, name)} | {name: newest}


def _offer(stored: StoredFile, size_bytes: int, sha256: str, rows: int | None = None) -> Offer:
    return Offer(
        path=stored.day.file(stored.name),
        name=stored.name,
        stream=stored.day.stream,
        date=stored.day.date,
        type=stored.type,
        hour=stored.hour,
        bytes=size_bytes,
        sha256=sha256,
        row_count=rows,
    )
