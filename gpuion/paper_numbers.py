"""The numbers of the paper's figures and tables: errors, principal components, two-point functions, snapshots, cost.

Legend: n structures, K bins of r, C chains, T cycles, S visited structures a chain. Lengths in voxels, D* in units of
the data's best D.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpuion.baselines import ridge
from gpuion.chains import AnnealResult, load_states
from gpuion.components import PrincipalComponents, correlation, principal_components
from gpuion.dataset import Dataset
from gpuion.errors import CheckpointError
from gpuion.labeling import label
from gpuion.predictor import logarithm
from gpuion.radial import pair_distribution
from gpuion.study import Pair, Remembered, Study
from gpuion.survey import touching
from gpuion.training import metrics
from gpuion.two_point import cluster_correlation, lineal_path, phase_correlation
from gpuion.voxels import voxelize

_MOST = 1200  # structures whose images are measured: 25 ms each, so half a minute
_BATCH = 16


def scores(pair: Pair) -> dict[str, float]:
    """Return number of structures, MSE, MAPE and Pearson's R of predictions."""
    true, predicted = pair
    found = metrics(torch.from_numpy(predicted), torch.from_numpy(true))
    return {"structures": len(true), **found}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Components:
    """Principal components of g(r) of structures, their D*, and which of them annealing met."""

    found: PrincipalComponents
    d_star: np.ndarray
    annealed: np.ndarray
    pearson: Tensor

    def first(self, count: int = 2) -> list[dict[str, float]]:
        """Return share of the variance and R with D of the first components, as JSON values."""
        pairs = zip(self.found.share[:count].tolist(), self.pearson[:count].tolist(), strict=True)
        return [{"share": share, "r": r} for share, r in pairs]


