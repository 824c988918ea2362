"""The schema, from the declared root fields."""

from __future__ import annotations

from typing import Any

import graphene
from graphql import GraphQLSchema

from ssmd_api.graphql import dagster, data, keys, proof, secmaster
from ssmd_api.graphql.fields import RootField, as_graphene

#: Every field of Query, with what it needs.
QUERIES: dict[str, RootField] = {**secmaster.FIELDS, **data.FIELDS, **proof.FIELDS, **dagster.FIELDS, **keys.QUERIES}
#: Every field of Mutation.
MUTATIONS: dict[str, RootField] = keys.MUTATIONS
FIELDS = {"Query": QUERIES, "Mutation": MUTATIONS}


def _root(name: str, text: str) -> Any:
    fields = {f"field_{key}": as_graphene(key, one) for key, one in FIELDS[name].items()}
    return type(name, (graphene.ObjectType,), {"__doc__": text, **fields})


def make_schema() -> GraphQLSchema:
    """Made once, when the first request comes or the routes are listed."""
    query = _root("Query", "What may be asked; each field says which scope it needs.")
    made = graphene.Schema(query=query, mutation=_root("Mutation", "What may be changed."))
    schema: GraphQLSchema = made.graphql_schema
    return schema
