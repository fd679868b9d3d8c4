"""The CPU's way to solve A u = b: conjugate gradients with multigrid, a row at a time, in `gpuion.kernels`.

Letters: C structures, A axes solved, R = A C rows (structure, axis); X Y Z sites. A row takes 4.5 fields of the working
precision beside its right side and solution, and 3.9 more that the rows of a structure share.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gpuion.stopping import Stop, judge

if TYPE_CHECKING:
    from gpuion.kernels.gradients import State
    from gpuion.kernels.levels import Hierarchy

_SHARED = 2**19  # sites from which on threads share a row: below, waiting for each other costs what sharing gains


def solve(s: Tensor, r: Tensor, stop: Stop) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return u [R, X, Y, Z], the fall of the energy, what it may still fall, and the iterations, [R] each.

    Rows go one to a thread as long as they fill all threads; the last ones, if large, are shared by them.

    Parameters
    ----------
    s : float64 [C, X, Y, Z]
        Site factors in [0, 1], on the CPU.
    r : float32 or float64 [R, X, Y, Z]
        Right sides b, A a structure; the precision to solve in.
    stop : Stop
        When to end.
    """
    from gpuion.kernels.levels import hierarchy

    u = torch.empty_like(r)
    levels = _each(lambda c: hierarchy(s[c].numpy(), u.numpy().dtype), range(len(s)))

    threads = torch.get_num_threads()
    left = len(r) % threads if s[0].numel() >= _SHARED else 0
    with Team(1, s.shape[1]) as alone, Team(threads, s.shape[1]) as all_of_them:

        def run(row: int) -> tuple[float, float, int]:
            team = alone if row < len(r) - left else all_of_them
            return _run(team, levels[row // (len(r) // len(s))], r[row], u[row], row, stop)

        found = _each(run, range(len(r) - left)) + [run(row) for row in range(len(r) - left, len(r))]
    fall, rest, count = zip(*found, strict=True)
    return u, torch.tensor(fall, dtype=torch.float64), torch.tensor(rest, dtype=torch.float64), torch.tensor(count)


class Team:
    """Threads that share each operation on a row, part by part; parts do not depend on how many there are.

    An operation waits some 35 µs for its threads, ten times a step; a step in 64³ takes 1.7 ms on one, in 150³ 31 ms,
    of which 5 are the coarser levels', which are not shared.
    """

    def __init__(self, threads: int, X: int) -> None:
        from gpuion.kernels.levels import parts_of

        threads = min(threads, parts_of(X))
        self.cuts = [n * parts_of(X) // threads for n in range(threads + 1)]
        self.pool = ThreadPoolExecutor(max(1, threads - 1))

    def __enter__(self) -> "Team":
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.shutdown()

    def each(self, kernel: Callable[..., Any], *arguments: Any) -> None:
        """Run a kernel on all parts, and wait."""
        rest = zip(self.cuts[1:-1], self.cuts[2:], strict=True)
        others = [self.pool.submit(kernel, *arguments, k, m) for k, m in rest]
        kernel(*arguments, *self.cuts[:2])
        for other in others:
            other.result()


def step(team: Team, levels: "Hierarchy", row: "State", before: float) -> tuple[float, float]:
    """Do one iteration; return the fall of the energy and rᵀz, of which `before` is that of the last iteration."""
    from gpuion.kernels import gradients

    scale, first = np.empty(3, row.r.dtype), row.sums[0]
    precondition(team, levels, row.r, row.z, row.coarse)
    team.each(gradients.dot, levels, row.r, row.z, first)
    rz = gradients.add_up(first)
    scale[0] = rz / before if before > 0 else 0
    team.each(gradients.turn, levels, row.z, scale, row.p)
    team.each(gradients.apply, levels, row.p, row.z, first)
    curvature = gradients.add_up(first)
    alpha = rz / curvature if curvature > 0 else 0.0
    scale[1:] = alpha, row.drift[0]
    team.each(gradients.update, levels, row, scale)
    left, weight = (gradients.add_up(sums) for sums in row.sums)
    row.drift[0] = left / weight if weight > 0 else 0.0
    return alpha * rz, rz


def precondition(team: Team, levels: "Hierarchy", c: np.ndarray, t: np.ndarray, flat: np.ndarray) -> None:
    """Set t to what the preconditioner makes of c, in planes; `flat` is work space [2, …]."""
    from gpuion.kernels import multigrid as kernel

    t.fill(0)
    if len(levels.table) == 1:
        return
    team.each(kernel.sweep, levels, c, t, False, True)
    team.each(kernel.sweep, levels, c, t, False, False)
    team.each(kernel.restrict, levels, c, t, flat)
    kernel.cycle(levels, flat)
    team.each(kernel.prolong, levels, t, flat)
    team.each(kernel.sweep, levels, c, t, True, False)
    team.each(kernel.sweep, levels, c, t, True, True)


def _run(team: Team, levels: "Hierarchy", b: Tensor, u: Tensor, row: int, stop: Stop) -> tuple[float, float, int]:
    """Solve one row; write u; return the fall of its energy, what it may still fall, and the iterations."""
    from gpuion.kernels import gradients

    fields = gradients.state(levels, b.numpy())
    falls, before, at = np.zeros((stop.max_iterations, 1)), 0.0, np.array([row])
    lowest, noise = np.inf, torch.finfo(b.dtype).eps ** 2 * stop.energy[row]
    for i in range(stop.max_iterations):
        falls[i], before = step(team, levels, fields, before)
        tail, done = judge(falls[: i + 1], at, stop)
        lowest = min(lowest, falls[i, 0])
        # Falls that were lost in rounding and came back are rounding errors themselves.
        if done or (lowest <= noise and falls[i, 0] > 100 * noise):
            break
    gradients.solution(levels, fields, u.numpy())
    return falls.sum(), float(tail[0]), i + 1


def energy(s: Tensor, u: Tensor, flow: dict[int, Tensor]) -> Tensor:
    """Return Σ_bonds g (e_a·d + δu_a)(e_b·d + δu_b), float64 [C, A, A]; twin of `spectral.energy`."""
    from gpuion.kernels import gradients

    A = len(flow)
    planes, drops = np.zeros((*s.shape[:2], A, A)), np.zeros((len(s), A, max(s.shape[1:])))
    for a, drop in enumerate(flow.values()):
        drops[:, a, : drop.shape[1]] = drop.numpy()
    axes = np.array(list(flow))
    pieces = 1 if len(s) >= torch.get_num_threads() else min(s.shape[1], torch.get_num_threads())
    cuts = [n * s.shape[1] // pieces for n in range(pieces + 1)]

    def add(item: int) -> None:
        c, n = divmod(item, pieces)
        gradients.energy(s[c].numpy(), u[c].numpy(), drops[c], axes, planes[c], cuts[n], cuts[n + 1])

    _each(add, range(len(s) * pieces))
    total = torch.from_numpy(np.add.accumulate(planes, axis=1)[:, -1])  # plane after plane, in order
    return total + total.triu(1).mT


def _each(work: Callable[[int], Any], items: Iterable[int]) -> list[Any]:
    """Return the results of `work`, done on as many threads as torch has here."""
    threads = torch.get_num_threads()
    if threads == 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))
