"""Every route of the security master."""

from __future__ import annotations

from ssmd_api.rest import (
    lookup,
    secmaster_counts,
    secmaster_fees,
    secmaster_history,
    secmaster_kalshi,
    secmaster_venues,
)

#: A literal path stands before a pattern that would take it: `/v1/markets/lookup` before `/v1/markets/{ticker}`.
ROUTES = (
    *lookup.ROUTES,
    *secmaster_counts.ROUTES,
    *secmaster_kalshi.ROUTES,
    *secmaster_venues.ROUTES,
    *secmaster_fees.ROUTES,
    *secmaster_history.ROUTES,
)
