"""`python -m ssmd_stream.cdc`: change data capture as a process."""

from __future__ import annotations

import argparse
import asyncio
import sys

from ssmd_core import logs
from ssmd_core.errors import ConfigError
from ssmd_core.settings import Settings
from ssmd_stream.cdc.daemon import EXIT_CONFIG, CdcOptions, run_cdc
from ssmd_stream.cdc.names import SLOT


def main() -> int:
    """Read the command line and run."""
    logs.configure()
    parser = argparse.ArgumentParser(prog="python -m ssmd_stream.cdc", description=__doc__)
    parser.add_argument("--slot", default=SLOT)
    parser.add_argument("--health-port", type=int)
    arguments = parser.parse_args()
    try:
        settings = Settings.from_environment()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    import gc

    gc.set_threshold(50_000, 20, 100)
    return asyncio.run(run_cdc(CdcOptions(slot=arguments.slot, health_port=arguments.health_port), settings))


if __name__ == "__main__":
    sys.exit(main())
