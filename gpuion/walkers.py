"""Walkers of some structures: begun, led on for longer, joined by others.

Legend: B structures, C of a group, W walkers, T checkpoints, X Y Z sites.
"""

import dataclasses
import math

import torch
from torch import Tensor

from gpuion.hops import Rates, starts
from gpuion.medium import Medium
from gpuion.slopes import CHECKPOINTS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ions:
    """What stays while ions walk."""

    medium: Medium
    tables: Rates
    ids: Tensor
    seed: int
    tick: Tensor  # float64 [B], length of an attempt
    trapped: Tensor
    leads: Tensor

    def some(self, index: Tensor) -> Medium:
        """Return the medium of some structures."""
        m = self.medium
        return Medium(m.labels[index], m.diffusivity, m.potential, m.spacing)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Walks:
    """Walks of some structures, as many walkers in each."""

    index: Tensor  # int64 [C], which structures
    start: Tensor  # int32 [C, W]
    path: Tensor  # int32 [C, T, W, 3]
    quads: Tensor  # int64 [C], attempts between checkpoints, in fours
    interval: Tensor  # float64 [C], time between checkpoints
    hops: Tensor  # int64 [C]


def _launch(
    ions: Ions, index: Tensor, start: Tensor, quads: Tensor, checkpoints: int, first: Tensor, first_walker: int = 0
) -> tuple[Tensor, Tensor]:
    """Return displacements [C, T, W, 3] since `start` and hops [C]."""
    if ions.medium.labels.is_cuda:
        from gpuion.kernels.walk import walk as launch
    else:
        from gpuion.kernels.lanes import walk as launch
    path, hops = launch(
        ions.medium.labels[index], ions.tables.leave[index], ions.tables.enter[index], start, quads.int(),
        ions.ids[index], ions.seed, checkpoints, first.int(), first_walker,
    )  # fmt: skip
    return path, hops.long().sum(-1)


def begin(ions: Ions, index: Tensor, walkers: int, quads: Tensor, time: Tensor) -> Walks:
    """Walk from the stationary distribution."""
    start = starts(ions.some(index), walkers, ions.seed, ions.ids[index])
    path, hops = _launch(ions, index, start, quads, CHECKPOINTS, torch.zeros_like(quads))
    interval = torch.where(quads > 0, quads * 4 * ions.tick[index], time / CHECKPOINTS)
    return Walks(index=index, start=start, path=path, quads=quads, interval=interval, hops=hops)


def longer(ions: Ions, walks: Walks) -> Walks:
    """Let all walkers go on for as long again; every second checkpoint stays."""
    Y, Z = ions.medium.labels.shape[2:]
    shape = torch.tensor(ions.medium.labels.shape[1:], device=walks.start.device)
    begun = torch.stack([walks.start // (Y * Z), walks.start // Z % Y, walks.start % Z], -1)
    now = (begun + walks.path[:, -1]) % shape
    site = ((now[..., 0] * Y + now[..., 1]) * Z + now[..., 2]).int()
    quads = 2 * walks.quads
    path, hops = _launch(ions, walks.index, site, quads, CHECKPOINTS // 2, CHECKPOINTS * walks.quads)
    path = torch.cat([walks.path[:, 1::2], walks.path[:, -1:] + path], 1)
    return dataclasses.replace(
        walks, path=path, quads=quads, interval=2 * walks.interval, hops=walks.hops + hops
    )  # fmt: skip


def more(ions: Ions, walks: Walks, extra: float) -> Walks:
    """Let other walkers join, `extra` times those at hand, and walk as long."""
    W = walks.start.shape[1]
    start = starts(ions.some(walks.index), math.ceil(extra * W), ions.seed, ions.ids[walks.index], first=W)
    path, hops = _launch(ions, walks.index, start, walks.quads, CHECKPOINTS, torch.zeros_like(walks.quads), W)
    return dataclasses.replace(
        walks, start=torch.cat([walks.start, start], 1), path=torch.cat([walks.path, path], 2), hops=walks.hops + hops
    )  # fmt: skip


def check_attempts(walkers: int, quads: Tensor, max_attempts: float) -> None:
    """Refuse a limit that the shortest walk exceeds."""
    least = walkers * CHECKPOINTS * 4 * int(quads.max() if len(quads) else 0)
    if least > max_attempts:
        b = int(quads.argmax())
        raise ValueError(
            f"structure {b}: {walkers} walkers make {least} attempts to begin with, more than max_attempts = "
            f"{max_attempts:g}; allow those or begin with fewer walkers"
        )
