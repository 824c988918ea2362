"""Errors that ssmd raises at its boundaries. Each message carries the offending value."""

from __future__ import annotations


class SsmdError(Exception):
    """Base of every error that ssmd raises on purpose."""


class ConfigError(SsmdError):
    """A setting, feed.yaml, env.yaml or command-line value cannot be used."""


class UnknownFeedError(ConfigError):
    """A feed name that the registry does not hold."""


class FrameError(SsmdError):
    """A frame or message is not what its venue's protocol allows (not JSON, too deep, too large)."""


class ConnectError(SsmdError):
    """A venue cannot be reached: its name, port, TLS or HTTP answer is at fault; the text says which."""


class ArchiveError(SsmdError):
    """An archive file or manifest does not hold what it must."""


class TornFileError(ArchiveError):
    """A gzip member is cut, has a wrong checksum or is followed by something else.

    Attributes:
        path: the file.
        offset: byte offset of the damaged member.
        reason: what is wrong with it.
    """

    def __init__(self, path: str, offset: int, reason: str) -> None:
        super().__init__(f"{path}: member at byte {offset}: {reason}")
        self.path = path
        self.offset = offset
        self.reason = reason


class DatasetError(SsmdError):
    """An hour cannot be turned into parquet, or a parquet file is not what its footer says."""


class PublishError(SsmdError):
    """JetStream refused a batch for a reason that a retry does not mend."""


class StreamMismatchError(SsmdError):
    """A JetStream stream or consumer does not cover the subjects that are asked of it."""
