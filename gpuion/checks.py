"""What callers give, before work starts: counts, seeds, ids, limits, lengths, tensors, devices.

Legend: B structures.
"""

import math
import operator
import os
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_ITERATIONS = 10**7  # a solve keeps a number of each

FINEST = 1e-12
"""Relative error of a solve that float64 can still tell from its rounding."""

LONGEST = 1e9
"""Voxels of the longest length that functions take; the shortest is as far below 1. Cubes of both are numbers."""


def is_whole(value: Any, least: int) -> bool:
    """Return whether a value is an integer of any type, numpy's too, and not below `least`; 40.0 and True are none."""
    if isinstance(value, bool) or getattr(value, "dtype", None) in (bool, torch.bool):
        return False
    try:
        return operator.index(value) >= least
    except (TypeError, RuntimeError):  # torch's, of a tensor without numbers
        return False


def check_whole(name: str, value: Any, least: int) -> int:
    """Return a whole number as int.

    Raises
    ------
    ValueError
        For anything that `is_whole` says is none.
    """
    if not is_whole(value, least):
        raise ValueError(f"{name} must be a whole number, {least} or more, got {reprlib.repr(value)}")
    if operator.index(value) >= 2**64:
        raise ValueError(f"{name} must lie in [{least}, 2⁶⁴), got {reprlib.repr(value)}")
    return operator.index(value)


def is_between(value: Any, low: float, high: float) -> bool:
    """Return whether a value is a number, numpy's and torch's too, between two others, neither of them."""
    kind = getattr(value, "dtype", None)
    if isinstance(value, bool | str | bytes | complex) or kind in (bool, torch.bool) or "complex" in str(kind):
        return False
    try:
        return low < float(value) < high
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False


def check_seed(seed: Any) -> int:
    """Return the seed as int.

    Raises
    ------
    ValueError
        Unless it is a whole number in [0, 2⁶⁴).
    """
    return check_whole("seed", seed, 0)


def check_numbers(n_structures: int, ids: Sequence[int] | Tensor | None) -> Tensor:
    """Return the global structure numbers, int64 [B].

    Raises
    ------
    ValueError
        Unless there is one integer in [0, 2³²) a structure.
    """
    numbers = torch.arange(n_structures) if ids is None else check_tensor("ids", ids)
    if numbers.shape != (n_structures,):
        raise ValueError(f"ids must be {n_structures} integers, one a structure, got shape {list(numbers.shape)}")
    if len(numbers) and (numbers.dtype is torch.bool or numbers.is_floating_point() or numbers.is_complex()):
        raise ValueError(f"ids must be integers, got {numbers.dtype}; give the structures' whole numbers")
    numbers = numbers.long()
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < 2**32:
        raise ValueError(f"ids must lie in [0, 2³²), got {int(numbers.min())} … {int(numbers.max())}")
    return numbers


def check_limits(tolerance: float, max_iterations: Any) -> tuple[float, int]:
    """Return when a solve ends: the relative error of D to reach, and the iterations to give up after.

    Raises
    ------
    ValueError
        Unless the first lies in [1e-12, 1), as float64 can tell, and the second is a whole number above 0.
    """
    if not (is_between(tolerance, 0, 1) and tolerance >= FINEST):
        raise ValueError(f"tolerance is a relative error in [1e-12, 1), got {reprlib.repr(tolerance)}; 1e-4 is usual")
    limit = check_whole("max_iterations", max_iterations, 1)
    if limit > _ITERATIONS:
        raise ValueError(f"max_iterations must be at most {_ITERATIONS}, got {limit}; a solve takes tens to thousands")
    return float(tolerance), limit


def check_length(name: str, value: Any) -> float:
    """Return a length, voxels.

    Raises
    ------
    ValueError
        Unless it is a number within 1e-9 … 1e9.
    """
    if not is_between(value, 0, math.inf):
        raise ValueError(f"{name} must be a positive length, got {reprlib.repr(value)}")
    if not 1 / LONGEST <= float(value) <= LONGEST:
        raise ValueError(f"{name} must be a length within {1 / LONGEST:g} … {LONGEST:g} voxels, got {value}")
    return float(value)


