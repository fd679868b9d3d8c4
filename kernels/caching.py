"""Where numba keeps compiled loops: beside this package, or in the home; else in a folder that goes with the process.

Without a place to keep them, as in a container whose file system is read-only, numba would not load at all.
"""

import atexit
import shutil
import sys
import tempfile

import numba


def _probe() -> None:
    pass


def find_place() -> None:
    """Give numba a temporary folder if it finds none of its own, and say so."""
    try:
        numba.njit(cache=True)(_probe)  # looks for a place, and compiles nothing
    except RuntimeError:
        numba.config.CACHE_DIR = tempfile.mkdtemp(prefix="gpuion-")
        atexit.register(shutil.rmtree, numba.config.CACHE_DIR, ignore_errors=True)
        print(
            "warning: compiled code cannot be kept here, so that each start compiles anew; set NUMBA_CACHE_DIR to a "
            "folder that can be written",
            file=sys.stderr,
        )


find_place()
