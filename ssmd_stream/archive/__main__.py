"""`python -m ssmd_stream.archive FEED/STREAM …`: an archiver as a process."""

from __future__ import annotations

import argparse
import asyncio
import sys

from ssmd_core import feeds, logs
from ssmd_core.errors import ConfigError
from ssmd_core.settings import Settings
from ssmd_stream.archive.daemon import EXIT_CONFIG, ArchiverOptions, run_archiver


def main() -> int:
    """Read the command line and run."""
    logs.configure()
    parser = argparse.ArgumentParser(prog="python -m ssmd_stream.archive", description=__doc__)
    parser.add_argument("streams", nargs="+", metavar="FEED/STREAM")
    parser.add_argument("--health-port", type=int)
    arguments = parser.parse_args()
    try:
        settings = Settings.from_environment()
        names = [feeds.parse_stream(text, settings.env) for text in arguments.streams]
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    return asyncio.run(run_archiver(ArchiverOptions(names, health_port=arguments.health_port), settings))


if __name__ == "__main__":
    sys.exit(main())
