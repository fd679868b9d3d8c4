"""Processes of a run that notice when another one is gone, whatever they are at.

Ranks that label or anneal are alone with their share, for hours: without this they would notice when they meet at its
end. Each keeps a connection to rank 0 over which nothing goes but a good-bye; the system closes it when a process ends,
however it ends. Where torchrun started the ranks of one machine, it ends them itself, and sooner.
"""

import contextlib
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator

from gpuion.distributed import World, is_first_to_say
from gpuion.errors import LOST

_PATIENCE = 30.0  # seconds to connect
_NOTICE = 5.0  # seconds in which a rank that waits for the lost one fails by itself
_BYE = b"."
_ALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 5}  # s, s: a machine is gone after 40 s of silence


@contextlib.contextmanager
def watched(world: World) -> Iterator[None]:
    """End this process, in one line and with exit code 1, if another rank ends while the context lasts.

    A rank that leaves it by an error, or by a stop, ends the others, too. Where ranks cannot connect, none watches.
    """
    connections = _connect(world) if world.size > 1 else []
    leaving = threading.Event()
    if connections:
        threading.Thread(target=_watch, args=(connections, leaving, world.rank), daemon=True).start()

    def leave(how: Callable[[socket.socket], object]) -> None:
        leaving.set()
        for connection in connections:
            with contextlib.suppress(OSError):  # the other one left before
                how(connection)

    try:
        yield
    except BaseException:
        leave(lambda connection: connection.shutdown(socket.SHUT_RDWR))
        raise
    leave(lambda connection: connection.sendall(_BYE))


def _connect(world: World) -> list[socket.socket]:
    """Return this rank's connections, to all others if it is rank 0, else to rank 0; none if any rank has none."""
    host, found = os.environ.get("MASTER_ADDR", "localhost"), []
    with contextlib.ExitStack() as stack:
        server = None
        if world.is_main:
            with contextlib.suppress(OSError):
                server = stack.enter_context(socket.create_server((host, 0)))
                server.settimeout(_PATIENCE)
        port = world.share(server and server.getsockname()[1])
        with contextlib.suppress(OSError):
            if server:
                found = [server.accept()[0] for _ in range(1, world.size)]
            elif port:
                found = [socket.create_connection((host, int(str(port))), timeout=_PATIENCE)]
    if world.total(int(bool(found))) == world.size:
        for connection in found:
            connection.settimeout(None)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _ALIVE.items():
                if hasattr(socket, name):  # not everywhere
                    connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        return found
    for connection in found:
        connection.close()
    return []


def _watch(connections: list[socket.socket], leaving: threading.Event, rank: int) -> None:
    """Wait until all others have said good-bye, or one ends without."""
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ, connection)
        while selector.get_map():
            for key, _ in selector.select():
                said = b""
                with contextlib.suppress(OSError):
                    said = key.data.recv(1)
                if said != _BYE and not leaving.is_set():
                    _end(rank)
                selector.unregister(key.data)
                key.data.close()


def _end(rank: int) -> None:
    time.sleep(_NOTICE)
    if is_first_to_say(LOST):
        os.write(2, f"error: {LOST} [rank {rank}]\n".encode())
    os._exit(1)
