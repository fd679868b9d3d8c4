"""A folder that one run at a time writes to.

The system holds the lock for as long as a process has the file `.lock` open, so that nothing is left to clear when one
is killed: the file may stay, but no longer locks. On network file systems it reaches other machines where flock does.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from gpuion.errors import ConfigError

NAME = ".lock"


@contextlib.contextmanager
def held(folder: Path, *, alone: bool) -> Iterator[int]:
    """Hold a folder while the context lasts: as its only process, or beside others of the same run.

    Yields what `share` takes. Whoever leaves last removes the file.

    Raises
    ------
    ConfigError
        If another run holds it.
    """
    descriptor = _open(folder, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
    try:
        yield descriptor
    finally:
        with contextlib.suppress(OSError):  # others of this run are still there
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (folder / NAME).unlink(missing_ok=True)
        os.close(descriptor)


def share(folder: Path, descriptor: int) -> None:
    """Let the other processes of a run join the one that held the folder alone."""
    _lock(folder, descriptor, fcntl.LOCK_SH)


def _open(folder: Path, kind: int) -> int:
    path = folder / NAME
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(folder, descriptor, kind)
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # a run that ended removed the file between the first two lines


def _lock(folder: Path, descriptor: int, kind: int) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(
            f"another run is writing to {folder}; wait until it has ended, stop it, or choose another --out"
        ) from None
    except OSError:
        return  # a file system without locks
