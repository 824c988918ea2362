"""The OpenAPI 3.1 document, made from the routes: what a handler checks is what the document says."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import version
from inspect import cleandoc
from typing import Any

import msgspec
import msgspec.inspect

from ssmd_api.auth.access import Scope
from ssmd_api.jsons import camel
from ssmd_api.params import MAX_VALUE_CHARS
from ssmd_api.routing import FeedRule, Route
from ssmd_core.feeds import FEEDS

Document = dict[str, Any]

_ABOUT = (
    "Market data of prediction markets and crypto venues: what was captured, how complete it is, and where the files "
    "are. Send your key as `X-API-Key`, or as `Authorization: Bearer`. Lists are paged by `cursor`; times are ISO 8601 "
    "UTC; exact numbers are text."
)
_REASONS = {
    400: "A parameter or the body cannot be used; `field` says which.",
    401: "No valid key.",
    403: "The key does not reach so far: scope, feed or days.",
    404: "No such thing.",
    413: "The body or the answer is too large.",
    429: "Too many requests; `Retry-After` says when to try again.",
    500: "Something went wrong here; the request id finds it in the log.",
    503: "Something that the answer needs cannot be reached now.",
    504: "The answer was not ready in time; ask for less.",
}
_ERROR = {
    "type": "object",
    "description": "What was refused, and why.",
    "required": ["error", "code", "requestId"],
    "properties": {
        "error": {"type": "string", "description": "for a person"},
        "code": {"type": "string", "description": "one word for a program", "examples": ["invalid", "forbidden"]},
        "requestId": {"type": "string", "description": "as in the header X-Request-Id"},
        "field": {"type": "string", "description": "the parameter or member at fault, where one is"},
    },
}
#: Where a Struct does not say it itself.
_PARAMETERS = {
    "feed": "One feed; without it all that the key reaches.",
    "date": "Day, UTC; without it today.",
    "from": "First day, UTC.",
    "to": "Last day, UTC, inclusive.",
    "as_of": "The moment to tell about, ISO 8601; without a zone it is UTC. Without it now.",
    "limit": "How many at most.",
    "cursor": "`nextCursor` of the page before.",
    "category": "Only this category.",
    "status": "Only this status.",
    "series": "Only of this series.",
    "event": "Only of this event.",
    "tag": "Only with this tag.",
    "type": "Only this message type, in the venue's word.",
    "stream": "Only this stream.",
    "exchange": "Only of this exchange.",
    "market_type": "Only of this type of market.",
    "base": "Only with this base currency.",
    "quote": "Only with this quote currency.",
    "closing_before": "Only those that close before this moment.",
    "closing_after": "Only those that close after this moment.",
}
_PATHS = {
    "ticker": "The ticker, as the venue writes it.",
    "series": "The series' ticker.",
    "pair_id": "`{exchange}:{id of the venue}`.",
    "id": "The venue's id.",
    "prefix": "The public part of the key, up to and including its id.",
    "key": "Name of the setting.",
    "path": "Path as in a signed URL.",
}
_PATH_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
_ATTRIBUTE = re.compile(r" {4}(\w+(?:, \w+)*): (.*)")
_REF = "#/components/schemas/{name}"


def document(routes: Iterable[Route]) -> Document:
    """The document of these routes."""
    routes = [route for route in routes if _is_json(route)]
    structs = {kind: None for route in routes for kind in (route.body, route.answer) if _is_struct(kind)}
    _, components = msgspec.json.schema_components(structs, ref_template=_REF)
    for name, schema in components.items():
        components[name] = _described(schema)
    paths: dict[str, Any] = {}
    for route in routes:
        path = _PATH_PARAMETER.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "ssmd", "version": version("ssmd"), "description": _ABOUT},
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in routes)],
        "paths": paths,
        "components": {
            "schemas": {"Error": _ERROR, **components},
            "responses": {
                **{str(status): _refusal(reason) for status, reason in _REASONS.items()},
                "default": _refusal("Any other refusal."),
            },
            "securitySchemes": {
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _is_json(route: Route) -> bool:
    """Whether a program would ask for it: pages and their files are not in the document."""
    return route.tag != "pages"


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _operation(route: Route) -> Document:
    name = "_".join(part for part in re.split(r"\W+", _PATH_PARAMETER.sub(r"\1", route.path)) if part)
    operation: Document = {
        "operationId": f"{route.method.lower()}_{name}",
        "summary": route.summary,
        "tags": [route.tag],
        "responses": _responses(route),
    }
    if parameters := [*_path_parameters(route), *_query_parameters(route)]:
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _reference(route.body)}},
        }
    if route.scope is None:
        operation["security"] = []
    else:
        scopes = [route.scope.value] if isinstance(route.scope, Scope) else []
        operation["security"] = [{"apiKey": scopes}, {"bearer": scopes}]
        operation["description"] = f"Needs a key with the scope `{scopes[0]}`." if scopes else "Needs a key."
    return operation


def _responses(route: Route) -> Document:
    success: Document = {"description": "Look at `Location`." if route.status // 100 == 3 else "Done."}
    if route.status // 100 == 2 and route.status != 204:
        success["content"] = {route.media_type: {"schema": _reference(route.answer)}}
    refusals = {400, 500}
    if route.scope is not None:
        refusals |= {401, 403, 413, 429, 503, 504}
    if _PATH_PARAMETER.search(route.path):
        refusals.add(404)
    if route.body is not None:
        refusals.add(413)
    names = [*(str(status) for status in sorted(refusals)), "default"]
    found = {str(route.status): success} | {name: {"$ref": f"#/components/responses/{name}"} for name in names}
    if route.refusal is not None:
        either = {"anyOf": [{"$ref": _REF.format(name="Error")}, route.refusal]}
        for status in (400, 403):
            content = {"application/json": {"schema": either}}
            found[str(status)] = {"description": _REASONS[status], "content": content}
    return found


def _refusal(reason: str) -> Document:
    return {"description": reason, "content": {"application/json": {"schema": {"$ref": _REF.format(name="Error")}}}}


def _reference(kind: Any) -> Any:
    """A Struct by name, a schema as it stands, anything where nothing is said."""
    if not _is_struct(kind):
        return kind if kind is not None else {}
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=_REF)
    return schema


def _path_parameters(route: Route) -> list[Document]:
    found = []
    for match in _PATH_PARAMETER.finditer(route.path):
        name = match[1]
        parameter = {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        found.append(parameter | ({"description": _PATHS[name]} if name in _PATHS else {}))
    return found


def _query_parameters(route: Route) -> list[Document]:
    schema = msgspec.json.schema(route.query, ref_template=_REF)
    definition = _described(schema["$defs"][schema["$ref"].rpartition("/")[2]])
    required = definition.get("required", [])
    moments = _moments(route.query)
    found = []
    for name, one in definition["properties"].items():
        kind = _of_text(one, name, route)
        text = kind.pop("description", "") or _PARAMETERS.get(name, "")
        if name in moments:
            kind = {"type": "string", "format": "date-time"}
        parameter: Document = {"name": name, "in": "query", "schema": kind}
        if text:
            parameter["description"] = text
        if name in required:
            parameter["required"] = True
        if parameter["schema"].get("type") == "array":
            parameter |= {"style": "form", "explode": False}
        found.append(parameter)
    return found


def _moments(kind: type[msgspec.Struct]) -> set[str]:
    """Parameters that are moments; msgspec names the format only of those that must have a zone."""
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    found = set()
    for field in info.fields:
        options = field.type.types if isinstance(field.type, msgspec.inspect.UnionType) else (field.type,)
        if any(isinstance(one, msgspec.inspect.DateTimeType) for one in options):
            found.add(field.encode_name)
    return found


def _of_text(schema: Document, name: str, route: Route) -> Document:
    """The schema of a query parameter, which cannot be null and whose text has a greatest length."""
    options = [each for each in schema.pop("anyOf", [schema]) if each.get("type") != "null"]
    found = {**(options[0] if len(options) == 1 else {"anyOf": options}), **schema}
    if found.get("default", ...) is None:
        del found["default"]
    if name == "feed" and route.feeds is FeedRule.PARAM:
        found["enum"] = list(FEEDS)
    elif found.get("type") == "string" and "format" not in found and "enum" not in found:
        found.setdefault("maxLength", MAX_VALUE_CHARS)
    return found


def _described(schema: Document) -> Document:
    """A Struct's schema, with its docstring's `Attributes:` given to the properties."""
    text, _, attributes = cleandoc(schema.pop("description", "")).partition("\n\nAttributes:\n")
    if text:
        schema["description"] = re.sub(r"\s*\n\s*", " ", text)
    for name, about in _attributes(attributes).items():
        for member in (name, camel(name), name.rstrip("_")):
            if member in schema.get("properties", {}):
                schema["properties"][member] = {**schema["properties"][member], "description": about}
    return schema


def _attributes(section: str) -> dict[str, str]:
    """Name -> description, of the lines `name[, name]: text` and those that go on with more indentation."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if match := _ATTRIBUTE.fullmatch(line):
            names = match[1].split(", ")
            found |= dict.fromkeys(names, match[2].strip())
        else:
            found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
    return found
