"""Models of D: how many structures a second they predict and learn from, in which precision, and what one takes.

All have the weights that they begin with: what was learnt does not change what a step costs. Legend: n structures.
"""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from measure import Row, Setting, clock, in_turn

import gpuion
from gpuion import training
from gpuion.baselines import Ridge
from gpuion.distributed import World
from gpuion.models import MODELS, Model, create
from gpuion.surrogate import BOUNDARIES
from gpuion.training import Plan, Samples

_SLOW = ("tiled",)  # 2.3 s a training structure on a core: two at once, and few repeats
# glibc gives large blocks back to the system after each step, and the next one faults them in again.
_KEEP = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_TOP_PAD_": str(2**28)}


def cell(setting: Setting, n: int) -> Samples:
    """Return n structures of the study's cell, or of a small one, with made-up labels."""
    N, box, voxels = (8, 40.0, 20) if setting.tiny else (91, 75.0, 75)
    diameter = gpuion.sphere_diameter(91, 75.0, 0.1)
    centers = gpuion.place(
        "chained", n_structures=n, n_particles=N, box=box, diameter=diameter, distance=(12.5, 13.5), seed=0
    )
    axes = 0.5 + 0.1 * torch.rand(n, 3, generator=torch.Generator().manual_seed(0))
    data = Samples(
        centers=centers, target=axes.mean(1), axes=axes, id=torch.arange(n), box=box, diameter=diameter, voxels=voxels
    )
    return data.to(setting.device)


def made(model: str, data: Samples) -> tuple[Model, Samples]:
    """Return a model with its scales, or solved, and the structures with what it prepares of them."""
    torch.manual_seed(0)
    net = create(model, voxels=data.voxels).to(data.target.device)
    data = training.prepared(net, data)
    if isinstance(net, Ridge):
        assert data.inputs is not None
        net.solve(data.target, data.inputs)
    else:
        training.calibrate(net, data)
    return net, data


def steps(model: str, data: Samples) -> Callable[[], object]:
    """Return a task: one step of training on all of the structures, as train.py takes it."""
    net, data = made(model, data)
    if isinstance(net, Ridge):
        return lambda: net.solve(data.target, data.inputs or ())
    plan = Plan(epochs=1000, batch=len(data), learning_rate=1e-4)
    optimizer, world = training.optimizer_for(net, plan), World(rank=0, size=1, device=data.target.device)
    return lambda: training.train_epoch(net, optimizer, data, epoch=0, plan=plan, world=world)


def _sizes(model: str, setting: Setting) -> tuple[int, int, int]:
    """Return how many structures to predict and to learn from at once, and how often."""
    if setting.tiny:
        return 2, 2, 2
    return (2, 2, 3) if model in _SLOW else (32, 16, setting.repeats)


def rates(setting: Setting) -> Iterator[Row]:
    """Every model: structures a second when preparing, predicting and training, as train.py does it."""
    for model in MODELS:
        many, few, repeats = _sizes(model, setting)
        net, data = made(model, cell(setting, many))
        bare = dataclasses.replace(data, inputs=None)
        facts = {
            "parameters": sum(p.numel() for p in net.parameters()),
            "prepare_seconds": min(
                clock(lambda net=net, bare=bare: training.prepared(net, bare)) for _ in range(repeats)
            )
            / many,
        }
        tasks = {
            f"predict, batches of {many}": (many, lambda net=net, data=data: training.predict(net, data)),
            f"train, batches of {few}": (few, steps(model, cell(setting, few))),
        }
        for what, (n, task) in tasks.items():
            (seconds,) = in_turn(task, repeats=repeats)
            yield Row(what=f"{model}: {what}", unit="structures/s", samples=[n / s for s in seconds], facts=facts)


def images(setting: Setting) -> Iterator[Row]:
    """The default periodic image network against the paper's tiled one, which it stands in for."""
    many, few, repeats = _sizes("tiled", setting)
    ours, theirs = (made(model, cell(setting, many)) for model in ("periodic", "tiled"))
    yield _beside("predict", many, lambda: training.predict(*ours), many, lambda: training.predict(*theirs), repeats)
    yield _beside("train", few, steps("periodic", cell(setting, few)), few, steps("tiled", cell(setting, few)), repeats)


def _beside(what: str, n: int, ours: Callable[[], object], m: int, theirs: Callable[[], object], repeats: int) -> Row:
    mine, other = in_turn(ours, theirs, repeats=repeats)
    return Row(
        what=f"periodic: {what}, batches of {n}", unit="structures/s", samples=[n / s for s in mine],
        peer="tiled, as in the paper", peer_samples=[m / s for s in other],
    )  # fmt: skip


