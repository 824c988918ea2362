"""`python -m ssmd_stream.consumers {lifecycle,funding-rates} FEED/STREAM …`: a consumer as a process."""

from __future__ import annotations

import argparse
import asyncio
import sys

from ssmd_core import feeds, logs
from ssmd_core.errors import ConfigError
from ssmd_core.settings import Settings
from ssmd_stream.consumers.funding_daemon import INTERVAL_S, run_funding_rates
from ssmd_stream.consumers.lifecycle_daemon import run_lifecycle
from ssmd_stream.consumers.service import EXIT_CONFIG, HealthPort


def main() -> int:
    """Read the command line and run."""
    logs.configure()
    parser = argparse.ArgumentParser(prog="python -m ssmd_stream.consumers", description=__doc__)
    consumers = parser.add_subparsers(dest="consumer", required=True)
    lifecycle = consumers.add_parser("lifecycle")
    funding = consumers.add_parser("funding-rates")
    funding.add_argument("--interval-s", type=float, default=INTERVAL_S)
    for each in (lifecycle, funding):
        each.add_argument("streams", nargs="+", metavar="FEED/STREAM")
        each.add_argument("--health-port", type=int)
    arguments = parser.parse_args()
    where = HealthPort(port=arguments.health_port)
    try:
        settings = Settings.from_environment()
        names = [feeds.parse_stream(text, settings.env) for text in arguments.streams]
        if arguments.consumer == "lifecycle":
            return asyncio.run(run_lifecycle(names, settings, where))
        return asyncio.run(run_funding_rates(names, settings, where, interval_s=arguments.interval_s))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG


if __name__ == "__main__":
    sys.exit(main())