def check_cell(box: Any, diameter: Any) -> tuple[float, float]:
    """Return the edge of a periodic cube and the diameter of spheres in it.

    Raises
    ------
    ValueError
        Unless they are lengths, the second no longer than the first.
    """
    box = check_length("box", box)
    if not is_between(diameter, 0, math.inf) or not 1 / LONGEST <= float(diameter) <= box:
        raise ValueError(f"diameter must lie in (0, box = {box}], got {reprlib.repr(diameter)}")
    return box, float(diameter)


def check_tensor(name: str, value: Any, wide: torch.dtype = torch.float64) -> Tensor:
    """Return a tensor, an array or nested lists of numbers as a tensor; floats of Python's become `wide` ones.

    Raises
    ------
    ValueError
        For anything else, and for a tensor that has no numbers (device meta) or is no plain array of them.
    """
    try:
        if isinstance(value, np.ndarray) and not (value.flags.writeable and value.dtype.isnative and value.size):
            value = np.array(value, dtype=value.dtype.newbyteorder("="))
        if isinstance(value, np.ndarray) and min(value.strides, default=0) < 0:
            value = value.copy()
        tensor = torch.as_tensor(value)
        if tensor.is_floating_point() and not isinstance(value, Tensor | np.ndarray | np.generic):
            tensor = torch.as_tensor(value, dtype=wide)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        given = f"{type(value).__name__} {reprlib.repr(value)}"
        raise ValueError(f"{name} must be a tensor, an array or nested lists of numbers, got a {given}") from None
    if tensor.is_meta or tensor.layout is not torch.strided or tensor.is_quantized:
        given = f"device {tensor.device}, {tensor.layout}"
        raise ValueError(f"{name} must be a dense tensor of numbers on a CPU or GPU, got one of {given}")
    return tensor


def check_flag(name: str, value: Any) -> bool:
    """Return a truth value; ValueError for 0, 1 and all else."""
    if type(value) not in {bool, np.bool_}:
        raise ValueError(f"{name} must be True or False, got {reprlib.repr(value)}")
    return bool(value)


def check_kind(name: str, value: Any, kind: type) -> None:
    """Raise ValueError unless a value is of a class of ours."""
    known = isinstance(value, kind)
    if not known:
        given = f"a {type(value).__name__}, {reprlib.repr(value)}"
        raise ValueError(f"{name} must be a gpuion.{kind.__name__}, got {given}")


def check_call(name: str, value: Any) -> None:
    """Raise ValueError unless a value can be called."""
    known = callable(value)
    if not known:
        raise ValueError(f"{name} must be something to call, a function, got {reprlib.repr(value)}")


def check_path(name: str, value: Any) -> Path:
    """Return a path; ValueError for what is none."""
    if not isinstance(value, str | os.PathLike) or not str(value) or "\0" in str(value):
        raise ValueError(f"{name} must be the path of a file or folder, got {reprlib.repr(value)}")
    return Path(value)


def check_device(device: Any) -> torch.device:
    """Return the device of a name.

    Raises
    ------
    ValueError
        Unless it is the CPU or a GPU that torch finds.
    """
    try:
        found = torch.device(device) if isinstance(device, str | torch.device) else None
    except RuntimeError:
        found = None
    if found is None or found.type not in {"cpu", "cuda"}:
        raise ValueError(f"device must be cpu or cuda, or such a torch.device, got {reprlib.repr(device)}")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {device} was asked for, but torch finds {torch.cuda.device_count()} GPUs; use cpu")
    return found


def check_room(size: float, what: str) -> None:
    """Raise ValueError for what would take more bytes than this machine has memory."""
    room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > room:
        raise ValueError(f"{what} would take {size / 2**30:.4g} GiB, this machine has {room / 2**30:.4g}; ask for less")
