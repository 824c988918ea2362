"""`python -m ssmd_stream.archive FEED/STREAM …`: an archiver as a process."""

from __future__ import annotations

import argparse
import asyncio
import sys

from ssmd_core import feeds, logs
from ssmd_core.errors import ConfigError
from ssmd_core.feeds.subjects import StreamName
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
        names = [parse_stream(text, settings.env) for text in arguments.streams]
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    return asyncio.run(run_archiver(ArchiverOptions(names, health_port=arguments.health_port), settings))


def parse_stream(text: str, env: str) -> StreamName:
    """`FEED/STREAM` as a stream of the environment.

    Raises:
        ConfigError: not of this form, or no such feed.
    """
    feed_name, separator, stream = text.partition("/")
    if not separator:
        raise ConfigError(f"{text!r} is not FEED/STREAM, e.g. kraken/spot")
    return StreamName(env, feeds.get(feed_name), stream)


if __name__ == "__main__":
    sys.exit(main())
