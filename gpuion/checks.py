"""Numbers that callers give, before work starts: counts, seeds, ids, limits.

Legend: B structures.
"""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

LONGEST = 1e9
"""Voxels of the longest length that functions take; the shortest is as far below 1. Cubes of both are numbers."""


def is_whole(value: Any, least: int) -> bool:
    """Return whether a value is an integer of any type, numpy's too, and not below `least`; 40.0 and True are none."""
    if isinstance(value, bool) or getattr(value, "dtype", None) in (bool, torch.bool):
        return False
    try:
        return operator.index(value) >= least
    except TypeError:
        return False


def check_whole(name: str, value: Any, least: int) -> int:
    """Return a whole number as int.

    Raises
    ------
    ValueError
        For anything that `is_whole` says is none.
    """
    if not is_whole(value, least):
        raise ValueError(f"{name} must be a whole number, {least} or more, got {value!r}")
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
    if check_whole("seed", seed, 0) >= 2**64:
        raise ValueError(f"seed must lie in [0, 2⁶⁴), got {seed}")
    return operator.index(seed)


def check_numbers(n_structures: int, ids: Sequence[int] | Tensor | None) -> Tensor:
    """Return the global structure numbers, int64 [B].

    Raises
    ------
    ValueError
        Unless there is one integer in [0, 2³²) a structure.
    """
    numbers = torch.arange(n_structures) if ids is None else torch.as_tensor(ids)
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
        Unless the first lies in (0, 1) and the second is a whole number above 0.
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance is a relative error in (0, 1), got {tolerance}; 1e-4 is usual")
    return tolerance, check_whole("max_iterations", max_iterations, 1)
