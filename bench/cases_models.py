"""Models of D: how many structures a second they predict and learn from, in which precision, and what one takes.

All have the weights that they begin with: what was learnt does not change what a step costs. Legend: n structures.
"""

import contextlib
import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from measure import Row, Setting, clock, in_turn

import gpuion
from gpuion import training
from gpuion.baselines import Ridge
from gpuion.distributed import World
from gpuion.models import MODELS, Model, create
from gpuion.surrogate import BOUNDARIES
from gpuion.training import Plan, Samples

_STUDY = (91, 75.0, 75)  # spheres, edge, voxels
_SLOW = ("tiled",)  # 2.3 s a training structure on a core: two at once, and few repeats


def cell(setting: Setting, n: int) -> Samples:
    """Return n structures of the study's cell, or of a small one, with made-up labels."""
    N, box, voxels = (8, 40.0, 20) if setting.tiny else _STUDY
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
    net = _create(model, data.voxels).to(data.target.device)
    data = training.prepared(net, data)
    if isinstance(net, Ridge):
        assert data.inputs is not None
        net.solve(data.target, data.inputs)
    else:
        training.calibrate(net, data)
    return net, data


def _create(model: str, voxels: int) -> Model:
    """Return a model as train.py makes it, for a trial one of few channels."""
    return create(model, voxels=voxels, widths=() if voxels == _STUDY[2] else (4, 4))


def steps(model: str, data: Samples, precision: str = "fp32", world: World | None = None) -> Callable[[], object]:
    """Return a task: one step of training on all of the structures, as train.py takes it."""
    net, data = made(model, data)
    if isinstance(net, Ridge):
        return lambda: net.solve(data.target, data.inputs or ())
    plan = Plan(epochs=1000, batch=len(data), learning_rate=1e-4, precision=precision)
    world = world or World(rank=0, size=1, device=data.target.device)
    optimizer, wrapped = training.optimizer_for(net, plan), training.parallel(net, world)
    return lambda: training.train_epoch(wrapped, optimizer, data, epoch=0, plan=plan, world=world)


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
        prepare = functools.partial(training.prepared, net, bare)
        facts = {
            "parameters": sum(p.numel() for p in net.parameters()),
            "prepare_seconds": min(clock(prepare) for _ in range(repeats)) / many,
        }
        predict, train = functools.partial(training.predict, net, data), steps(model, cell(setting, few))
        for what, n, task in (("predict", many, predict), ("train", few, train)):
            (seconds,) = in_turn(task, repeats=repeats)
            yield Row(
                what=f"{model}: {what}, batches of {n}", unit="structures/s", samples=[n / s for s in seconds],
                facts=facts,
            )  # fmt: skip


def images(setting: Setting) -> Iterator[Row]:
    """The default periodic image network against the paper's tiled one, which it stands in for."""
    many, few, repeats = _sizes("tiled", setting)
    ours, theirs = (made(model, cell(setting, many)) for model in ("periodic", "tiled"))
    predicting = [functools.partial(training.predict, *pair) for pair in (ours, theirs)]
    learning = [steps(model, cell(setting, few)) for model in ("periodic", "tiled")]
    for what, n, tasks in (("predict", many, predicting), ("train", few, learning)):
        yield _row(f"periodic: {what}, batches of {n}", n, tasks, "tiled, as in the paper", repeats)


def _row(what: str, n: int, tasks: Sequence[Callable[[], object]], peer: str, repeats: int) -> Row:
    """Return structures a second of two tasks on n structures in turn."""
    ours, theirs = in_turn(*tasks, repeats=repeats)
    return Row(
        what=what, unit="structures/s", samples=[n / s for s in ours], peer=peer, peer_samples=[n / s for s in theirs]
    )


def precision(setting: Setting) -> Iterator[Row]:
    """Image networks in bfloat16, with channels last and compiled, against plain float32: predicting and training."""
    for model in BOUNDARIES:
        _, few, repeats = _sizes(model, setting)
        n = min(few, 8)
        image, target = _images(setting, n)
        plain = _pass(model, image, target, "plain")
        for way in ("bfloat16", "channels last", "bfloat16, channels last", "compiled"):
            if way == "compiled" and model in _SLOW and not setting.tiny:
                continue  # it is the convolutions' time, which no compiler here changes
            ours = _pass(model, image, target, way, tiny=setting.tiny)
            for number, what in enumerate(("predict", "train")):
                if not _runs(ours[number]):
                    continue
                title = f"{model}, {way}: {what}, batches of {n}"
                yield _row(title, n, (ours[number], plain[number]), "the same in plain float32", repeats)


