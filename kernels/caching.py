"""Where numba keeps compiled loops: beside this package, or in the home; else in a folder that goes with the process.

Without a place to keep them, as in a container whose file system is read-only, numba would not load at all. What it
keeps of a function it takes while the function's own file is the same, also where another has changed of which it holds
code: so all that was compiled before the newest of these files is forgotten.
"""

import atexit
import contextlib
import shutil
import sys
import tempfile
from pathlib import Path

import numba


def _probe() -> None:
    pass


def find_place() -> None:
    """Give numba a temporary folder if it finds none of its own, and say so; else forget there what may be old."""
    try:
        place = numba.njit(cache=True)(_probe).stats.cache_path  # looks for a place, and compiles nothing
    except RuntimeError:
        numba.config.CACHE_DIR = tempfile.mkdtemp(prefix="gpuion-")
        atexit.register(shutil.rmtree, numba.config.CACHE_DIR, ignore_errors=True)
        print(
            "warning: compiled code cannot be kept here, so that each start compiles anew; set NUMBA_CACHE_DIR to a "
            "folder that can be written",
            file=sys.stderr,
        )
    else:
        forget(Path(place))


def forget(place: Path) -> None:
    """Remove from a folder numba's indices that are older than the newest source of these kernels."""
    newest = max(source.stat().st_mtime for source in Path(__file__).parent.glob("*.py"))
    for index in place.glob("*.nbi"):
        with contextlib.suppress(OSError):  # another process may have done so
            if index.stat().st_mtime < newest:
                index.unlink()


find_place()
