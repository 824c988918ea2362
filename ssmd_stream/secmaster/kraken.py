"""Kraken spot: AssetPairs into `pairs`. Wire facts: measured on answers of April 2021 and September 2026.

Every listed pair is kept, also one that cannot be traded now: its status says so. Prices stay untouched, because
AssetPairs has none. Tokenised shares (AAPLx/USD) are a listing of their own: AssetPairs shows only currencies unless
it is asked for the class `tokenized_asset`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import structlog

from ssmd_core.db.merge import Sweep, SyncReport, SyncRun
from ssmd_core.db.tables import SYNCED
from ssmd_core.feeds.kraken.names import canonical
from ssmd_stream.secmaster.fields import Census, FieldError, Record, decimal_of, id_of, json_of
from ssmd_stream.secmaster.kraken_names import canonical_of_raw, reject_pair
from ssmd_stream.secmaster.rest import RestClient, RestError
from ssmd_stream.secmaster.sync import Mode, SyncTask

log = structlog.get_logger()

PATH = "/AssetPairs"
PAIRS = SYNCED["pairs"]
COLUMNS = (
    "exchange", "native_id", "base", "quote", "base_raw", "quote_raw", "ws_name", "symbol", "altname", "market_type",
    "status", "venue_status", "lot_decimals", "pair_decimals", "cost_decimals", "tick_size", "order_min", "cost_min",
    "tradeable", "fee_schedule",
)  # fmt: skip
# Of which every pair of 2021 and of 2026 had one; tick_size, costmin, status and cost_decimals came in between.
EXPECTED = (("altname",), ("wsname",), ("base",), ("quote",), ("pair_decimals",), ("lot_decimals",), ("ordermin",))
MAX_FEE_TIERS = 100
# Words of the instrument channel as well; the value says whether a new order could be filled.
STATUSES = {
    "online": True,
    "post_only": True,
    "limit_only": True,
    "reduce_only": True,
    "cancel_only": False,
    "maintenance": False,
    "work_in_progress": False,
    "delisted": False,
}


def pairs_of(document: Any) -> Mapping[str, Any]:
    """The pairs by key from the body of AssetPairs.

    Raises:
        RestError: the body is an error (Kraken answers those with HTTP 200) or not what it should be.
    """
    if isinstance(document, dict) and not document.get("error") and isinstance(document.get("result"), dict):
        result: dict[str, Any] = document["result"]
        return result
    raise RestError(f"GET {PATH}: unexpected answer {str(document)[:200]!r}")


def status_of(word: str | None) -> tuple[str, bool]:
    """Status and whether orders can be filled, by the venue's word.

    No word (AssetPairs of 2021) is active: only what could be traded was listed then. An unknown one is inactive.
    """
    if word is None or word == "online":
        return "active", True
    return (word, STATUSES[word]) if word in STATUSES else ("inactive", False)


def map_pair(key: str, record: Record) -> dict[str, Any]:
    """The columns of one pair, `pair_id` included.

    Raises:
        FieldError: key, base, quote or name is missing or does not fit.
    """
    native_id = id_of(key)
    base_raw, quote_raw = (_required(record, name) for name in ("base", "quote"))
    altname = record.text("altname", chars=64)
    ws_name = record.text("wsname", chars=64)
    sides = (ws_name or "").split("/")
    if len(sides) == 2 and all(sides):
        base, quote = (canonical(side) for side in sides)
    else:
        # Dark pools (XXBTZUSD.d) have no wsname.
        base, quote = canonical_of_raw(base_raw), canonical_of_raw(quote_raw)
    word = record.text("status", chars=32)
    status, tradeable = status_of(word)
    pair_id, ws_name = f"kraken:{native_id}", ws_name or altname or native_id
    symbol = f"{base}/{quote}"
    lengths = (("key", pair_id, 128), ("wsname", ws_name, 64), ("base", base, 32), ("quote", quote, 32))
    for name, value, chars in (*lengths, ("symbol", symbol, 64)):
        if len(value) > chars:
            raise FieldError(f"{name}: {len(value)} characters, more than {chars}")
    return {
        "pair_id": pair_id,
        "exchange": "kraken",
        "native_id": native_id,
        "base": base,
        "quote": quote,
        "base_raw": base_raw,
        "quote_raw": quote_raw,
        "ws_name": ws_name,
        "symbol": symbol,
        "altname": altname,
        "market_type": "spot",
        "status": status,
        "venue_status": word,
        "lot_decimals": record.whole("lot_decimals"),
        "pair_decimals": record.whole("pair_decimals"),
        "cost_decimals": record.whole("cost_decimals"),
        "tick_size": record.decimal("tick_size"),
        "order_min": record.decimal("ordermin"),
        "cost_min": record.decimal("costmin"),
        "tradeable": tradeable,
        "fee_schedule": json_of(fee_tiers(record)),
    }


def fee_tiers(record: Record) -> list[dict[str, Decimal]] | None:
    """Tiers as {volume, taker, maker}: 30-day volume in the fee currency from which on, and percent.

    The arrays were filled in 2021 and are empty on every pair in 2026: then there is no schedule. A tier without a
    maker's fee has the taker's.
    """
    try:
        takers, makers = _tiers(record.raw.get("fees")), dict(_tiers(record.raw.get("fees_maker")))
    except FieldError as error:
        record.problems.append(f"fees: {error}")
        return None
    return [{"volume": volume, "taker": fee, "maker": makers.get(volume, fee)} for volume, fee in takers] or None


def _tiers(value: Any) -> list[tuple[Decimal, Decimal]]:
    if value in (None, ""):
        return []
    if not isinstance(value, list) or len(value) > MAX_FEE_TIERS:
        raise FieldError(f"not an array of at most {MAX_FEE_TIERS} tiers")
    tiers = []
    for tier in value:
        if not isinstance(tier, list) or len(tier) != 2:
            raise FieldError("a tier is not [volume, percent]")
        volume, fee = map(decimal_of, tier)
        if volume is None or fee is None:
            raise FieldError("a tier lacks its volume or its percent")
        tiers.append((volume, fee))
    return tiers


def _required(record: Record, name: str) -> str:
    value = record.text(name, chars=32)
    if value is None:
        raise FieldError(record.problems[-1] if record.problems else f"{name}: is missing")
    return value


async def sync_pairs(rest: RestClient, run: SyncRun, mode: Mode) -> SyncReport:
    """See `Work`. Where the tokenised listing cannot be had (it is refused in some countries), nothing is deleted."""
    del mode
    census, whole = Census(*EXPECTED), True
    asked = run.now()
    listed = pairs_of(await rest.get(PATH))
    if not listed:
        raise RestError(f"GET {PATH}: no pair is listed")
    await _stage(run, listed, census, asked)
    asked = run.now()
    try:
        tokenized = pairs_of(await rest.get(PATH, {"aclass_base": "tokenized_asset"}))
    except RestError as error:
        whole = False
        run.warn("pairs: no listing of tokenised assets, nothing deleted")
        log.warning("kraken_no_tokenized_assets", error=str(error))
    else:
        await _stage(run, tokenized, census, asked)
    census.report(run, "pairs")
    return await run.finish(sweeps=[Sweep(PAIRS, {"exchange": "kraken", "market_type": "spot"})] if whole else [])


async def _stage(run: SyncRun, listed: Mapping[str, Any], census: Census, asked: datetime) -> None:
    rows = []
    for key, raw in listed.items():
        try:
            record = Record(raw)
            row = map_pair(key, record)
        except FieldError as error:
            reject_pair(run, key, error)
            continue
        census.add(record)
        if row["venue_status"] is not None and row["venue_status"] not in STATUSES:
            run.warn(f"pairs: unknown status {row['venue_status']!r} is taken for inactive")
        rows.append([row[name] for name in ("pair_id", *COLUMNS)])
    await run.stage(PAIRS, COLUMNS, rows, asked)


TASKS = (SyncTask("kraken", "pairs", ("pairs",), sync_pairs),)