def everything(study: Study) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Return centres [n, N, 3], D* [n] and which were annealed [n], of the dataset and of all that annealing met."""
    data, met = study.run.data, study.run.annealed
    sets = [data.subset(data.settled)] + ([met.subset(met.settled)] if met is not None else [])
    unit = data.d_reference
    centers = torch.cat([each.centers for each in sets])
    D = torch.cat([each.mean_diffusivity / unit for each in sets]).numpy()
    return centers, D, np.repeat([False, True][: len(sets)], [len(each) for each in sets])


def components(g: Tensor, d_star: np.ndarray, annealed: np.ndarray) -> Components | None:
    """Return the principal components of g(r) [n, K] and how they go with D; None of fewer than three structures."""
    if len(g) < 3 or bool((g == g[0]).all()) or bool((d_star == d_star[0]).all()):
        return None
    found = principal_components(g)
    pearson = correlation(found.scores, torch.from_numpy(d_star))
    return Components(found=found, d_star=d_star, annealed=annealed, pearson=pearson)


def two_point(study: Study, memory: Remembered) -> dict[str, dict[str, Any]]:
    """Return g(r) and other two-point functions of the same structures, and how much each tells of D.

    Of each: its mean over the tenths of the lowest and highest D, `low` and `high` [K]; `share` of the variance and
    |R| with D, `r`, of its first two principal components; error and R of ridge regression of log D* on it, learnt
    from the training part, on the test part, `test`; and the number of `structures`. All end where the shortest of
    them does, half the box.
    """
    data = study.run.data
    usable = torch.from_numpy(np.flatnonzero(data.settled.numpy() & (study.part != "validation")))
    some = data.subset(usable[:: max(1, -(-len(usable) // _MOST))])
    part = study.part[usable.numpy()][:: max(1, -(-len(usable) // _MOST))]
    r_max, train = int((data.box - 1) // 2), part == "train"
    if train.sum() < 10 or (~train).sum() < 3:
        return {}
    curves = _curves(some, r_max, memory)
    y = logarithm(some.d_star)
    return {name: _tells(x, y, some.d_star, torch.from_numpy(train)) for name, x in curves.items()}


def _curves(data: Dataset, r_max: int, memory: Remembered) -> dict[str, Tensor]:
    """Return the functions [n, r_max + 1] of structures; those of images take the longest, and are remembered."""
    key = f"two-point 1 {data.fingerprint}"
    held = memory.get(key)
    if held is None:
        voxels, parts = round(data.box), []
        for centers in data.centers.split(_BATCH):
            image = voxelize(centers, box=data.box, diameter=data.diameter, voxels=voxels)
            parts.append(torch.stack([phase_correlation(image, r_max), lineal_path(image, r_max)]))
        held = memory.put(key, torch.cat(parts, 1))
    return {
        "g(r) of the centres": pair_distribution(data.centers, box=data.box, r_max=r_max),
        "S₂(r) of the spheres": held[0],
        "L(r) between them": held[1],
        "g(r) within clusters": cluster_correlation(
            data.centers, box=data.box, cutoff=min(touching(data), data.box / 2), r_max=r_max
        ),
    }


def _tells(x: Tensor, y: Tensor, d_star: Tensor, train: Tensor) -> dict[str, Any]:
    """Return what a function [n, K] tells of D."""
    found = principal_components(x)
    r = correlation(found.scores[:, :2], d_star).abs()
    scale = x[train].std(0) + 1e-12
    rows = (x - x[train].mean(0)) / scale
    weight = ridge(rows[train], y[train])
    guess = (rows @ weight - rows[train].mean(0) @ weight + y[train].mean()).exp()
    order = d_star.argsort()
    tenth = max(1, len(x) // 10)
    return {
        "low": x[order[:tenth]].mean(0).numpy(), "high": x[order[-tenth:]].mean(0).numpy(),
        "share": found.share[:2].tolist(), "r": r.tolist(), "structures": len(x),
        "test": metrics(guess[~train], d_star[~train]),
    }  # fmt: skip


Shot = tuple[int, Tensor, float, float]
"""Cycle, counted from 1, centres [N, 3], predicted and exact D*."""


def snapshots(study: Study, count: int = 4) -> dict[str, list[Shot]]:
    """Return by direction, "max" and "min", the structures of the best chain at some cycles from the first to the last.

    It is the chain of the first round that ends at the best prediction. The exact D* is solved for anew.
    """
    shown: dict[str, list[Shot]] = {}
    for name in list(study.run.rounds)[:1]:
        for direction, sign in (("max", 1), ("min", -1)):
            states = list((study.run.path / name).glob(f"state-{direction}-*.pt"))
            result = _loaded(states) if states else None
            if result is None:
                continue
            samples = result.visited.shape[1] // max(result.cycles, 1)
            if not samples:
                continue
            chain = int((sign * result.trace[:, -1]).argmax())
            steps = np.unique(np.geomspace(1, result.cycles, count).round().astype(int))
            at = torch.from_numpy(steps) * samples - 1
            centers = result.visited[chain, at]
            D = _exact(centers, study.run.data)
            shown[direction] = list(zip(
                steps.tolist(), centers, result.visited_score[chain, at].tolist(), D.tolist(), strict=True,
            ))  # fmt: skip
    return shown


def _loaded(states: list[Path]) -> AnnealResult | None:
    """Return the chains of some state files; None, and a word on it, where another version wrote them."""
    try:
        return load_states(states)
    except CheckpointError as error:
        print(f"no snapshots of {states[0].parent}: {error}")
        return None


def _exact(centers: Tensor, data: Dataset) -> Tensor:
    found = label(centers, box=data.box, diameter=data.diameter, sites_per_voxel=data.sites_per_voxel, model=data.model,
                  tolerance=2e-3)  # fmt: skip
    return found.diffusivity.mean(-1) / data.d_reference


def cost(study: Study, structures: int = 8) -> list[dict[str, Any]]:
    """Return the processor time of a structure, seconds: each network's, the exact solve's, the random walk's.

    Measured here and now on structures of the test part, after a first call of each: networks from sphere centres or
    images drawn anew, one structure at a time and, if that was less, eight; the exact solve to 0.5%; one walk with the
    settings of the run's check, if it has one. On more than one site a voxel, where a walk may take hours, both are
    left out. `error` is what the method is off by, %: of the network on the test
    part, of the solve as it says itself, of the walk its standard error.
    """
    data = study.run.data
    test = data.subset(torch.from_numpy(np.flatnonzero((study.part == "test") & data.settled.numpy())[:structures]))
    if not len(test):
        return []
    cell: dict[str, Any] = {"box": data.box, "diameter": data.diameter}
    rows = []
    for kind, folders in study.nets.items():
        net = list(folders.values())[-1]
        alone, together = (
            _least(functools.partial(net.predict, some, **cell)) / len(some)
            for some in (test.centers[:1], test.centers)
        )
        mape = scores(study.predicted[kind][-1]["test"])["mape"] if "test" in study.predicted[kind][-1] else None
        rows.append({"what": kind, "seconds": min(alone, together), "error": mape})
    if data.sites_per_voxel > 1:
        return rows
    medium: dict[str, Any] = {**cell, "sites_per_voxel": 1, "model": data.model}
    spent = _least(lambda: label(test.centers, **medium, tolerance=5e-3)) / len(test)
    rows.append({"what": "exact solve", "seconds": spent, "error": 0.5})
    return rows + _walk(study, test.centers[:1], medium)


def _walk(study: Study, centers: Tensor, medium: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the time of one walk as those of the run's check were made; none without a check."""
    check = study.run.check
    config: Mapping[str, Any] = study.run.made.get("check", {}).get("config", {})
    if check is None or check.diffusivity_kmc is None or "walkers" not in config or isinstance(config["time"], str):
        return []
    label(centers, **medium, method="kmc", walkers=2, time=1.0)  # numba compiles on the first call
    began = time.process_time()
    found = label(centers, **medium, method="kmc", walkers=config["walkers"], time=config["time"])
    spent = time.process_time() - began
    D, s = found.diffusivity.mean(-1), found.standard_error.square().sum(-1).sqrt() / 3
    return [{"what": "random walk", "seconds": spent, "error": 100 * float((s / D)[0])}]


def _least(call: Callable[[], object], times: int = 3) -> float:
    """Return the least processor time of some calls after a first, seconds."""
    call()
    spent = []
    for _ in range(times):
        began = time.process_time()
        call()
        spent.append(time.process_time() - began)
    return min(spent)
