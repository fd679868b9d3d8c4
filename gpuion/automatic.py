"""Automatic walks: how long they are to begin with, and whether they go on, get company or end.

Legend: B structures, C of a group, W walkers.
"""

import dataclasses
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gpuion.medium import Medium
from gpuion.slopes import TIME
from gpuion.walkers import Walks

if TYPE_CHECKING:
    from gpuion.kmc import WalkResult

LONGEST = 2**31  # attempts of a walker, so that a displacement fits 32 bits whatever happens
STOP, LONGER = 0.0, -1.0
_JOIN = (0.5, 1.0, 2.0, 3.0)  # at most four times the walkers in one go: an early error bar says too little


@dataclasses.dataclass(frozen=True, kw_only=True)
class Goal:
    """When an automatic walk ends."""

    rtol: float
    max_attempts: float


def shortest(medium: Medium, fastest: Tensor) -> Tensor:
    """Return a time shorter than any that settles: the box's relaxation time at D = k_max h², eightfold, [B]."""
    longest = max(medium.labels.shape[1:])
    return torch.where(fastest > 0, 8 * (longest / (2 * math.pi)) ** 2 / fastest.clamp_min(1e-300), 1.0)


def next_steps(result: "WalkResult", walks: Walks, goal: Goal | None) -> list[float]:
    """Return for each structure what is next: STOP, LONGER, or how many times its walkers are to join them."""
    if goal is None:
        return [STOP] * len(walks.index)
    plan, W = [], walks.start.shape[1]
    relative = (result.mean_error / result.mean.clamp_min(1e-300) / goal.rtol).tolist()
    # The last windows are the noisiest: twice the time then brings more than twice the walkers.
    late = ((result.lag > 0.4 * result.time[:, None]) & (result.standard_error > 0)).any(1).tolist()
    rows = zip(relative, result.mean.tolist(), result.reason, result.attempts.tolist(), late, strict=True)
    for times, mean, reason, attempts, last in rows:
        step: float
        if reason in TIME:
            step = LONGER
        elif reason:
            step = 1.0
        elif mean == 0 or times <= 1:
            step = STOP
        elif last:
            step = LONGER
        else:
            step = next((x for x in _JOIN if 1 + x >= times**2), _JOIN[-1])
        each, count = attempts // W, W
        if step == LONGER:
            each *= 2
        else:
            count += math.ceil(step * W)
        plan.append(STOP if each * count > goal.max_attempts or each >= LONGEST else step)
    return plan
