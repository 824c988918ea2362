"""Errors of the local servers and their supervisor."""

from __future__ import annotations

from ssmd_core.errors import SsmdError


class ServerError(SsmdError):
    """A local server cannot be started, reached or stopped."""


class FolderInUseError(ServerError):
    """Another live process works on a data folder.

    Attributes:
        pid: that process, 0 if it is not known.
    """

    def __init__(self, message: str, pid: int) -> None:
        super().__init__(message)
        self.pid = pid
