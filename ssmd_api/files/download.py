"""Signed URLs of many files: what `/v1/data/download`, GraphQL and others give out."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

from ssmd_api.auth.access import Principal
from ssmd_api.files import listing
from ssmd_api.files.answers import Download
from ssmd_api.files.resource import life_of
from ssmd_core.feeds import FEEDS
from ssmd_core.storage.layout import Kind

if TYPE_CHECKING:
    from ssmd_api.services import Services

#: What the trees are called in questions and answers.
KINDS = {"parquet": Kind.PARQUET, "raw": Kind.RAW, "proof": Kind.PROOF, "backfill": Kind.BACKFILL}


async def download(
    services: Services,
    principal: Principal,
    feed: str,
    first: date,
    last: date,
    *,
    kind: Kind,
    message_type: str | None,
    stream: str | None,
    life: timedelta,
    base_url: str,
) -> Download:
    """Files between the days, signed; the caller has checked that the key reaches feed and days, and writes it down.

    Args:
        life: of the URLs, at most twelve hours; they end with the key.
        base_url: how the client reaches this API.

    Raises:
        InvalidRequestError: an unknown type or stream, or too many files.
        UnavailableError: a manifest cannot be read, or the object store cannot sign.
    """
    files = services.files
    offers, missing = await listing.files(
        files.offered,
        FEEDS[feed],
        first,
        last,
        services.now,
        kind=kind,
        message_type=message_type,
        stream=stream,
        local=files.local if files.signing_storage is not None else None,
    )
    pairs = [(offer.path, offer.sha256) for offer in offers]
    life = life_of(life, principal, services.now)
    urls, expires_at = await files.sign(pairs, principal.key_prefix, life, base_url)
    for offer, url in zip(offers, urls, strict=True):
        offer.signed_url, offer.expires_at = url, expires_at
    return Download(
        feed=feed,
        stream=stream,
        from_=first,
        to=last,
        type=message_type,
        kind=next(name for name, one in KINDS.items() if one is kind),
        files=offers,
        missing=missing,
        expires_in=int(life.total_seconds()),
    )
