"""What can go wrong, and how a script says so in one line."""

import errno
import signal
import sys
from collections.abc import Callable
from types import FrameType


class GpuionError(Exception):
    """Base of the errors that are a user's to mend."""


class ConfigError(GpuionError, ValueError):
    """A flag, preset or configuration value that cannot be used."""


class PackingError(GpuionError, RuntimeError):
    """Random sequential adsorption ran out of draws; the message says how far it got."""


class DatasetError(GpuionError, ValueError):
    """A data file or folder that is missing, damaged or not ours."""


class CheckpointError(GpuionError, ValueError):
    """A checkpoint that is missing, damaged or of another model."""


def run_script(main: Callable[[], None]) -> None:
    """Run a script's main function; end with one clear line and an exit code instead of a traceback.

    Exit codes: 0 done, 1 an error the message explains, 130 stopped by SIGINT or SIGTERM.
    """

    def stop(_signum: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        main()
    except KeyboardInterrupt:
        _leave("stopped; what was finished is kept, and the same command goes on from there", 130)
    except (GpuionError, ValueError) as error:
        _leave(f"error: {' '.join(str(error).split())}", 1)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            _leave("error: the disk is full; free some space and run the same command again to go on", 1)
        _leave(f"error: {error}", 1)
    except RuntimeError as error:
        if not any(words in str(error) for words in ("out of memory", "can't allocate memory")):  # GPU, CPU
            raise
        _leave(f"error: {str(error).splitlines()[0]}; use a smaller batch", 1)


def _leave(message: str, code: int) -> None:
    sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)
    sys.exit(code)
