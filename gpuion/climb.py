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
from pathlib import Path

import torch
from torch import Tensor

from gpuion import files
from gpuion.ascent import climb, exact_gradient
from gpuion.config import option, parse
from gpuion.dataset import Dataset, open_dataset
from gpuion.designs import named, save
from gpuion.errors import CheckpointError, ConfigError, run_script
from gpuion.starts import check_starts, starts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Where to climb from, and how."""

    data: tuple[str, ...] = option((), "folders of labelled structures; the first has the unit of D*", group="files")
    out: Path = option(Path("runs/climb"), "folder for what comes out", identity=False)
    direction: str = option(
        "max", "climb this way; upwards if not given", flags={"--maximize": "max", "--minimize": "min"}, group="the aim"
    )
    start: str = option(
        "random", "fresh random structures, or the data's extremes", choices=("random", "data"), group="the climb"
    )
    runs: int = option(5, "independent runs")
    steps: int = option(40, "steps of each")
    stride: float = option(1.0, "first step, voxels; the last is a fiftieth of it")
    core_width: float = option(0.25, "width over which a core fades in, voxels")
    tolerance: float = option(1e-3, "relative error of the labels; gradients have ten times that in D", group="labels")
    seed: int = option(0, "seed of fresh structures", group="the run")


def main() -> None:
    """Read the command line, climb, label."""
    config = parse(Config, Path(__file__).parent.parent, __doc__ or "", prog="python -m gpuion.climb")
    if not config.data or config.runs < 1 or config.direction not in {"max", "min"}:
        raise ConfigError(f"give --data FOLDER and --runs of 1 or more, got {config.data} and {config.runs}")
    data, up = open_dataset(config.data), config.direction == "max"
    check_starts(data, config.runs if config.start == "data" else 0)
    with files.claim_folder(config.out, "climb", config, content={"data": data.fingerprint}):
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
        held = files.load_tensors(path)
        if not isinstance(held, dict) or not _is_run(held, centers):
            raise CheckpointError(f"{path} is not a run of climb; remove it to make that run again")
        return held
    began, sign = time.process_time(), 1.0 if config.direction == "max" else -1.0
    diffusivity = exact_gradient(data, 10 * config.tolerance, config.core_width)
    best, heights = climb(
        lambda x: sign * diffusivity(x).mean(-1).log(), centers, box=data.box, diameter=data.diameter,
        steps=config.steps, stride=config.stride,
    )  # fmt: skip
    seconds, trace = time.process_time() - began, [math.exp(sign * height) for height in heights]
    found = {"centers": best, "trace": trace, "seconds": seconds}
    files.save_tensors(path, found)
    print(f"{path.stem}: smooth D* {trace[0]:.4f} to {trace[-1]:.4f} in {seconds:.0f} s of processor time", flush=True)
    return found


def _is_run(held: dict, centers: Tensor) -> bool:
    """Return whether a file's content is what `run` keeps of structures like these."""
    found, trace = held.get("centers"), held.get("trace")
    if not (isinstance(found, Tensor) and found.shape == centers.shape and found.dtype == centers.dtype):
        return False
    numbers = [*trace, held.get("seconds")] if isinstance(trace, list) else [None]
    return bool(found.isfinite().all()) and all(type(x) is float for x in numbers)


if __name__ == "__main__":
    run_script(main)
