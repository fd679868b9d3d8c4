"""Temperatures for replica exchange, from a short annealing before it: all neighbours exchange equally often.

Legend: C chains, N particles, P temperatures of the pilot, G of a grid, R replicas.

Two chains at 1/T = β_a > β_b whose energies are normal, with means μ and variances s², exchange with a probability of

    A = Φ(m / √v) + exp(Δβ m + Δβ² v / 2) Φ(−(m + Δβ v) / √v),    m = μ_a − μ_b,  v = s_a² + s_b²,  Δβ = β_a − β_b,

in equilibrium, where m = −Δβ s², erfc(Δβ s / 2). s is what one chain's energies do in time. How far chains lie apart
does not count: chains of many spheres are far from equilibrium for long, and once their temperatures are in the order
of their energies, they stay so. (Eight chains of 91 spheres at 5.6e-5 to 9.8e-3 differed by 0.06 to 0.1, each one's
energies by 0.01; the former taken for s, the pilot foresaw 27%, and after 2000 steps nothing exchanged.) So A is what
remains: before, while all chains still fall from alike starts, they exchange more often.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gpuion import files
from gpuion.annealing import anneal
from gpuion.checks import is_between
from gpuion.dataset import Dataset
from gpuion.distributed import World
from gpuion.errors import DatasetError
from gpuion.objectives import Objective
from gpuion.scores import Score
from gpuion.starts import starts

_TEMPERATURES = 10
_CHAINS = 8
_GRID = 1000
_RARE, _OFTEN = 0.1, 0.2


def pilot(
    score: Score, centers: Tensor, *, box: float, diameter: float, low: float, high: float, steps: int,
    maximize: bool = True, seed: int = 0, ids: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return temperatures falling from `high` to `low`, and mean and spread of energies at each, float64 [P] each.

    An energy is the score, or its negative where that is to rise; the mean is over all chains in the second half of
    their steps at a temperature, the standard deviation is within chains.

    Parameters
    ----------
    score, centers, box, diameter, maximize, seed, ids
        As for `anneal`.
    low, high : float
        The last temperature and the first.
    steps : int
        Moves a chain at each.
    """
    cooling = (low / high) ** (1 / (_TEMPERATURES - 1))
    found = anneal(
        score, centers, box=box, diameter=diameter, cycles=_TEMPERATURES, steps=steps, maximize=maximize,
        temperature=high, cooling=cooling, seed=seed, ids=ids, samples=min(steps, 100),
    )  # fmt: skip
    kept = found.visited_score.view(len(centers), _TEMPERATURES, -1)
    late = kept[..., kept.shape[-1] // 2 :].cpu()  # [C, P, samples]
    temperatures = high * cooling ** torch.arange(_TEMPERATURES, dtype=torch.float64)
    mean = late.mean((0, 2))
    return temperatures, -mean if maximize else mean, late.var(2).mean(0).sqrt()


def fit(
    path: Path, score: Score, data: Dataset, goal: Objective, world: World, *, replicas: int, low: float, high: float,
    steps: int, seed: int,
) -> Tensor | None:  # fmt: skip
    """Return the temperatures of a file, float64 [R] from the lowest; rank 0 makes it if it is not there.

    Its pilot is eight chains of their own from random structures of the cell of `data`; the rest is as for `pilot`. One
    replica exchanges nothing: None.
    """
    if replicas == 1:
        return None
    if world.is_main and not path.exists():
        ids = 2 * torch.arange(_CHAINS, device=world.device) + (not goal.maximize)
        temperatures, mean, spread = pilot(
            score, starts(data, ids, "random", maximize=goal.maximize, seed=seed), box=data.box, diameter=data.diameter,
            low=low, high=high, steps=steps, maximize=goal.maximize, seed=seed, ids=2**32 - 2 * _CHAINS + ids,
        )  # fmt: skip
        found, rate = spaced(temperatures, mean, spread, replicas)
        enough = needed(temperatures, mean, spread)
        lines = {"temperatures": found, "pilot_temperatures": temperatures, "pilot_mean": mean, "pilot_spread": spread}
        more = {"expected_swap_rate": rate, "replicas_for_20_percent": enough}
        files.write_json(path, {name: x.tolist() for name, x in lines.items()} | more)
        advice = "" if rate > _RARE else f"; {enough} replicas, or a narrower range, would exchange in {_OFTEN:.0%}"
        told = f"{replicas} temperatures, neighbours should exchange in {rate:.0%} of attempts"
        print(f"{path.stem}: {told}{advice}")
    world.barrier()
    return torch.tensor(read(path), dtype=torch.float64)


def read(path: Path) -> list[float]:
    """Return the temperatures of a file, none if there is no such file.

    Raises
    ------
    DatasetError
        If it is damaged.
    """
    if not path.exists():
        return []
    found = files.read_json(path).get("temperatures")
    if not isinstance(found, list) or not found or not all(is_between(x, 0, math.inf) for x in found):
        raise DatasetError(f"{path}: temperatures: expected positive numbers; remove it to choose them again")
    return list(found)


def spaced(temperatures: Tensor, mean: Tensor, spread: Tensor, replicas: int) -> tuple[Tensor, float]:
    """Return R temperatures from the lowest to the highest, float64 [R], and how often neighbours should exchange.

    Of all ladders between the two the one whose rarest exchange is the most frequent; then all are about equal. Between
    the temperatures given, means and spreads are taken to be linear in log T.

    Parameters
    ----------
    temperatures, mean, spread : float64 [P]
        Falling temperatures, and mean and standard deviation of energies at each. A mean that rises as the temperature
        falls is noise, and taken to be that before.
    replicas : int
        R, 2 or more.

    References
    ----------
    Kofke, J. Chem. Phys. 117 (2002) 6911, for the rate in equilibrium.
    """
    if replicas < 2:
        raise ValueError(f"an exchange takes 2 replicas or more, got {replicas}")
    grid, rate = _rates(temperatures, mean, spread)
    low, high = float(rate.min()), 0.0
    for _ in range(60):
        rungs = _climb(rate, (low + high) / 2, replicas)
        low, high = ((low + high) / 2, high) if rungs[-1] == _GRID - 1 else (low, (low + high) / 2)
    # Where all exchange always, any ladder will do.
    rungs = _climb(rate, low, replicas) if low < -1e-9 else np.linspace(0, _GRID - 1, replicas).astype(int).tolist()
    return torch.from_numpy(np.exp(grid[rungs])), math.exp(rate[rungs[:-1], rungs[1:]].min())


def needed(temperatures: Tensor, mean: Tensor, spread: Tensor, least: float = _OFTEN) -> int:
    """Return how many replicas it takes for neighbours to exchange in a share `least` of attempts: see `spaced`.

    At most as many as points of the grid, a thousand.
    """
    _, rate = _rates(temperatures, mean, spread)
    rungs = _climb(rate, math.log(least), _GRID)
    return max(2, len(set(rungs))) if rungs[-1] == _GRID - 1 else _GRID


def _rates(temperatures: Tensor, mean: Tensor, spread: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return log T on a rising grid [G], and the logarithm of how often chains at each two exchange, [G, G]."""
    rising = temperatures.log().flip(0).numpy()
    grid = np.linspace(rising[0], rising[-1], _GRID)
    falling = mean.cummin(0).values  # as the temperature falls
    mu, s = (torch.from_numpy(np.interp(grid, rising, x.flip(0).numpy())) for x in (falling, spread))
    return grid, log_swap_rate(torch.from_numpy(np.exp(-grid)), mu, s).numpy()


def log_swap_rate(beta: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """Return the logarithm of how often chains at each two of G temperatures exchange, [G, G], the colder one first.

    Parameters
    ----------
    beta, mean, spread : float64 [G]
        1/T, and mean and standard deviation of the energies there, normal ones.
    """
    step, m = beta[:, None] - beta, mean[:, None] - mean
    v = (spread.square()[:, None] + spread.square()).clamp_min(1e-300)
    root = v.sqrt()
    ahead = torch.special.log_ndtr(m / root)
    behind = step * m + step.square() * v / 2 + torch.special.log_ndtr(-(m + step * v) / root)
    return torch.logaddexp(ahead, behind).clamp(max=0)


def _climb(rate: np.ndarray, least: float, replicas: int) -> list[int]:
    """Return the places on the grid of R rungs as far apart as log rates of `least` or more allow, the first at 0."""
    rungs = [0]
    for _ in range(replicas - 1):
        rare = (rate[rungs[-1], rungs[-1] + 1 :] < least).nonzero()[0]
        rungs.append(rungs[-1] + int(rare[0]) if len(rare) else len(rate) - 1)
    return rungs
