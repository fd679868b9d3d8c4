"""What can go wrong, and how a script says so in one line.

Needs little of the standard library: scripts import it before torch, which takes seconds to load, and a stop before
`expect_stops` is Python's own affair.
"""

from __future__ import annotations

import errno
import os
import signal
import sys

TYPE_CHECKING = False  # as typing has it, whose import takes a tenth of the time until a stop is expected
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import NoReturn, TextIO

CODES = """exit codes:
  0    done
  1    failed: the message says why and how to mend it
  2    bad use: an unknown flag, or a setting that cannot be
  130  stopped by Ctrl-C; the same command goes on
  143  stopped by SIGTERM; the same command goes on"""


def codes(amiss: str) -> str:
    """Return the exit codes of a command that ends with 3 where it did all and found something amiss."""
    return CODES.replace("  130", f"  3    {amiss}\n  130", 1)


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


class ConvergenceError(GpuionError, RuntimeError):
    """A solve that did not reach its tolerance where an answer without that would mislead."""


_STOPS = (signal.SIGINT, signal.SIGTERM)
_STOPPED = "stopped; what was finished is kept, and the same command goes on from there\n"
NO_ROOM = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again to go on",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again to go on",
    errno.EFBIG: "a file met the limit on its size; raise it (ulimit -f) and run the same command again to go on",
}
MEMORY = ("out of memory", "can't allocate memory")  # of a GPU, of a CPU
LOST = (
    "another process of this run has ended, and says why unless it was killed; the same command goes on from what was "
    "finished"
)
_PEER = ("Connection closed by peer", "Connection reset by peer")  # gloo's words; NCCL's process is killed by torchrun
_SOON = 0.02  # seconds
_told: list[str] = []  # the line about a stop, once it is out


def expect_stops() -> None:
    """Make SIGINT and SIGTERM end this process at once, in one line: while modules load there is nothing to tidy."""
    for number in _STOPS:
        signal.signal(number, _end)


def run_script(main: Callable[[], None]) -> None:
    """Run a script's main function; end with one clear line and an exit code instead of a traceback.

    Exit codes are those of `CODES`. Of several ranks under torchrun, rank 0 alone says that it was stopped, and an
    error that many meet is said by one.
    """
    before = {number: signal.getsignal(number) for number in (*_STOPS, signal.SIGALRM)}
    hook = sys.unraisablehook
    try:
        for number in _STOPS:
            signal.signal(number, _interrupt)
        sys.unraisablehook = _stop_again
        main()
        sys.stdout.flush()
    except KeyboardInterrupt as stop:
        _quiet(sys.stdout)
        _tell_stop()
        _quiet(sys.stderr)
        sys.exit(_code(*stop.args))
    except ConfigError as error:
        fail(str(error), 2)
    except (GpuionError, ValueError) as error:
        fail(str(error))
    except OSError as error:
        fail(NO_ROOM.get(error.errno or 0, str(error)))
    except RuntimeError as error:
        if any(words in str(error) for words in MEMORY):
            fail(f"{str(error).splitlines()[0]}; use a smaller batch")
        if not any(words in str(error) for words in _PEER):
            raise
        fail(LOST)
    finally:
        sys.unraisablehook = hook
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def fail(message: str, code: int = 1) -> NoReturn:
    """Say in one line what is wrong, unless another rank just said the same, and exit."""
    expect_stops()  # torchrun stops the others once one has failed: that is no error of this one
    _quiet(sys.stdout)
    line = f"error: {' '.join(message.split())}"
    if os.environ.get("WORLD_SIZE", "1") != "1":
        from gpuion.distributed import is_first_to_say

        line = f"{line} [rank {os.environ.get('RANK', '?')}]" if is_first_to_say(line) else ""
    if line:
        _quiet(sys.stderr, line + "\n")
    sys.exit(code)


def _interrupt(signum: int, _frame: FrameType | None) -> None:
    """Unwind, so that half-written files go; a second signal, as of terminal and torchrun both, ends at once."""
    expect_stops()
    raise KeyboardInterrupt(signum)


def _stop_again(ignored: sys.UnraisableHookArgs) -> None:
    """Stop a moment later where Python drops a stop: in a callback of LLVM, or while it frees an object."""
    stop = ignored.exc_value
    if not isinstance(stop, KeyboardInterrupt):
        sys.__unraisablehook__(ignored)
        return
    code = stop.args

    def again(_signum: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(*code)

    signal.signal(signal.SIGALRM, again)
    signal.setitimer(signal.ITIMER_REAL, _SOON)


def _end(signum: int, _frame: FrameType | None) -> None:
    _tell_stop()
    os._exit(_code(signum))


def _code(signum: int = signal.SIGINT) -> int:
    """Return the exit code of a stop as shells have it."""
    return 128 + signum


def _tell_stop() -> None:
    if not _told and os.environ.get("RANK", "0") == "0":
        _told.append(_STOPPED)
        try:  # noqa: SIM105, contextlib takes too long to load
            os.write(2, _STOPPED.encode())  # print is not safe in a signal handler
        except OSError:  # whoever read it is gone, as in `… 2>&1 | tee` after Ctrl-C
            pass


def _quiet(stream: TextIO, last: str = "") -> None:
    """Write a last line and flush; if nobody can take it, drop it, else Python complains on its way out."""
    try:
        stream.write(last)
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
