"""Resources: thin builders; what they build is importable without Dagster."""

from __future__ import annotations

import os

import dagster as dg

from ssmd_core.settings import Settings


class Environment(dg.ConfigurableResource):  # type: ignore[type-arg]  # takes no argument here
    """The process's settings, read from the environment when a step or a tick asks for them, not at import."""

    def settings(self) -> Settings:
        """Settings of this process."""
        return Settings.from_environment()

    def asks_venues(self) -> bool:
        """Whether schedules may: not if `SSMD_SCHEDULES` is `off`, as where a data folder is only looked at."""
        return os.environ.get("SSMD_SCHEDULES") != "off"
