"""TCP ports on the loopback address for servers that ssmd starts itself."""

from __future__ import annotations

import random
import socket

from ssmd_stream.servers.errors import ServerError

LOOPBACK = "127.0.0.1"

# Below Linux's ephemeral range (32768-60999): a port from inside it can be taken as the source port of any outgoing
# connection while the server is down, even of a client that reconnects to the server's own port (a TCP self-connect),
# and then a killed server cannot come back on the port it had.
FREE_PORTS = range(20_000, 32_000)
_ATTEMPTS = 200


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` of the loopback address now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections in TIME_WAIT do not count, a listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port of `FREE_PORTS` that is free now.

    Raises:
        ServerError: none of 200 tries was free.
    """
    for _ in range(_ATTEMPTS):
        port = random.choice(FREE_PORTS)
        if is_free(port):
            return port
    raise ServerError(f"no free port in {FREE_PORTS.start}-{FREE_PORTS.stop - 1} after {_ATTEMPTS} tries")


def choose_port(usual: int | None) -> int:
    """The usual port if it is free, else a free one; None always takes a free one."""
    if usual is not None and is_free(usual):
        return usual
    return free_port()
