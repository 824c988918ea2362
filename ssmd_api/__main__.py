"""`python -m ssmd_api`: what `ssmd up` runs."""

from __future__ import annotations

import sys

from ssmd_api.cli.main import app

if __name__ == "__main__":
    app(["api", "run", *sys.argv[1:]])
