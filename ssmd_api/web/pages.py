"""`/`, and the files of the pages: open to everybody, for what they show needs a key."""

from __future__ import annotations

from typing import Any

from ssmd_api.errors import NotFoundError
from ssmd_api.params import shown
from ssmd_api.routing import Call, Handler, Route
from ssmd_api.web.files import own_file, swagger_file

_OWN = frozenset(
    {
        *(f"page/{name}" for name in ("page.css", "page.js", "dom.js", "calendar.js", "live.js", "icon.svg")),
        *(f"docs/{name}" for name in ("docs.css", "docs.js")),
    }
)
_SWAGGER = frozenset({"docs/swagger-ui.css", "docs/swagger-ui-bundle.js"})
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


async def _page(call: Call) -> Any:
    return own_file("page.html").answer(call.request, policy=_POLICY)


async def _file(call: Call) -> Any:
    path = call.path["path"]
    name = path.rpartition("/")[2]
    if path in _OWN:
        return own_file(name).answer(call.request)
    if path in _SWAGGER:
        return swagger_file(name).answer(call.request, keep=True)
    raise NotFoundError(f"no such file: {shown(path)}")


def page_route(path: str, handler: Handler, summary: str, media_type: str) -> Route:
    """An open route that answers browsers."""
    return Route(
        method="GET", path=path, handler=handler, summary=summary, tag="pages", scope=None, media_type=media_type
    )


ROUTES = (
    page_route("/", _page, "What every feed does now, on one page.", "text/html"),
    page_route("/static/{path:path}", _file, "Scripts and styles of the pages.", "*/*"),
)
