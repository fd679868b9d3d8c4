"""Which of the three axes a solve is for.

Letters: B structures, A axes.
"""

import math
import reprlib
from collections.abc import Iterable, Sequence

from torch import Tensor, tensor

from gpuion.checks import is_whole

ALL_AXES = (0, 1, 2)


def check_axes(axes: Sequence[int]) -> tuple[int, ...]:
    """Return the axes asked for in order.

    Raises
    ------
    ValueError
        Unless they are one to three different ones of 0, 1 and 2.
    """
    try:
        given = tuple(axes) if isinstance(axes, Iterable) else ()
    except (TypeError, RuntimeError):  # of a tensor of one number, or of none
        given = ()
    asked = tuple(sorted(int(axis) for axis in given if is_whole(axis, 0)))
    if not asked or len(set(asked)) < len(given) or not set(asked) <= set(ALL_AXES):
        raise ValueError(
            f"axes must be one to three different ones of 0, 1 and 2, as in axes=(0,), got {reprlib.repr(axes)}"
        )
    return asked


def widen(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return values [B, A] or [B, A, A] as [B, 3] or [B, 3, 3], NaN where an axis was not asked for."""
    if axes == ALL_AXES:
        return values
    at = tensor(axes, device=values.device)
    if values.ndim == 2:
        return values.new_full((len(values), 3), math.nan).index_copy(1, at, values)
    rows = values.new_full((len(values), len(axes), 3), math.nan).index_copy(2, at, values)
    return values.new_full((len(values), 3, 3), math.nan).index_copy(1, at, rows)
