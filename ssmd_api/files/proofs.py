"""Files that no manifest names: those of proofs, which ledgers name and these the stream's chain, and backfills."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from ssmd_api.files.answers import MissingHour, Offer, State
from ssmd_api.files.holdings import Chain, Holdings, Listed
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
            hours = [hour for hour in sorted(chain.ledgers) if hour[:10] == day.date]
            listed = await holdings.listed(day.folder) if hours else {}
            for named in await asyncio.gather(*(_hour(holdings, day, hour, chain, listed) for hour in hours)):
                # Of an hour that is being proved or uploaded now there is nothing to be had but a part.
                if named.keys() <= listed.keys():
                    offers += [_offer(StoredFile(day, name), listed[name].bytes, named[name]) for name in sorted(named)]
        offers.append(_offer(chain_file(feed, stream), chain.bytes, chain.sha256))
    return offers


async def backfill_files(holdings: Holdings, feed: str, days: _Days) -> list[Offer]:
    """Files of trades that were fetched afterwards.

    Raises:
        UnavailableError: one cannot be read.
    """
    offers = []
    for day in (Day(Kind.BACKFILL, feed, stream, date) for stream, date in days):
        names = sorted(name for name in await holdings.listed(day.folder) if is_data_file(day.kind, name))
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
    chain = await holdings.chain(day.feed, day.stream)
    if chain is None or not day.date:
        return chain.sha256 if chain else None
    return (await _hour(holdings, day, f"{day.date}T{stored.hour[:2]}", chain, {})).get(name)


def not_proved(
    offers: Sequence[Offer], days: _Days, raws: Sequence[Manifest | None], now: datetime
) -> list[MissingHour]:
    """Ended hours of the days that no ledger is offered of.

    Args:
        offers: of proofs.
        raws: the archive's manifests of the days.
    """
    found = []
    proved = {(offer.stream, offer.date, offer.hour) for offer in offers}
    for (stream, date), raw in zip(days, raws, strict=True):
        archived = {file.name[:2] for file in raw.files if SLOT_FILE.match(file.name)} if raw else set()
        for number in range(24):
            if datetime.fromisoformat(f"{date}T{number:02d}:00+00:00") + timedelta(hours=1) > now:
                break
            hour = f"{number:02d}00"
            if (stream, date, hour) not in proved:
                state: State = "not_proved" if hour[:2] in archived else "missing"
                found.append(MissingHour(stream, date, hour, state))
    return found


async def _hour(
    holdings: Holdings, day: Day, hour: str, chain: Chain, listed: Mapping[str, Listed]
) -> Mapping[str, str]:
    """SHA-256 of the files of an hour's proof, by name; none if the ledger that is there is not the newest one.

    Args:
        hour: as the chain names it.
        listed: what is known of the day's folder.
    """
    newest = chain.ledgers.get(hour)
    name = f"ledger_{hour[-2:]}00.json"
    if newest is None or not is_data_file(day.kind, name):
        return {}
    ledger = await holdings.ledger(day.file(name), listed[name].version if name in listed else "")
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