def _runs(task: Callable[[], object]) -> bool:
    """Return whether a task works at all: not every layer takes bfloat16, nor every machine has a compiler."""
    try:
        task()
    except RuntimeError as error:
        print(f"  left out: {str(error).splitlines()[0]}", file=sys.stderr)
        return False
    return True


def _images(setting: Setting, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    data = cell(setting, n)
    image = gpuion.voxelize(data.centers, box=data.box, diameter=data.diameter, voxels=data.voxels)
    return image, data.target


def _pass(
    model: str, image: torch.Tensor, target: torch.Tensor, way: str, *, tiny: bool = False
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return two tasks on drawn images: predict, and loss with gradients."""
    torch.manual_seed(0)
    net = _create(model, image.shape[-1]).to(image.device)
    assert isinstance(net, gpuion.Surrogate)
    net.calibrate(target)
    if "channels last" in way:
        net = net.to(memory_format=torch.channels_last_3d)
        image = image.to(memory_format=torch.channels_last_3d)
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
    for model in MODELS[-1:] if setting.tiny else MODELS:
        sizes = (2, 4) if setting.tiny or model in _SLOW else (8, 16, 32)
        peaks = [_alone(model, batch, setting, "kept", 1)["bytes"] for batch in sizes]
        slopes = [max(1.0, (b - peaks[0]) / (n - sizes[0])) for n, b in zip(sizes[1:], peaks[1:], strict=True)]
        yield Row(
            what=f"{model}: slope of peak memory, batches of {sizes[0]} to {sizes[-1]}", unit="bytes/structure",
            samples=slopes, facts={"peak_bytes": dict(zip(map(str, sizes), peaks, strict=True))},
            note="tiny sizes say little" if setting.tiny else "",
        )  # fmt: skip


def malloc(setting: Setting) -> Iterator[Row]:
    """Training steps with memory kept between them, as train.py does on a CPU, against glibc's own setting."""
    for model in ("zero",) if setting.tiny else ("periodic", "zero", "tiled", "network"):
        _, few, repeats = _sizes(model, setting)
        turns = [
            [_alone(model, few, setting, way, repeats) for way in ("kept", "plain")]
            for _ in range(1 if setting.tiny else 4)
        ]
        ours, plain = ([few / s for turn in turns for s in turn[side]["seconds"]] for side in (0, 1))
        peaks = [max(turn[side]["bytes"] for turn in turns) for side in (0, 1)]
        yield Row(
            what=f"{model}: train, batches of {few}, memory kept", unit="structures/s", samples=ours,
            peer="glibc's own setting", peer_samples=plain,
            facts={"peak_bytes": peaks[0], "peak_bytes_plain": peaks[1]},
        )  # fmt: skip


def ranks(setting: Setting) -> Iterator[Row]:
    """Training on every GPU, their gradients averaged by NCCL, or on two processes of a CPU by gloo, against one."""
    on_gpus = setting.device != "cpu"
    count, by = (torch.cuda.device_count(), "NCCL") if on_gpus else (2, "gloo")
    for model in ("network",) if setting.tiny else ("periodic", "network"):
        _, few, repeats = _sizes(model, setting)
        sizes = (1, count) if count > 1 else (1,)
        turns = [[_together(model, few, n, setting, repeats) for n in sizes] for _ in range(1 if setting.tiny else 3)]
        rates = [[n * few / s for turn in turns for s in turn[i]] for i, n in enumerate(sizes)]
        yield Row(
            what=f"{model}: train, {sizes[-1]} process(es), {few} structures each", unit="structures/s",
            samples=rates[-1], peer="one process" if count > 1 else "", peer_samples=rates[0] if count > 1 else [],
            facts={"processes": sizes[-1], "backend": by},
            note="" if count > 1 else "one GPU: nothing for NCCL to do",
        )  # fmt: skip


def _together(model: str, few: int, count: int, setting: Setting, repeats: int) -> list[float]:
    """Return seconds of training steps on some processes, each with so many structures and as many threads."""
    threads = max(1, setting.threads // count)
    words = [model, few, setting.device, threads, repeats, setting.scale]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", count]
    command = [*launch, Path(__file__).parent / "ranks.py", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True, env=environment)
    return list(json.loads(done.stdout.splitlines()[-1]))


def _alone(model: str, batch: int, setting: Setting, way: str, repeats: int) -> dict[str, Any]:
    """Return seconds and memory of training steps in a process of their own, `kept` or `plain`."""
    words = [model, batch, setting.device, setting.threads, repeats, setting.scale, way]
    command = [sys.executable, str(Path(__file__).parent / "step.py"), *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(setting.threads)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return dict(json.loads(done.stdout))
