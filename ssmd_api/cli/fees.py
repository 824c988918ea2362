"""`ssmd fees`: Kalshi's fees, now and then."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssmd_api.cli.output import clear_errors, print_json, settings
from ssmd_api.cli.secmaster import JsonOption, LimitOption, print_page
from ssmd_api.cli.tables import moment_of, print_table, with_database
from ssmd_core.errors import ConfigError

if TYPE_CHECKING:
    import psycopg

    from ssmd_core.secmaster.fees import FeeInterval, FeeTerms
    from ssmd_core.secmaster.queries import Page

fees_app = typer.Typer(help="Kalshi's fees, now and at any past moment.", no_args_is_help=True)

AtOption = Annotated[str | None, typer.Option("--as-of", help="In force at this moment; default now.")]
KnownAtOption = Annotated[str | None, typer.Option(help="Leave out what became known after this moment.")]


class Role(StrEnum):
    """Who pays."""

    taker = "taker"
    maker = "maker"


class Rounding(StrEnum):
    """What the fee is rounded up to."""

    cent = "cent"
    centicent = "centicent"
    microdollar = "microdollar"


@fees_app.command("list")
def list_(as_of: AtOption = None, limit: LimitOption = 50, as_json: JsonOption = False) -> None:
    """The fees in force, by series."""
    from ssmd_core.db.connect import now_of
    from ssmd_core.secmaster.queries import fees_in_force

    with clear_errors():
        found = settings()
        moment = moment_of(as_of, "--as-of") or now_of(found.clock)

        async def work(connection: psycopg.AsyncConnection) -> Page:
            return await fees_in_force(connection, moment, limit=limit)

        columns = ("series_ticker", "fee_type", "fee_multiplier", "effective_from", "effective_to", "source_id")
        print_page(with_database(found, work), columns, as_json)


@fees_app.command("show")
def show(series: str, as_of: AtOption = None, known_at: KnownAtOption = None, as_json: JsonOption = False) -> None:
    """All fees that a series has had or will have; the one in force is marked."""
    import msgspec

    from ssmd_core.db.connect import now_of
    from ssmd_core.secmaster.fees import UnknownSeriesError, intervals_of

    with clear_errors():
        found = settings()
        moment = moment_of(as_of, "--as-of") or now_of(found.clock)
        known = moment_of(known_at, "--known-at")

        async def work(connection: psycopg.AsyncConnection) -> list[FeeInterval]:
            return await intervals_of(connection, series, known)

        intervals = sorted(with_database(found, work), key=lambda one: (one.effective_from, one.source_id))
        if not intervals:
            raise UnknownSeriesError(f"no fees of series {series!r} are known")
        rows: list[dict[str, Any]] = [
            {**msgspec.structs.asdict(one), "in_force": one.covers(moment)} for one in intervals
        ]
        if as_json:
            print_json(rows)
        else:
            columns = ("in_force", "fee_type", "fee_multiplier", "effective_from", "effective_to", "source_id")
            print_table(columns, [[row[column] for column in columns] for row in rows])


@fees_app.command("calc")
def calc(
    series: str,
    price: Annotated[str, typer.Option(help="Of one contract, in dollars, e.g. 0.50.")],
    contracts: Annotated[str, typer.Option(help="How many, at most two decimals.")],
    role: Annotated[Role, typer.Option(help="Who pays.")] = Role.taker,
    as_of: AtOption = None,
    event: Annotated[str | None, typer.Option(help="Ticker of the event, which may have fees of its own.")] = None,
    known_at: KnownAtOption = None,
    rounding: Annotated[
        Rounding, typer.Option(help="cent: an order's fee, the old rule; centicent and microdollar: a fill's.")
    ] = Rounding.microdollar,
    flat_dollars: Annotated[
        str | None, typer.Option(help="Dollars per contract from Kalshi's table, for series with flat fees.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What a trade costs, in dollars, by Kalshi's public formula."""
    from ssmd_core.db.connect import now_of
    from ssmd_core.secmaster import fees

    with clear_errors():
        found = settings()
        moment = moment_of(as_of, "--as-of") or now_of(found.clock)
        known = moment_of(known_at, "--known-at")
        amount, count = _number(price, "--price"), _number(contracts, "--contracts")
        flat = None if flat_dollars is None else _number(flat_dollars, "--flat-dollars")

        async def work(connection: psycopg.AsyncConnection) -> FeeTerms:
            return await fees.terms_at(connection, series, moment, event, known_at=known)

        terms = with_database(found, work)
        exact = fees.model_fee(terms, amount, count, role.value, flat_dollars=flat)
        rounded = {
            name: fees.fee_of(terms, amount, count, role.value, quantum=quantum, flat_dollars=flat)
            for name, quantum in fees.ROUNDINGS.items()
        }
        if not as_json:
            whose = f"event {event}" if terms.overridden else f"series {series}"
            typer.echo(
                f"${rounded[rounding]:f}  ({terms.fee_type} × {terms.fee_multiplier:f} of {whose}, "
                f"exactly ${_plain(exact)})"
            )
            return
        print_json(
            {
                "series_ticker": series,
                "event_ticker": event,
                "as_of": moment,
                "role": role.value,
                "price_dollars": amount,
                "contracts": count,
                "fee_type": terms.fee_type,
                "fee_multiplier": terms.fee_multiplier,
                "overridden_by_event": terms.overridden,
                "source_id": terms.interval.source_id,
                "effective_from": terms.interval.effective_from,
                "effective_to": terms.interval.effective_to,
                "model_fee_dollars": _plain(exact),
                "rounding": rounding.value,
                "fee_dollars": rounded[rounding],
                "fee_dollars_by_rounding": rounded,
            }
        )


def _plain(number: Decimal) -> str:
    """All its digits, no exponent, no zeros at the end."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _number(text: str, name: str) -> Decimal:
    """Decimal text, exact."""
    try:
        return Decimal(text)
    except InvalidOperation as error:
        raise ConfigError(f"{name} {text!r} is not a number") from error
