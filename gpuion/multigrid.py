"""The CPU's way to solve A u = b: conjugate gradients with multigrid, a row at a time, in `gpuion.kernels`.

Letters: C structures, A axes solved, R = A C rows (structure, axis); X Y Z sites. A row takes 4.3 fields of the working
precision beside its right side, which becomes its solution, and 2.6 more that the rows of a structure share.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gpuion.stopping import Stop, judge
from gpuion.threads import Team

if TYPE_CHECKING:
    from gpuion.kernels.gradients import State
    from gpuion.kernels.levels import Hierarchy

_LARGE = 2**16  # blocks of the first coarse level from which on threads share it, too
_DAMPING = 0.9  # of a sweep
_STIFF = 0.5  # of a coarse bond
_WEAKEST = {4: 1e-18, 8: 1e-150}  # by bytes of the precision: site factors whose inverse can still be worked with


def solve(team: Team, s: Tensor, r: Tensor, stop: Stop) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return u [R, X, Y, Z], the fall of the energy, what it may still fall, and the iterations, [R] each.

    Rows go one to a thread as long as they fill all threads; the last ones are shared by a team.

    Parameters
    ----------
    team : Team
        Who shares what is too large for one thread.
    s : float64 [C, X, Y, Z]
        Site factors in [0, 1], on the CPU.
    r : float32 or float64 [R, X, Y, Z]
        Right sides b, A a structure; the precision to solve in. Becomes u.
    stop : Stop
        When to end.
    """
    alone, build = Team(1), lambda t, c: hierarchy(t, s[c].numpy(), r.numpy().dtype)
    if team.threads > 1:
        levels = [build(team, c) for c in range(len(s))]
    else:
        levels = _each(lambda c: build(alone, c), range(len(s)))
    left = len(r) % team.threads if team.threads > 1 else 0

    def run(row: int) -> tuple[float, float, int]:
        some = alone if row < len(r) - left else team
        return _run(some, levels[row // (len(r) // len(s))], r[row], row, stop)

    found = _each(run, range(len(r) - left)) + [run(row) for row in range(len(r) - left, len(r))]
    fall, rest, count = zip(*found, strict=True)
    return r, torch.tensor(fall, dtype=torch.float64), torch.tensor(rest, dtype=torch.float64), torch.tensor(count)


def hierarchy(team: Team, s: np.ndarray, dtype: type | np.dtype | None = None) -> "Hierarchy":
    """Return the levels of a structure with site factors [X, Y, Z], in the precision of s or another.

    Factors whose inverse that precision cannot work with count as 0.
    """
    from gpuion.kernels import merging
    from gpuion.kernels.levels import Hierarchy

    dtype = np.dtype(dtype or s.dtype)
    sizes = [s.shape]
    while max(sizes[-1]) > 1:
        sizes.append(tuple(max(1, n // 2) for n in sizes[-1]))
    first = np.cumsum([0, 0] + [(X + 1) * (Y + 2) * (Z + 2) for X, Y, Z in sizes[1:]])
    table = np.array([(*size, at) for size, at in zip(sizes, first, strict=False)], np.int64)
    X, Y, Z = s.shape
    fields = [np.zeros((X + 1, (Y + 2) * (Z + 2)), dtype) for _ in range(2)]
    bonds, weights = np.zeros((4, first[-1]), dtype), np.array([_DAMPING, _STIFF], dtype)
    levels = Hierarchy(*fields, table, bonds, weights, np.zeros(X))
    team.each(X, merging.enter, levels, s, _WEAKEST[dtype.itemsize])
    team.each(X, merging.join, levels, s, _WEAKEST[dtype.itemsize])
    if len(sizes) > 1:
        team.each(X, merging.add_up, levels)
        merging.coarsen(levels)
    return levels


def state(team: Team, levels: "Hierarchy", b: np.ndarray) -> "State":
    """Return the fields of a row before its first step, from the right side b [X, Y, Z]."""
    from gpuion.kernels import gradients

    fields, X = [np.zeros(levels.s.shape, b.dtype) for _ in range(4)], len(b)
    coarse = np.zeros(levels.bonds[:2].shape, b.dtype)
    row = gradients.State(*fields, coarse, np.zeros(3, b.dtype), np.zeros(1), np.zeros(X))
    team.each(X, gradients.divide, levels, b, row.r)
    return row


def step(team: Team, levels: "Hierarchy", row: "State", begun: int) -> float:
    """Do one iteration after so many others; return the fall of the energy."""
    from gpuion.kernels import gradients

    X, scale = len(row.sums), row.scale
    before, row.last[0] = row.last[0], precondition(team, levels, row, begun)
    scale[0] = row.last[0] / before if before > 0 else 0
    if begun:
        team.each(X, gradients.turn, row, begun)
    team.each(X, gradients.apply, levels, row, begun)
    curvature = gradients.add_up(row.sums)
    alpha = row.last[0] / curvature if curvature > 0 else 0.0
    scale[1] = alpha
    return alpha * row.last[0]


def precondition(team: Team, levels: "Hierarchy", row: "State", begun: int) -> float:
    """Set z, of the first step p, to what the preconditioner makes of r once it knows the last step; return rᵀz."""
    from gpuion.kernels import gradients
    from gpuion.kernels import multigrid as kernel

    if len(levels.table) == 1:
        return 0.0
    X, z = len(row.sums), row.z if begun else row.p
    team.each(X, kernel.descend, levels, row, z, begun, True)
    team.each(X, kernel.descend, levels, row, z, begun, False)
    weight = gradients.add_up(levels.squares)
    row.scale[2] = gradients.add_up(row.sums) / weight if weight > 0 else 0.0
    team.each(X, kernel.collect, levels, row, z)
    _solve_blocks(team, levels, row.coarse)
    team.each(X, kernel.spread, levels, row, z)
    team.each(X, kernel.ascend, levels, row, z, False)
    team.each(X, kernel.ascend, levels, row, z, True)
    return gradients.add_up(row.sums)


def _solve_blocks(team: Team, levels: "Hierarchy", flat: np.ndarray) -> None:
    """Solve the first coarse level nearly, by two visits; `flat` has its t and right side."""
    from gpuion.kernels import blocks

    X = int(levels.table[1, 0])
    if levels.table[1, :3].prod() < _LARGE or len(levels.table) == 2:
        blocks.cycle(levels, flat, 1)
        return
    for again in (False, True):
        team.each(X, blocks.descend, levels, flat, again, True)
        team.each(X, blocks.descend, levels, flat, again, False)
        team.each(X, blocks.collect, levels, flat)
        blocks.cycle(levels, flat, 2)
        team.each(X, blocks.spread, levels, flat)
        team.each(X, blocks.ascend, levels, flat, False)
        team.each(X, blocks.ascend, levels, flat, True)


def _run(team: Team, levels: "Hierarchy", b: Tensor, row: int, stop: Stop) -> tuple[float, float, int]:
    """Solve one row; write u over b; return the fall of its energy, what it may still fall, and the iterations."""
    from gpuion.kernels import gradients

    fields = state(team, levels, b.numpy())
    falls, at = np.zeros((stop.max_iterations, 1)), np.array([row])
    lowest, noise = np.inf, torch.finfo(b.dtype).eps ** 2 * stop.energy[row]
    for i in range(stop.max_iterations):
        falls[i] = step(team, levels, fields, i)
        tail, done = judge(falls[: i + 1], at, stop)
        lowest = min(lowest, falls[i, 0])
        # Falls that were lost in rounding and came back are rounding errors themselves.
        if done or (lowest <= noise and falls[i, 0] > 100 * noise):
            break
    team.each(len(b), gradients.solution, levels, fields, i + 1, b.numpy())
    return falls.sum(), float(tail[0]), i + 1


def energy(team: Team, s: Tensor, u: Tensor, flow: dict[int, Tensor]) -> Tensor:
    """Return Σ_bonds g (e_a·d + δu_a)(e_b·d + δu_b), float64 [C, A, A]; twin of `spectral.energy`."""
    from gpuion.kernels import gradients

    A = len(flow)
    planes, drops = np.zeros((*s.shape[:2], A, A)), np.zeros((len(s), A, max(s.shape[1:])))
    for a, drop in enumerate(flow.values()):
        drops[:, a, : drop.shape[1]] = drop.numpy()
    axes = np.array(list(flow))
    for c in range(len(s)):
        team.each(s.shape[1], gradients.energy, s[c].numpy(), u[c].numpy(), drops[c], axes, planes[c])
    total = torch.from_numpy(np.add.accumulate(planes, axis=1)[:, -1])  # plane after plane, in order
    return total + total.triu(1).mT


def _each(work: Callable[[int], Any], items: Iterable[int]) -> list[Any]:
    """Return the results of `work`, done on as many threads as torch has here."""
    threads = torch.get_num_threads()
    if threads == 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))
