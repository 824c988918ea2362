"""The GraphQL service that one would write with starlette-graphene: the same question on the same table.

`DATABASE_URL=… python -m bench.api_alternative PORT`. A pool of psycopg, uvicorn with httptools and uvloop as ours;
without keys, limits, scopes and audit, which speaks for it.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import graphene
import uvicorn
import uvloop
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette_graphene import GraphQLApp


class Market(graphene.ObjectType):  # type: ignore[misc]  # graphene has no types
    """The columns that are asked for."""

    ticker = graphene.String()
    title = graphene.String()
    status = graphene.String()
    yes_bid = graphene.String()
    yes_ask = graphene.String()


class Query(graphene.ObjectType):  # type: ignore[misc]  # graphene has no types
    """One market by its ticker."""

    market = graphene.Field(Market, ticker=graphene.String(required=True))

    @staticmethod
    async def resolve_market(_root: object, info: Any, ticker: str) -> dict[str, Any] | None:
        """The row."""
        async with info.context["pool"].connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute("SELECT * FROM markets WHERE ticker = %s AND deleted_at IS NULL", (ticker,))
            row: dict[str, Any] | None = await cursor.fetchone()
            return row


async def serve(database_url: str, port: int) -> None:
    """Until it is ended."""
    async with AsyncConnectionPool(database_url, min_size=8, max_size=8, kwargs={"autocommit": True}) as pool:
        app = Starlette(
            routes=[Mount("/graphql", GraphQLApp(graphene.Schema(query=Query), context_value={"pool": pool}))]
        )
        config = uvicorn.Config(app, port=port, http="httptools", log_config=None, access_log=False, lifespan="off")
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    uvloop.run(serve(os.environ["DATABASE_URL"], int(sys.argv[1])))
