"""Memory of training and predicting: kept between steps, and what to say when a batch does not fit."""

import contextlib
import ctypes
import re
import traceback
from collections.abc import Callable, Iterator

import torch

from gpuion.errors import MEMORY, GpuionError

# glibc's mallopt: blocks from the heap and never from mmap; nothing of the heap's end given back; grown by 256 MiB.
_KEEP = ((-4, 0), (-1, -1), (-2, 2**28))


def keep() -> bool:
    """Let this process keep what its layers free for the next step; return whether its C library can.

    As it is, glibc gives large blocks back to the system after each step, and the next one takes them again page by
    page. Kept, training takes 65 instead of 139 ms of processor time a structure with `zero` on images of 75³ voxels,
    and 6.3 instead of 8.0 ms with `periodic`. The process never shrinks then, and grows larger by up to a quarter.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt  # glibc's own
    except (AttributeError, OSError, TypeError):
        return False
    return all(set_option(name, value) for name, value in _KEEP)


@contextlib.contextmanager
def explained(
    structures: int, batch: int, device: torch.device, attempt: Callable[[int], object] | None = None
) -> Iterator[None]:
    """Turn a lack of memory at a step of some structures, a rank's share of a batch, into an error that says what fits.

    Parameters
    ----------
    structures, batch : int
    device : torch.device
    attempt : callable, optional
        The step with fewer structures, to find how many fit; no rank may wait for others in it.

    Raises
    ------
    GpuionError
        That names a batch, and how many bytes a structure takes at least.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in MEMORY):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the step's layers
        size = _size(str(error), structures, device)
    else:
        return
    line = f"out of memory at a batch of {batch}: {structures} structures at once{size}"
    fits = structures // 2
    while attempt and fits and not _works(attempt, fits):
        fits //= 2
    if not fits:
        raise GpuionError(f"{line}; use fewer voxels or channels, or a machine with more memory") from None
    # Half, half of that: batches are cut into equal parts of at most so many.
    advice = f"use --batch {fits}, which fits" if attempt else f"try --batch {batch // 2}"
    raise GpuionError(f"{line}; {advice}, or more processes") from None


def _works(attempt: Callable[[int], object], structures: int) -> bool:
    try:
        attempt(structures)
    except RuntimeError as error:
        traceback.clear_frames(error.__traceback__)
        if not any(words in str(error) for words in MEMORY):
            raise
        return False
    return True


def _size(error: str, structures: int, device: torch.device) -> str:
    """Return what is known of the memory that each structure takes."""
    asked = re.search(r"allocate (\d+) bytes", error)  # a CPU's words
    if device.type == "cuda":
        each = torch.cuda.max_memory_allocated(device) / structures
        room = torch.cuda.get_device_properties(device).total_memory
        return f", of which each takes {each / 2**20:.4g} MiB or more, and the GPU has {room / 2**20:.4g} MiB"
    return f", of which each takes {int(asked[1]) / structures / 2**20:.4g} MiB or more" if asked else ""
