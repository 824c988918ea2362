"""The venues' REST interfaces, as far as ssmd asks them. One module per venue, each with `BASE` and `add_routes`.

A listing is cut into pages with `ssmd_stream.replay.rest_faults.page`, so that its faults work everywhere.
"""

from __future__ import annotations

from aiohttp import web

from ssmd_stream.replay.rest_faults import RestFaults
from ssmd_stream.replay.venues_rest import kalshi, kraken, kraken_futures, polymarket
from ssmd_stream.replay.venues_rest.source import RestSource

_VENUES = {"kalshi": kalshi, "kraken": kraken, "kraken-futures": kraken_futures, "polymarket": polymarket}


def rest_app(feed: str, source: RestSource, faults: RestFaults) -> tuple[web.Application, str] | None:
    """The application of a feed and the path of its base; None for feeds that have none."""
    venue = _VENUES.get(feed)
    if venue is None:
        return None
    app = web.Application(middlewares=[faults.middleware(venue.BASE)])
    venue.add_routes(app, source)
    return app, venue.BASE
