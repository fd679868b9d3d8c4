"""Spheres moved along the exact gradient of D itself, with no surrogate: a plain rival of annealing.

    python -m gpuion.climb --data data/study --runs 5 --steps 40 --out runs/search/climb
    python -m gpuion.climb --data data/study runs/search/designs --start data --stride 0.4 --out runs/search/polished

Each run starts from a fresh random structure, or with --start data from one of the best of those given. What comes out
is labelled by the exact solver on the usual medium, not on the smooth one that has gradients. Stopped, the same
command goes on after the last run that was finished.

Legend: N spheres. Lengths in voxels.
"""

if __name__ == "__main__":  # before torch, which takes seconds to load: a stop meanwhile is one line, too
    from gpuion.errors import expect_stops

    expect_stops()

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from gpuion import files
from gpuion.config import option, parse
from gpuion.dataset import Dataset, open_dataset
from gpuion.designs import named, save
from gpuion.errors import ConfigError, run_script
from gpuion.gradients import effective_diffusivity
from gpuion.separation import separate
from gpuion.smooth import smooth_medium
from gpuion.starts import check_starts, starts

_LEAST = 0.02  # of the first stride: the last one
_MEMORY = 0.8, 0.95  # of gradients and of their squares, from step to step
_FLOOR = 0.1  # of the mean gradient: a sphere whose gradient is smaller moves by less than a stride


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Where to climb from, and how."""

    data: tuple[str, ...] = option((), "folders of labelled structures; the first has the unit of D*")
    out: Path = option(Path("runs/climb"), "folder for what comes out", identity=False)
    direction: str = option("max", "up or down", flags={"--maximize": "max", "--minimize": "min"})
    start: str = option("random", "fresh random structures, or the data's extremes", choices=("random", "data"))
    runs: int = option(5, "independent runs")
    steps: int = option(40, "steps of each")
    stride: float = option(1.0, "first step, voxels; the last is a fiftieth of it")
    core_width: float = option(0.25, "width over which a core fades in, voxels")
    tolerance: float = option(1e-3, "relative error of the labels; gradients have ten times that in D")
    seed: int = option(0, "seed of fresh structures")


def climb(
    diffusivity: Callable[[Tensor], Tensor], centers: Tensor, *, box: float, diameter: float, steps: int,
    stride: float = 1.0, maximize: bool = True,
) -> tuple[Tensor, list[float]]:  # fmt: skip
    """Move all spheres of one structure along the gradient of ln D, and apart where they overlap.

    Each sphere goes by m / (√v + f) times a stride that falls evenly in its logarithm, with m and v running means of
    its gradient and of the square of its length, and f a tenth of the mean length (Adam's rule, sphere by sphere).

    Parameters
    ----------
    diffusivity : callable
        Maps centres float64 [1, N, 3] to D [1], with gradients.
    centers : float [N, 3]
        Without overlaps.
    box, diameter : float
    steps : int
    stride : float
        Length of the first steps, voxels.
    maximize : bool

    Returns
    -------
    float64 [N, 3], list of float
        The best structure met by this D, without overlaps, and D at each step.

    Raises
    ------
    ValueError
        If steps or stride are not positive.
    """
    if steps < 1 or not (stride > 0 and math.isfinite(stride)):
        raise ValueError(f"steps and stride must be positive, got {steps} and {stride}")
    sign, (slow, slower) = (1.0 if maximize else -1.0), _MEMORY
    x = centers.double()[None]
    best, mean, square = x, torch.zeros_like(x), torch.zeros_like(x[..., :1])
    trace: list[float] = []
    for step in range(steps + 1):
        x = x.detach().requires_grad_()
        D = diffusivity(x)
        (gradient,) = torch.autograd.grad(sign * D.log().sum(), x)
        x = x.detach()
        trace.append(float(D.detach()))
        best = x if sign * trace[-1] >= max(sign * value for value in trace) else best
        mean = slow * mean + (1 - slow) * gradient
        square = slower * square + (1 - slower) * gradient.square().sum(-1, keepdim=True)
        size = (square / (1 - slower ** (step + 1))).sqrt() + _FLOOR * gradient.norm(dim=-1).mean()
        move = mean / (1 - slow ** (step + 1)) / size.clamp_min(1e-300)
        x = separate(x + move * (stride * _LEAST ** (step / steps)), box=box, diameter=diameter)
    return best[0], trace


def smooth_diffusivity(like: Dataset, core_width: float, tolerance: float) -> Callable[[Tensor], Tensor]:
    """Return the mean D* [B] of centres [B, N, 3] in the smooth medium of a data set's cell, with exact gradients."""

    def diffusivity(centers: Tensor) -> Tensor:
        medium = smooth_medium(
            centers, box=like.box, diameter=like.diameter, sites_per_voxel=like.sites_per_voxel, model=like.model,
            core_width=core_width,
        )  # fmt: skip
        tensor = effective_diffusivity(medium.potential, medium.log_diffusivity, tolerance=tolerance)
        return tensor.diagonal(dim1=1, dim2=2).mean(-1) / like.d_reference

    return diffusivity


def main() -> None:
    """Read the command line, climb, label."""
    config = parse(Config, Path(__file__).parent.parent, __doc__ or "")
    if not config.data or config.runs < 1 or config.direction not in {"max", "min"}:
        raise ConfigError(f"give --data FOLDER and --runs of 1 or more, got {config.data} and {config.runs}")
    data, up = open_dataset(config.data), config.direction == "max"
    check_starts(data, config.runs if config.start == "data" else 0)
    files.claim_folder(config.out, "climb", config, content={"data": data.fingerprint})
    ids = 2 * torch.arange(config.runs) + (not up)
    first = starts(data, ids, config.start, maximize=up, seed=config.seed)
    found = [run(config, data, centers, config.out / f"run-{k}.pt") for k, centers in enumerate(first)]
    labelled = save(
        config.out, named([f"climbed-{config.direction}"] * len(found), torch.stack([x["centers"] for x in found])),
        data, config.tolerance, files.identity(config),
    )  # fmt: skip
    D = labelled.d_star.tolist()
    files.write_json(
        config.out / "traces.json",
        {"trace": [x["trace"] for x in found], "processor_seconds": [x["seconds"] for x in found]},
    )
    print(f"{config.direction}: exact D* {', '.join(f'{value:.4f}' for value in D)}")


def run(config: Config, data: Dataset, centers: Tensor, path: Path) -> dict:
    """Return what one run found, from its file if it has one."""
    if path.exists():
        return dict(files.load_tensors(path))
    began = time.process_time()
    best, trace = climb(
        smooth_diffusivity(data, config.core_width, 10 * config.tolerance), centers, box=data.box,
        diameter=data.diameter, steps=config.steps, stride=config.stride, maximize=config.direction == "max",
    )  # fmt: skip
    seconds = time.process_time() - began
    wrapped = best.remainder(data.box).float()[None]
    wrapped = torch.where(wrapped < data.box, wrapped, 0.0)
    best = separate(wrapped, box=data.box, diameter=data.diameter)[0]  # rounding may let spheres overlap
    found = {"centers": best, "trace": trace, "seconds": seconds}
    files.save_tensors(path, found)
    print(f"{path.stem}: smooth D* {trace[0]:.4f} to {trace[-1]:.4f} in {seconds:.0f} s of processor time", flush=True)
    return found


if __name__ == "__main__":
    run_script(main)
