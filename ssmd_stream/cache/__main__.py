"""`python -m ssmd_stream.cache`: the cache as a process."""

from __future__ import annotations

import argparse
import asyncio
import sys

from ssmd_core import logs
from ssmd_core.errors import ConfigError
from ssmd_core.settings import Settings
from ssmd_stream.cache.daemon import EXIT_CONFIG, CacheOptions, run_cache


def main() -> int:
    """Read the command line and run."""
    logs.configure()
    parser = argparse.ArgumentParser(prog="python -m ssmd_stream.cache", description=__doc__)
    parser.add_argument("--health-port", type=int)
    arguments = parser.parse_args()
    try:
        settings = Settings.from_environment()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    return asyncio.run(run_cache(CacheOptions(health_port=arguments.health_port), settings))


if __name__ == "__main__":
    sys.exit(main())