def precision(setting: Setting) -> Iterator[Row]:
    """Image networks in bfloat16, with channels last and compiled, each against plain float32, training and predicting."""
    for model in BOUNDARIES:
        many, few, repeats = _sizes(model, setting)
        n = min(few, 8)
        image, target = _images(model, setting, n)
        plain = _pass(model, image, target, "plain")
        for way in ("bfloat16", "channels last", "bfloat16, channels last", "compiled"):
            if way == "compiled" and model in _SLOW and not setting.tiny:
                continue  # it is the convolutions' time, which no compiler here changes
            ours = _pass(model, image, target, way, tiny=setting.tiny)
            for number, what in enumerate(("predict", "train")):
                yield _row(f"{model}, {way}: {what}, batches of {n}", n, ours[number], plain[number], repeats)


def _row(what: str, n: int, ours: Callable[[], object], plain: Callable[[], object], repeats: int) -> Row:
    mine, other = in_turn(ours, plain, repeats=repeats)
    return Row(
        what=what, unit="structures/s", samples=[n / s for s in mine], peer="the same in plain float32",
        peer_samples=[n / s for s in other],
    )  # fmt: skip


def _images(model: str, setting: Setting, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    data = cell(setting, n)
    image = gpuion.voxelize(data.centers, box=data.box, diameter=data.diameter, voxels=data.voxels)
    return image, data.target


def _pass(
    model: str, image: torch.Tensor, target: torch.Tensor, way: str, *, tiny: bool = False
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return two tasks on drawn images: predict, and loss with gradients."""
    torch.manual_seed(0)
    net = create(model, voxels=image.shape[-1]).to(image.device)
    assert isinstance(net, gpuion.Surrogate)
    net.calibrate(target)
    if "channels last" in way:
        net, image = (x.to(memory_format=torch.channels_last_3d) for x in (net, image))
    # The eager backend, for a trial, needs no C++ compiler.
    call = torch.compile(net, backend="eager" if tiny else "inductor") if way == "compiled" else net
    half = "bfloat16" in way

    def cast() -> contextlib.AbstractContextManager[object]:
        return torch.autocast(image.device.type, torch.bfloat16) if half else contextlib.nullcontext()

    def predict() -> torch.Tensor:
        net.eval()
        with torch.no_grad(), cast():
            return call(image)

    def train() -> None:
        net.train()
        net.zero_grad()
        with cast():
            found = call(image)
        net.loss(found.float(), target).mean().backward()

    return predict, train


def memory(setting: Setting) -> Iterator[Row]:
    """Memory of a training step: what one more structure of the batch takes, of each model."""
    for model in MODELS:
        sizes = (2, 4) if setting.tiny or model in _SLOW else (8, 16, 32)
        peaks = [_alone(model, batch, setting, {}, 1)["bytes"] for batch in sizes]
        slopes = [max(1.0, (b - peaks[0]) / (n - sizes[0])) for n, b in zip(sizes[1:], peaks[1:], strict=True)]
        yield Row(
            what=f"{model}: slope of peak memory, batches of {sizes[0]} to {sizes[-1]}", unit="bytes/structure",
            samples=slopes, facts={"peak_bytes": dict(zip(map(str, sizes), peaks, strict=True))},
            note="tiny sizes say little" if setting.tiny else "",
        )  # fmt: skip


def malloc(setting: Setting) -> Iterator[Row]:
    """Training steps with glibc keeping the memory that it was given back, against as it is; of no use on a GPU."""
    for model in ("periodic", "zero", "tiled", "network"):
        _, few, repeats = _sizes(model, setting)
        turns = [[_alone(model, few, setting, extra, repeats)["seconds"] for extra in (_KEEP, {})] for _ in range(2)]
        ours, plain = ([few / s for turn in turns for s in turn[side]] for side in (0, 1))
        yield Row(
            what=f"{model}: train, batches of {few}, memory kept", unit="structures/s", samples=ours,
            peer="glibc's own setting", peer_samples=plain, facts={"environment": _KEEP},
        )  # fmt: skip


def _alone(model: str, batch: int, setting: Setting, extra: dict[str, str], repeats: int) -> dict[str, object]:
    """Return seconds and memory of training steps in a process of their own."""
    words = [model, batch, setting.device, setting.threads, repeats, setting.scale]
    command = [sys.executable, str(Path(__file__).parent / "step.py"), *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(setting.threads), **extra}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return dict(json.loads(done.stdout))
