"""The CPU's way to solve A u = b: conjugate gradients with multigrid, a row at a time, in `gpuion.kernels`.

Letters: C structures, A axes solved, R = A C rows (structure, axis); X Y Z sites. A row takes 4.5 fields of the working
precision beside its right side and solution, and 3.9 more that the rows of a structure share.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpuion.stopping import Stop, judge

_WEAKEST = {torch.float32: 1e-18, torch.float64: 1e-150}  # site factors whose inverse can still be worked with


def solve(s: Tensor, r: Tensor, stop: Stop) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return u [R, X, Y, Z], the fall of the energy, what it may still fall, and the iterations, [R] each.

    Parameters
    ----------
    s : float32 or float64 [C, X, Y, Z]
        Site factors in [0, 1], on the CPU.
    r : [R, X, Y, Z]
        Right sides b of the same precision, A a structure.
    stop : Stop
        When to end.
    """
    from gpuion.kernels import gradients
    from gpuion.kernels.levels import hierarchy

    s = torch.where(s < _WEAKEST[s.dtype], 0.0, s)
    u = torch.empty_like(r)
    levels = _each(lambda c: hierarchy(s[c].numpy()), range(len(s)))

    def run(row: int) -> tuple[float, float, int]:
        structure = levels[row // (len(r) // len(s))]
        fields = gradients.state(structure, r[row].numpy())
        falls, before, at = np.zeros((stop.max_iterations, 1)), 0.0, np.array([row])
        lowest, noise = np.inf, torch.finfo(r.dtype).eps ** 2 * stop.energy[row]
        for i in range(stop.max_iterations):
            falls[i], before = gradients.step(structure, fields, before)
            tail, done = judge(falls[: i + 1], at, stop)
            lowest = min(lowest, falls[i, 0])
            # Falls that were lost in rounding and came back are rounding errors themselves.
            if done or (lowest <= noise and falls[i, 0] > 100 * noise):
                break
        gradients.solution(structure, fields, u[row].numpy())
        return falls.sum(), float(tail[0]), i + 1

    fall, left, count = zip(*_each(run, range(len(r))), strict=True)
    return u, torch.tensor(fall, dtype=torch.float64), torch.tensor(left, dtype=torch.float64), torch.tensor(count)


def energy(s: Tensor, u: Tensor, flow: dict[int, Tensor]) -> Tensor:
    """Return Σ_bonds g (e_a·d + δu_a)(e_b·d + δu_b), float64 [C, A, A]; twin of `spectral.energy`."""
    from gpuion.kernels import gradients

    A = len(flow)
    total, drops = np.zeros((len(s), A, A)), np.zeros((len(s), A, max(s.shape[1:])))
    for a, drop in enumerate(flow.values()):
        drops[:, a, : drop.shape[1]] = drop.numpy()
    axes = np.array(list(flow))
    _each(lambda c: gradients.energy(s[c].numpy(), u[c].numpy(), drops[c], axes, total[c]), range(len(s)))
    return torch.from_numpy(total)


def _each(work: Callable[[int], Any], items: Iterable[int]) -> list[Any]:
    """Return the results of `work`, done on as many threads as torch has here."""
    threads = torch.get_num_threads()
    if threads == 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))
