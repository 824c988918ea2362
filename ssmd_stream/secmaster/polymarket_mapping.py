"""What Gamma's event and market objects mean.

Wire facts: Gamma's API reference, 2026, and measured on 292 of its markets and on events from 2020 to 2026.

A market is a condition with a token per outcome; token, outcome and price belong together by their place in three
arrays, which Gamma writes as JSON inside of text. Tags and, since 2025, categories stand on the event only.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from ssmd_core.secmaster.status import polymarket_status
from ssmd_stream.secmaster.fields import FieldError, Record, decimal_of, id_of, text_of

CONDITION_COLUMNS = (
    "market_id", "event_id", "question", "slug", "category", "tags", "outcomes", "status", "active", "closed",
    "accepting_orders", "neg_risk", "start_date", "end_date", "resolution_date", "winning_outcome", "volume",
    "liquidity", "tick_size", "min_order_size", "venue_updated_at",
)  # fmt: skip
# Bid, ask and volume of a token come from elsewhere and stay as they are.
TOKEN_COLUMNS = ("condition_id", "outcome", "outcome_index", "winner", "price")
# Of which each of 292 measured markets had one.
EXPECTED = (
    ("conditionId",), ("question",), ("outcomes",), ("outcomePrices",), ("clobTokenIds",), ("active",), ("closed",),
    ("acceptingOrders",), ("negRisk",), ("orderMinSize",), ("orderPriceMinTickSize",), ("updatedAt",),
)  # fmt: skip
EVENT_EXPECTED = (("id",), ("title",), ("tags",), ("markets",))

CATEGORIES = (
    "Crypto", "Sports", "Politics", "Science & Tech", "Finance", "Business", "Pop Culture", "Entertainment",
)  # fmt: skip
MAX_TAGS = 200
# Resolved markets say 1 and 0, some 0.9999… and 0.0000…; no tick is finer than 0.0001, so no order can be at those.
WINNER_PRICE = Decimal("0.9999")
_BINARY = ("Yes", "No")


class Event(NamedTuple):
    """What a market takes from its event.

    Attributes:
        tags: slugs, lower case, in the event's order.
        category: see `category_of`.
    """

    event_id: str | None
    title: str | None
    tags: list[str]
    category: str | None
    neg_risk: bool | None


class Market(NamedTuple):
    """A market as rows.

    Attributes:
        condition: `condition_id` and `CONDITION_COLUMNS`.
        tokens: each `token_id` and `TOKEN_COLUMNS`.
        no_tokens: why there are none though the market names some, "" if there are, or if it names none.
    """

    condition: dict[str, Any]
    tokens: list[dict[str, Any]]
    no_tokens: str


def map_event(record: Record) -> Event:
    """The event's own facts; nothing of it is needed to take its markets."""
    tags, labels = [], []
    raw_tags = record.raw.get("tags")
    if raw_tags is not None and (not isinstance(raw_tags, list) or len(raw_tags) > MAX_TAGS):
        record.problems.append(f"tags: not an array of at most {MAX_TAGS} tags")
        raw_tags = None
    for tag in raw_tags or ():
        try:
            slug, label = (text_of(Record(tag).raw.get(name), 128) for name in ("slug", "label"))
        except FieldError as error:
            record.problems.append(f"tags: {error}")
            continue
        tags += [slug.lower()] if slug else []
        labels += [label] if label else []
    return Event(
        record.optional_id("id"), record.text("title"), list(dict.fromkeys(tags)), category_of(labels),
        record.flag("negRisk"),
    )  # fmt: skip


def category_of(labels: Sequence[str]) -> str | None:
    """The most telling of the tags' labels: the first of `CATEGORIES` among them, else the first label."""
    by_name = {label.casefold(): label for label in reversed(labels)}
    known = (category for category in CATEGORIES if category.casefold() in by_name)
    return next(known, labels[0] if labels else None)


