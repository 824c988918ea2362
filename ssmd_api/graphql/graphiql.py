"""`GET /graphql`: a page to write queries on, served from this machine alone.

GraphiQL's own files are those of Dagster's webserver where it is installed; it is found, not imported. Without it
there is a small explorer. The key is typed into the page and stays in its session storage.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from starlette.responses import HTMLResponse, Response

from ssmd_api.errors import NotFoundError
from ssmd_api.routing import Call, Route

_SCRIPTS = (
    "react.production.min.js",
    "react-dom.production.min.js",
    "graphiql.min.js",
    "graphiql-plugin-explorer.umd.js",
)
_STYLES = ("graphiql.min.css", "graphiql-plugin-explorer-style.css")
_OWN = ("page.js", "plain.js", "page.css")
_FOLDER = Path(__file__).with_name("static")
_ASSETS = "/graphql/assets"
_DAY_S = 86_400

#: Inline styles are how the editor places its text; there are no inline scripts.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; font-src 'self' data:; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>GraphiQL, ssmd</title>
<link rel="icon" href="/static/page/icon.svg" type="image/svg+xml">
{styles}
</head>
<body>
<form id="bar" autocomplete="off">
<strong><a href="/">ssmd</a> GraphQL</strong>
<label for="key">API key</label>
<input id="key" type="password" autocomplete="off" spellcheck="false" placeholder="sk_live_…">
<span id="note">kept in this tab only</span>
<a href="/docs">REST</a>
</form>
"""
_GRAPHIQL = """<main id="graphiql">Loading…</main>
{scripts}
</body>
</html>
"""
_PLAIN = """<main id="plain">
<p>A plain explorer: GraphiQL's files, which come with <code>dagster-webserver</code>, are not installed here.</p>
<label for="query">Query</label>
<textarea id="query" rows="14" spellcheck="false">{{ series(ticker: "KXBTC15M") {{ ticker title }} }}</textarea>
<label for="variables">Variables (JSON)</label>
<textarea id="variables" rows="4" spellcheck="false"></textarea>
<p><button id="run" type="button">Run</button> <button id="schema" type="button">Root fields</button></p>
<pre id="answer" aria-live="polite" tabindex="0"></pre>
</main>
{scripts}
</body>
</html>
"""


def library() -> Path | None:
    """Folder with GraphiQL's files, None if they are not installed."""
    found = find_spec("dagster_webserver")
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "graphiql"
    return folder if all((folder / name).is_file() for name in (*_SCRIPTS, *_STYLES)) else None


def page(folder: Path | None) -> str:
    """The page's HTML.

    Args:
        folder: see `library`.
    """
    styles: tuple[str, ...] = ("page.css",)
    scripts: tuple[str, ...] = ("plain.js",)
    body = _PLAIN
    if folder is not None:
        styles, scripts, body = (*_STYLES, *styles), (*_SCRIPTS, "page.js"), _GRAPHIQL
    links = "\n".join(f'<link rel="stylesheet" href="{_ASSETS}/{name}">' for name in styles)
    tags = "\n".join(f'<script src="{_ASSETS}/{name}" defer></script>' for name in scripts)
    return _HEAD.format(styles=links) + body.format(scripts=tags)


async def _page(call: Call) -> Response:
    del call
    return HTMLResponse(_made_page(), headers={"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"})


async def _asset(call: Call) -> Response:
    name = call.path["name"]
    body, tag, media_type = _read(name)
    headers = {"ETag": tag, "Cache-Control": f"public, max-age={_DAY_S}"}
    if tag in call.request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=media_type, headers=headers)


@lru_cache(maxsize=1)
def _made_page() -> str:
    return page(library())


@lru_cache(maxsize=16)
def _read(name: str) -> tuple[bytes, str, str]:
    """An asset of the fixed list: content, ETag, media type."""
    folder = _FOLDER if name in _OWN else library()
    if folder is None or (name not in _OWN and name not in (*_SCRIPTS, *_STYLES)):
        raise NotFoundError("no such file of the page")
    body = (folder / name).read_bytes()
    media_type = "text/css" if name.endswith(".css") else "text/javascript"
    return body, f'"{hashlib.sha256(body).hexdigest()[:16]}"', media_type


def _open(path: str, handler: Any, summary: str, media_type: str, tag: str) -> Route:
    return Route(
        method="GET", path=path, handler=handler, summary=summary, tag=tag, scope=None,
        answer={"type": "string"}, media_type=media_type,
    )  # fmt: skip


ROUTES = (
    _open("/graphql", _page, "A page to write GraphQL queries on.", "text/html", "graphql"),
    _open(f"{_ASSETS}/{{name}}", _asset, "A script or style of that page.", "text/javascript", "pages"),
)
