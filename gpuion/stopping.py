"""When conjugate gradients have reached an energy: an estimate, from how it fell, of what it may still fall.

Letters: R rows = problems, K of them still unsolved, T iterations, C structures.
"""

import dataclasses
import math

import numpy as np
from torch import Tensor

MILD = 2.0  # decades of contrast up to which steep falls are trusted
SHARE = 0.4
"""Of all iterations of a slow solve, what a plateau may last with multigrid, which is slow where something hides.

In 48 mazes of 12³ sites it takes the estimates that are too small from 14 to 2 of 144 at 1e-2 and from 7 to none at
5e-3; electrolytes of 50³ sites take as many iterations with it as without, from 1e-1 to 1e-3. With 0.45 some take one
more. The FFT is slow everywhere.
"""
_STEEP = 0.15


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stop:
    """When a row is done.

    Attributes: `energy` at the start, `floor` of the scale of errors and `patience`, float64 [R] each; `mild`, bool
    [R], whether a steep fall can be trusted; `least`, the shortest plateau to expect; `share`, what of all iterations
    one may last; the `tolerance` of the relative error; `max_iterations`.
    """

    energy: np.ndarray
    floor: np.ndarray
    patience: np.ndarray
    mild: np.ndarray
    least: int
    share: float
    tolerance: float
    max_iterations: int


def judge(falls: np.ndarray, active: np.ndarray, stop: Stop) -> tuple[np.ndarray, np.ndarray]:
    """Return what the energy of each active row may still fall, and whether that is within the tolerance, [K].

    Parameters
    ----------
    falls : float64 [T, K]
        Falls of the active rows' energies at each iteration so far.
    active : int64 [K]
        Which rows they are.
    stop : Stop
        What to expect of all rows.
    """
    tail = _tail(falls, stop.patience[active], stop.share, stop.least)
    tail = np.minimum(tail, np.where(stop.mild[active], _steep(falls), math.inf))
    least = stop.energy[active] - falls.sum(0) - tail
    return tail, tail <= stop.tolerance * np.maximum(least, stop.floor[active])


def contrast(s: Tensor) -> np.ndarray:
    """Return the decades between the strongest conductance, 1, and the weakest that is none, [C].

    Of the site factors [C, …] of fields, or of the classes that occur in them.
    """
    if s.is_cuda:
        return -2 * s.masked_fill(s == 0, 1.0).flatten(1).amin(1).log10().cpu().numpy()
    from gpuion.kernels import tables

    return -2 * np.log10(tables.weakest(s.flatten(1).numpy()))


def patience(decades: np.ndarray, share: float) -> np.ndarray:
    """Return how long a plateau to expect, in √iterations, [C]: strong contrast makes long ones.

    1.5 up to a contrast of 1e4 between conductances, and `share` more for each decade beyond, as the preconditioner
    needs it. With the Laplacian and the inverse diagonal a third is enough: of 1260 errors at 1e-2, 1e-4 and 1e-6 in
    media of contrasts up to 1e8 one was above its tolerance, by 1.02 times.
    """
    return 1.5 + share * (decades - 4).clip(0, 8)


def _steep(falls: np.ndarray) -> np.ndarray:
    """Return four times the last fall, [K], where the last two were each at most _STEEP of the one before, else inf.

    One such is enough after two iterations. With multigrid, up to a contrast of 100, this ends the solves of 10 530
    axes (spheres, pores, blobs, electrolytes, noise, percolation; 8³ to 48³) after 3.8 iterations on average for 4.8 at
    a tolerance of 0.3, 5.9 for 6.5 at 1e-2 and 9.3 for 9.9 at 1e-4, and of 3960 axes of pinholes and tubes after 3.3
    for 4.7 at 1e-2. As many estimates were below the true error with it as without: 1 to 3, and 1 to 7. Twice the last
    fall would add some, and so would a contrast of 1000.
    """
    T, K = falls.shape
    if T < 2:
        return np.full(K, math.inf)
    size = np.abs(falls[-3:])  # rounding may leave one below 0
    return np.where((size[1:] <= _STEEP * size[:-1]).all(0), 4 * size[-1], math.inf)


def _tail(falls: np.ndarray, patience: np.ndarray, share: float, least: int) -> np.ndarray:
    """Return an estimate of all falls of the energy still to come, [K], from those so far, [T, K].

    The largest of: the fall over the last patience · √T or share · T iterations, what is more (a plateau shorter than
    that is not taken for the end), and the geometric series that continues any two neighbouring windows of 2 … T/2.
    """
    T, K = falls.shape
    delay = np.maximum(least, np.ceil(np.maximum(patience * math.sqrt(T), share * T)).astype(int))
    last = np.concatenate([np.zeros((1, K)), falls[::-1].cumsum(0)])  # [i]: the sum of the last i
    width = np.arange(2, T // 2 + 1)
    late = last[width]
    early = last[2 * width] - late
    ratio = np.divide(late, early, out=np.where(late > 0, 1.0, 0.0), where=early > 0).clip(0, 0.95)
    tail = np.maximum(last[delay.clip(max=T), np.arange(K)], (late * ratio / (1 - ratio)).max(0, initial=0.0))
    return np.where((delay < T) | (last[T] == 0), tail, math.inf)
