"""`ssmd keys`: API keys, on the database itself. It needs no key and no running API, so it makes the first one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ssmd_api.cli.output import clear_errors, print_json, settings
from ssmd_api.cli.tables import duration_of, print_table, with_database
from ssmd_core.errors import ConfigError

if TYPE_CHECKING:
    import psycopg

    from ssmd_api.auth.records import MadeKey, Row

T = TypeVar("T")

keys_app = typer.Typer(help="API keys: make, see, change, rotate and revoke them; what they did.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PrefixArgument = Annotated[str, typer.Argument(metavar="PREFIX", help="Of the key, such as sk_live_Ab3dEf7h.")]
ScopesOption = Annotated[str | None, typer.Option(help="Separated by commas; * for all.")]
FeedsOption = Annotated[str | None, typer.Option(help="Separated by commas; * for all, also for future ones.")]
FromOption = Annotated[str | None, typer.Option(help="First day that the key reaches, YYYY-MM-DD.")]
ToOption = Annotated[str | None, typer.Option(help="Last day that the key reaches, YYYY-MM-DD.")]
TierOption = Annotated[
    str | None, typer.Option(help="Of rate limits: standard, elevated, internal, or a tier of yours.")
]

_SECONDS_PER_HOUR = 3600
# An end from here on is said to be open.
_OPEN_END = date(2099, 1, 1)
#: Days of an admin's key that names none.
_ALL_DAYS = (date(2000, 1, 1), date(2099, 12, 31))


class Environment(StrEnum):
    """Part of the key's text; nothing else depends on it."""

    live = "live"
    test = "test"


#: Members of a key as REST names them -> options of these commands.
_OPTIONS = {
    "userEmail": "--email",
    "allowedFeeds": "--feeds",
    "dateRangeStart": "--date-from",
    "dateRangeEnd": "--date-to",
    "rateLimitTier": "--tier",
    "expiresInHours": "--expires",
}


@contextmanager
def _refusals() -> Iterator[None]:
    """What the caller can mend ends with the exit code for that."""
    from ssmd_api.errors import InvalidRequestError, NotFoundError

    with clear_errors():
        try:
            yield
        except InvalidRequestError as error:
            text = str(error)
            for member, option in _OPTIONS.items():
                text = text.replace(f"{member}: ", f"{option} ")
            raise ConfigError(text) from error
        except NotFoundError as error:
            raise ConfigError(f"{error}; `ssmd keys list --revoked` shows all prefixes") from error