def winner_of(closed: bool, prices: Sequence[Decimal | None]) -> int | None:
    """Place of the outcome that won.

    None while the market is open (0.9995 is a price then), and for the closed ones that nobody won: 0.5 each, a
    scalar's 0.58 and 0.42, the 0 and 0 of 2020.
    """
    if not closed or not all(price is not None and 0 <= price <= 1 for price in prices):
        return None
    winners = [index for index, price in enumerate(prices) if price is not None and price >= WINNER_PRICE]
    losers = [price for price in prices if price is not None and price <= 1 - WINNER_PRICE]
    return winners[0] if len(winners) == 1 and len(losers) == len(prices) - 1 else None


def map_market(record: Record, event: Event) -> Market:
    """The rows of one market.

    A market without tokens (some legacy ones) is kept as a condition. One without `conditionId` is not taken:
    `questionID` stands in none of the venue's messages, and nothing could be joined to it.

    Raises:
        FieldError: no usable `conditionId`.
    """
    condition_id = record.id("conditionId")
    active, closed = record.flag("active"), record.flag("closed") is True
    accepting_orders, neg_risk = record.flag("acceptingOrders"), record.flag("negRisk")
    outcomes, token_ids = record.strings("outcomes", chars=256), record.strings("clobTokenIds")
    prices = _prices(record)
    names = outcomes or (_BINARY if len(token_ids) == 2 and "outcomes" not in _unreadable(record) else ())
    winner = winner_of(closed, prices) if len(prices) == len(names) else None
    slug = record.text("slug", chars=256)
    condition = {
        "condition_id": condition_id,
        "market_id": record.optional_id("id"),
        "event_id": event.event_id,
        "question": record.text("question") or event.title or slug or condition_id,
        "slug": slug,
        "category": event.category or record.text("category", chars=128),
        "tags": event.tags,
        "outcomes": outcomes,
        "status": polymarket_status(
            active=active, closed=closed, accepting_orders=accepting_orders, winner=winner is not None
        ),
        "active": active is not False,
        "closed": closed,
        "accepting_orders": accepting_orders,
        "neg_risk": event.neg_risk if neg_risk is None else neg_risk,
        "start_date": record.moment("startDate", "startDateIso"),
        "end_date": record.moment("endDate", "endDateIso"),
        "resolution_date": record.moment(*(("closedTime", "umaEndDate") if closed else ()), "resolutionDate"),
        "winning_outcome": names[winner] if winner is not None else None,
        "volume": record.decimal("volume", "volumeNum"),
        "liquidity": record.decimal("liquidity", "liquidityNum"),
        "tick_size": record.decimal("orderPriceMinTickSize"),
        "min_order_size": record.decimal("orderMinSize"),
        "venue_updated_at": record.moment("updatedAt"),
    }
    no_tokens = _why_not(token_ids, names)
    if no_tokens:
        return Market(condition, [], no_tokens)
    tokens = [
        {
            "token_id": token_id,
            "condition_id": condition_id,
            "outcome": names[index],
            "outcome_index": index,
            "winner": None if winner is None else index == winner,
            "price": prices[index] if len(prices) == len(token_ids) else None,
        }
        for index, token_id in enumerate(token_ids)
    ]
    return Market(condition, tokens, "")


def _why_not(token_ids: Sequence[str], names: Sequence[str]) -> str:
    """Why these tokens cannot be taken, "" if they can."""
    if not token_ids:
        return ""
    if len(set(token_ids)) != len(token_ids):
        return "clobTokenIds: a token stands there twice"
    if len(token_ids) != len(names):
        return f"clobTokenIds: {len(token_ids)} tokens for {len(names)} outcomes"
    for token_id in token_ids:
        try:
            id_of(token_id)
        except FieldError as error:
            return f"clobTokenIds: {error}"
        # 256-bit numbers in decimal; other text would reach the WebSocket's subscriptions.
        if not (token_id.isascii() and token_id.isdigit()):
            return f"clobTokenIds: {token_id[:40]!r} is not a number"
    return ""


def _prices(record: Record) -> list[Decimal | None]:
    try:
        return [decimal_of(text) for text in record.strings("outcomePrices")]
    except FieldError as error:
        record.problems.append(f"outcomePrices: {error}")
        return []


def _unreadable(record: Record) -> set[str]:
    return {problem.partition(":")[0] for problem in record.problems}
