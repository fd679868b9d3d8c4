"""Temperatures for replica exchange, from a short annealing before it: all neighbours exchange equally often.

Legend: C chains, N particles, P temperatures of the pilot, S structures kept a temperature, R replicas.

Where energies at 1/T = β have the standard deviation σ(β), neighbours Δβ apart exchange with a probability of
erfc(Δβ σ / 2), exactly so for normal energies. So the rungs of a ladder lie at equal steps of ∫ σ dβ.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gpuion import files
from gpuion.annealing import anneal
from gpuion.dataset import Dataset
from gpuion.distributed import World
from gpuion.objectives import Objective
from gpuion.scores import Score
from gpuion.starts import starts

_TEMPERATURES = 10
_CHAINS = 8
_GRID = 4096


def pilot(
    score: Score, centers: Tensor, *, box: float, diameter: float, low: float, high: float, steps: int,
    maximize: bool = True, seed: int = 0, ids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return temperatures falling from `high` to `low`, and how far scores spread at each, float64 [P] both.

    The spread is the standard deviation over all chains in the second half of their steps at a temperature: within
    chains alone it would be too small, as they move slowly.

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
    late = kept[..., kept.shape[-1] // 2 :].cpu().transpose(0, 1).flatten(1)
    temperatures = high * cooling ** torch.arange(_TEMPERATURES, dtype=torch.float64)
    return temperatures, late.std(1)


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
        temperatures, spread = pilot(
            score, starts(data, ids, "random", maximize=goal.maximize, seed=seed), box=data.box, diameter=data.diameter,
            low=low, high=high, steps=steps, maximize=goal.maximize, seed=seed, ids=2**32 - 2 * _CHAINS + ids,
        )  # fmt: skip
        found, rate = spaced(temperatures, spread, replicas)
        lines = {"temperatures": found, "pilot_temperatures": temperatures, "pilot_spread": spread}
        files.write_json(path, {name: x.tolist() for name, x in lines.items()} | {"expected_swap_rate": rate})
        print(f"{path.stem}: {replicas} temperatures, neighbours should exchange at {rate:.0%}")
    world.barrier()
    return torch.tensor(read(path), dtype=torch.float64)


def read(path: Path) -> list[float]:
    """Return the temperatures of a file, none if there is no such file."""
    return list(json.loads(path.read_text())["temperatures"]) if path.exists() else []


def spaced(temperatures: Tensor, spread: Tensor, replicas: int) -> tuple[Tensor, float]:
    """Return R temperatures from the lowest to the highest, float64 [R], and how often neighbours should exchange.

    Between the temperatures given, log σ is taken to be linear in log β.

    Parameters
    ----------
    temperatures, spread : float64 [P]
        Falling temperatures, and the standard deviation of scores at each.
    replicas : int
        R, 2 or more.

    References
    ----------
    Kofke, J. Chem. Phys. 117 (2002) 6911; Predescu, Predescu and Ciobanu, J. Chem. Phys. 120 (2004) 4119.
    """
    if replicas < 2:
        raise ValueError(f"an exchange takes 2 replicas or more, got {replicas}")
    log_beta, sigma = -temperatures.log().numpy(), spread.numpy()
    if not sigma.any():  # nothing to go by: equal ratios
        return torch.from_numpy(np.exp(-np.linspace(log_beta[-1], log_beta[0], replicas))), 1.0
    grid = np.linspace(log_beta[0], log_beta[-1], _GRID)
    sigma = np.exp(np.interp(grid, log_beta, np.log(sigma.clip(1e-12 * sigma.max()))))
    slope = sigma * np.exp(grid)  # σ dβ = σ β d log β
    length = np.concatenate([[0.0], ((slope[1:] + slope[:-1]) / 2 * np.diff(grid)).cumsum()])
    at = np.interp(np.linspace(length[-1], 0.0, replicas), length, grid)
    return torch.from_numpy(np.exp(-at)), math.erfc(length[-1] / (replicas - 1) / 2)