@keys_app.command("create")
def create(
    email: Annotated[str, typer.Option(help="Of who gets the key, and owns it.")],
    feeds: FeedsOption = None,
    date_from: FromOption = None,
    date_to: ToOption = None,
    scopes: ScopesOption = None,
    admin: Annotated[bool, typer.Option("--admin", help="admin:read and admin:write; all feeds and days.")] = False,
    expires: Annotated[str | None, typer.Option(help="After a time such as 720h, the longest; default never.")] = None,
    tier: TierOption = None,
    name: Annotated[str | None, typer.Option(help="What the key is for; default the e-mail address.")] = None,
    environment: Annotated[Environment, typer.Option(help="Part of the key's text.")] = Environment.live,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it, alone on stdout: it cannot be had again."""
    from ssmd_api.auth import records
    from ssmd_api.auth.access import ALL, Scope
    from ssmd_api.auth.tiers import read_tiers
    from ssmd_core.db.connect import now_of

    with _refusals():
        found = settings()
        if not admin and (feeds is None or date_from is None or date_to is None):
            raise ConfigError("--feeds, --date-from and --date-to say what the key reaches; only --admin goes without")
        given = _list(scopes) or ([] if admin else [Scope.DATASETS_READ.value])
        new = records.NewKey(
            name=email if name is None else name,
            scopes=[*given, Scope.ADMIN_READ.value, Scope.ADMIN_WRITE.value] if admin else given,
            allowed_feeds=_list(feeds) or [ALL],
            date_range_start=_day(date_from, "--date-from") or _ALL_DAYS[0],
            date_range_end=_day(date_to, "--date-to") or _ALL_DAYS[1],
            rate_limit_tier=tier or "standard",
            environment="test" if environment is Environment.test else "live",
            user_email=email,
            expires_in_hours=_hours(expires, "--expires"),
        )

        async def work(connection: psycopg.AsyncConnection) -> MadeKey:
            return await records.insert(
                connection, new, records.Owner.of(email), now_of(found.clock),
                tiers=await read_tiers(connection), wildcards=records.WILDCARDS, created_by=None,
            )  # fmt: skip

        _print_made(with_database(found, work), as_json)


@keys_app.command("list")
def list_(
    email: Annotated[str | None, typer.Option(help="Only this owner's.")] = None,
    revoked: Annotated[bool, typer.Option("--revoked", help="Also those that are revoked.")] = False,
    limit: Annotated[int, typer.Option(help="Keys at most; 1,000 is the most.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """Keys, the newest first."""
    from ssmd_api.auth import records

    with _refusals():
        user_email = None if email is None else records.Owner.of(email).user_email

        async def work(connection: psycopg.AsyncConnection) -> tuple[list[Row], str | None]:
            return await records.page(connection, user_email=user_email, revoked=revoked, limit=limit)

        rows, more = with_database(settings(), work)
        if as_json:
            print_json({"keys": rows, "more": more is not None})
            return
        columns = ("prefix", "owner", "name", "scopes", "feeds", "days", "tier", "last used", "expires")
        print_table(columns, [_line(row) for row in rows])
        if more is not None:
            typer.echo(f"the first {len(rows)}; there are more: raise --limit", err=True)


@keys_app.command("show")
def show(prefix: PrefixArgument, as_json: JsonOption = False) -> None:
    """Everything about one key but the key."""
    from ssmd_api.auth import records

    with _refusals():

        async def work(connection: psycopg.AsyncConnection) -> Row:
            return await records.find(connection, prefix)

        _print_row(with_database(settings(), work), as_json)


@keys_app.command("update")
def update(
    prefix: PrefixArgument,
    scopes: ScopesOption = None,
    feeds: FeedsOption = None,
    date_from: FromOption = None,
    date_to: ToOption = None,
    tier: TierOption = None,
    expires: Annotated[str | None, typer.Option(help="After a time from now such as 720h, or never.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Change what a key may; what is not given stays. Running APIs follow at once."""
    from ssmd_api.auth import records
    from ssmd_api.auth.tiers import read_tiers
    from ssmd_core.db.connect import now_of

    with _refusals():
        found = settings()
        given: dict[str, Any] = {
            "scopes": _list(scopes),
            "allowed_feeds": _list(feeds),
            "date_range_start": _day(date_from, "--date-from"),
            "date_range_end": _day(date_to, "--date-to"),
            "rate_limit_tier": tier,
        }
        wanted = records.KeyChange(**{name: value for name, value in given.items() if value is not None})
        if expires is not None:
            wanted.expires_in_hours = None if expires == "never" else _hours(expires, "--expires")

        async def work(connection: psycopg.AsyncConnection) -> Row:
            tiers = await read_tiers(connection)
            return await records.change(
                connection, prefix, wanted, now_of(found.clock), tiers=tiers, wildcards=records.WILDCARDS
            )

        _print_row(_in_transaction(work), as_json)


@keys_app.command("rotate")
def rotate(
    prefix: PrefixArgument,
    overlap: Annotated[str, typer.Option(help="That the old key goes on to work, such as 24h.")] = "24h",
    as_json: JsonOption = False,
) -> None:
    """A new key with the same rights, printed alone on stdout; the old one expires after the overlap."""
    from ssmd_api.auth import records
    from ssmd_core.db.connect import now_of

    with _refusals():
        now, hours = now_of(settings().clock), _hours(overlap, "--overlap")
        assert hours is not None

        async def work(connection: psycopg.AsyncConnection) -> MadeKey:
            return await records.rotate(connection, prefix, now, overlap_hours=hours, created_by=None)

        _print_made(_in_transaction(work), as_json)


@keys_app.command("revoke")
def revoke(prefix: PrefixArgument, as_json: JsonOption = False) -> None:
    """Revoke a key for ever. Running APIs refuse it at once."""
    from ssmd_api.auth import records

    with _refusals():

        async def work(connection: psycopg.AsyncConnection) -> Row:
            return await records.revoke(connection, prefix)

        row = with_database(settings(), work)
        if as_json:
            print_json(row)
        else:
            typer.echo(f"{row['prefix']} of {row['user_email']} is revoked")


@keys_app.command("usage")
def usage(
    days: Annotated[int, typer.Option(min=1, max=90, help="The last ones, today included.")] = 30,
    limit: Annotated[int, typer.Option(help="Keys at most; 1,000 is the most.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """What keys did: requests, refused ones, bytes, model calls and their cost."""
    from ssmd_api.auth.reports import totals
    from ssmd_core.db.connect import now_of

    with _refusals():
        found = settings()

        async def work(connection: psycopg.AsyncConnection) -> list[Row]:
            return await totals(connection, now_of(found.clock).date(), days=days, limit=limit)

        rows = with_database(found, work)
        if as_json:
            print_json({"days": days, "usage": rows})
            return
        columns = ("prefix", "user_email", "requests", "rate_limit_hits", "response_bytes", "llm_requests",
                   "prompt_tokens", "completion_tokens", "cost_usd", "last_used_at")  # fmt: skip
        print_table([column.replace("_", " ") for column in columns], [[row[name] for name in columns] for row in rows])


def _in_transaction(work: Callable[[psycopg.AsyncConnection], Awaitable[T]]) -> T:
    async def whole(connection: psycopg.AsyncConnection) -> T:
        async with connection.transaction():
            return await work(connection)

    return with_database(settings(), whole)


def _print_made(made: MadeKey, as_json: bool) -> None:
    if as_json:
        print_json({"key": made.text, **made.row})
        return
    row = made.row
    typer.echo(
        f"{row['prefix']} of {row['user_email']}: {', '.join(row['scopes'])}; {', '.join(row['allowed_feeds'])}; "
        f"{_days(row)}; {_expiry(row)}. The key, which is shown this once:",
        err=True,
    )
    typer.echo(made.text)


def _print_row(row: Row, as_json: bool) -> None:
    if as_json:
        print_json(row)
    else:
        print_table(("", ""), [pair for pair in row.items() if pair[1] is not None])


def _line(row: Row) -> tuple[Any, ...]:
    return (
        row["prefix"], row["user_email"], row["name"], row["scopes"], row["allowed_feeds"], _days(row),
        row["rate_limit_tier"], row["last_used_at"] or "never",
        "revoked" if row["revoked_at"] is not None else row["expires_at"] or "never",
    )  # fmt: skip


def _days(row: Row) -> str:
    first, last = row["date_range_start"], row["date_range_end"]
    return f"from {first} on" if last >= _OPEN_END else f"{first} to {last}"


def _expiry(row: Row) -> str:
    moment: datetime | None = row["expires_at"]
    return "never expires" if moment is None else f"expires {moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _list(text: str | None) -> list[str] | None:
    return None if text is None else [part for part in (each.strip() for each in text.split(",")) if part]


def _day(text: str | None, name: str) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{name} {text!r} is not a day such as 2026-11-17") from error


def _hours(text: str | None, name: str) -> int | None:
    if (duration := duration_of(text, name)) is None:
        return None
    hours, rest = divmod(round(duration.total_seconds()), _SECONDS_PER_HOUR)
    if rest:
        raise ConfigError(f"{name} {text!r} is not a whole number of hours")
    return hours
