"""`python -m ssmd_stream.capture --feed F --stream S`: a connector as a process."""

from __future__ import annotations

import argparse
import asyncio
import sys

from ssmd_core import logs
from ssmd_core.errors import ConfigError
from ssmd_core.settings import Settings
from ssmd_stream.capture.connector import EXIT_CONFIG, run_connector
from ssmd_stream.capture.options import ConnectorOptions


def main() -> int:
    """Read the command line and run."""
    logs.configure()
    parser = argparse.ArgumentParser(prog="python -m ssmd_stream.capture", description=__doc__)
    parser.add_argument("--feed", required=True)
    parser.add_argument("--stream", required=True)
    parser.add_argument("--url", default="")
    parser.add_argument("--rest-url", default="")
    parser.add_argument("--health-port", type=int)
    parser.add_argument("--instruments", default="", help="comma-separated")
    parser.add_argument("--channels", default="", help="comma-separated")
    parser.add_argument("--transport", choices=("picows", "websockets"), default="")
    arguments = parser.parse_args()
    options = ConnectorOptions(
        feed=arguments.feed,
        stream=arguments.stream,
        url=arguments.url,
        rest_url=arguments.rest_url,
        health_port=arguments.health_port,
        instruments=tuple(filter(None, arguments.instruments.split(","))),
        channels=tuple(filter(None, arguments.channels.split(","))),
        transport=arguments.transport,
    )
    try:
        settings = Settings.from_environment()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    return asyncio.run(run_connector(options, settings))


if __name__ == "__main__":
    sys.exit(main())
