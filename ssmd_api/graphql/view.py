"""`POST /graphql`: one document at a time, and the page that helps to write one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from inspect import isawaitable
from typing import Any

import msgspec
from graphql import ExecutionResult, GraphQLError, execute
from starlette.responses import Response

from ssmd_api.auth.access import ANY_KEY, Scope
from ssmd_api.errors import ApiError, ForbiddenError, InvalidRequestError
from ssmd_api.graphql import graphiql
from ssmd_api.graphql.context import Context
from ssmd_api.graphql.documents import Documents, InvalidDocumentError, Prepared
from ssmd_api.graphql.execution import RowExecution
from ssmd_api.graphql.limits import MAX_BODY_BYTES, Measure
from ssmd_api.graphql.schema import FIELDS, make_schema
from ssmd_api.jsons import camel, encode
from ssmd_api.routing import JSON, Call, Route, as_api_error
from ssmd_core.db.tables import SYNCED

TIMEOUT_S = 10.0
_MAX_MESSAGE_CHARS = 400
_MAX_ERRORS = 20
_FOREVER_S = float("inf")
_TABLES = tuple(SYNCED)
#: Fields whose answer hangs on more than the synced tables: on the time, other tables, files, Dagster.
_UNKEPT = frozenset({"fee", "snapshots"}) | {
    name for declared in FIELDS.values() for name, one in declared.items() if not one.kept
}


class MediaTypeError(ApiError):
    """A body that does not say that it is JSON."""

    status, code = 415, "unsupported_media_type"


class GraphQLRequest(msgspec.Struct, rename="camel"):
    """The body of a request; other members, such as `extensions`, are not looked at."""

    query: str
    operation_name: str | None = None
    variables: dict[str, Any] | None = None

    @property
    def digest(self) -> bytes:
        """What is asked, in 16 bytes: a kept answer's key must not hold 60 kB of a stranger's variables.

        Raises:
            InvalidRequestError: variables within variables, hundreds deep.
        """
        try:
            text = repr((self.query, self.operation_name, self.variables))
        except RecursionError:
            raise InvalidRequestError("variables are nested too deeply", field="variables") from None
        return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@lru_cache(maxsize=1)
def documents() -> Documents:
    """The schema with its prepared documents; the schema takes some 0.1 s to make, so it is made when it is needed."""
    return Documents(make_schema())


async def _post(call: Call) -> Any:
    media_type = call.request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != JSON:
        raise MediaTypeError(f"the body must be {JSON}: an object with query, variables and operationName")
    asked: GraphQLRequest = call.body
    services, principal = call.services, call.principal
    reach = (principal.scopes, principal.feeds, principal.first_day, principal.last_day, services.now.date())
    key = ("graphql", asked.digest, reach)
    if (kept := services.answers.find(key)) is not None:
        return kept
    generation = services.changes.generation(_TABLES)
    try:
        prepared = documents().prepare(asked.query)
        result = await _execute(call, prepared, asked)
    except InvalidDocumentError as refused:
        return _refused(refused.errors, call)
    except GraphQLError as error:
        return _refused([error], call)
    if result.errors:
        return _with_errors(result.data, result.errors, call)
    body = encode({"data": result.data})
    if not prepared.names & _UNKEPT:
        services.answers.keep(key, body, _TABLES, generation, _FOREVER_S)
    return body


async def _execute(call: Call, prepared: Prepared, asked: GraphQLRequest) -> ExecutionResult:
    """Run the operation that is asked for.

    Raises:
        GraphQLError: there is none, or it is too dear with these variables.
        ForbiddenError: the key may not introspect.
    """
    schema = documents().schema
    if prepared.introspects and call.principal.scopes <= {Scope.LLM_CHAT}:
        raise ForbiddenError("a key for chats alone does not introspect")
    operation = prepared.operation(asked.operation_name)
    variables = asked.variables or {}
    if prepared.varies:
        Measure(schema, prepared.document, variables).check(operation)
    context = Context(call.services, call.principal, call.request, call.request_id)
    result = execute(
        schema, prepared.document, context_value=context, variable_values=variables,
        operation_name=asked.operation_name or None,
        execution_context_class=RowExecution,
    )  # fmt: skip
    return await result if isawaitable(result) else result


def _refused(errors: Sequence[GraphQLError], call: Call) -> Response:
    """The answer to what was not executed at all."""
    return _response({"errors": [_shown(error, call) for error in errors]}, 400)


def _with_errors(data: dict[str, Any] | None, errors: Sequence[GraphQLError], call: Call) -> Response:
    """The answer with errors: of the request if there is no data, else of single fields."""
    if data is None:
        return _refused(errors[:_MAX_ERRORS], call)
    shown = [_shown(error, call) for error in errors[:_MAX_ERRORS]]
    refused = {error["path"][0] for error in shown if error["extensions"]["code"] == ForbiddenError.code}
    forbidden = all(name in refused and value is None for name, value in data.items())
    return _response({"data": data, "errors": shown}, 403 if forbidden else 200)


def _shown(error: GraphQLError, call: Call) -> dict[str, Any]:
    """An error as its sender may see it."""
    extensions: dict[str, Any] = {"code": "invalid", "requestId": call.request_id}
    message = error.message
    cause = error.original_error
    while isinstance(cause, GraphQLError):  # what a scalar says of a value is wrapped
        cause = cause.original_error
    if cause is not None and error.path is not None:
        found = cause if isinstance(cause, ApiError) else as_api_error(cause, call)
        message, extensions["code"] = str(found), found.code
        if found.field:
            extensions["field"] = camel(found.field)
    shown: dict[str, Any] = {"message": message[:_MAX_MESSAGE_CHARS]}
    if error.locations:
        shown["locations"] = [{"line": at.line, "column": at.column} for at in error.locations[:_MAX_ERRORS]]
    if error.path:
        shown["path"] = error.path
    return shown | {"extensions": extensions}


def _response(body: dict[str, Any], status: int) -> Response:
    return Response(encode(body), status, media_type=JSON)


_ANSWER = {
    "type": "object",
    "properties": {"data": {"type": ["object", "null"]}, "errors": {"type": "array", "items": {"type": "object"}}},
}
ROUTES = (
    Route(
        method="POST", path="/graphql", handler=_post, tag="graphql", scope=ANY_KEY, timeout_s=TIMEOUT_S,
        summary="Answer one GraphQL document; each root field says which scope it needs.",
        body=GraphQLRequest, max_body_bytes=MAX_BODY_BYTES,
        answer=_ANSWER,
        refusal=_ANSWER | {"required": ["errors"]},
    ),
    *graphiql.ROUTES,
)  # fmt: skip
