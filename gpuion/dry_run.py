"""What a script would do, in what time and memory: `--dry-run` measures a little of the work and writes nothing.

Times are of this machine as busy as it is, and scale with the number of structures; each line says what it rests on.

Legend: n structures, N particles, C chains.
"""

import copy
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpuion import hops, training
from gpuion.annealing import anneal as move
from gpuion.baselines import Ridge
from gpuion.dataset import Dataset
from gpuion.derived import Derived
from gpuion.design import Design
from gpuion.distributed import World
from gpuion.kmc import walk
from gpuion.labeling import label
from gpuion.medium import electrolyte
from gpuion.models import Model
from gpuion.objectives import Objective
from gpuion.predictor import Predictor
from gpuion.scoring import score_of
from gpuion.shards import is_whole
from gpuion.starts import starts
from gpuion.timing import peak_memory
from gpuion.training import Plan, Samples

_EDGE = 80  # sites: larger lattices are timed on coarser ones
_LONG = 10.0  # seconds of one calibration, about
_ATTEMPTS = 2e6  # of the shorter walk of a calibration
_CHAINS = 8  # that are timed, for all of them
_CLEAR, _STEPS = 0.5, 4096  # seconds that steps are to take beside the beginning, and how many may
_FIELDS = {"cpu": 6, "cuda": 14}  # in flight in a solve, as `gpuion.homogenization` counts them


def _by_one(tell: Callable[..., None]) -> Callable[..., None]:
    """Return what only the first rank does, the last argument its world; all leave."""

    @functools.wraps(tell)
    def told(*given: Any) -> None:
        if given[-1].is_main:
            tell(*given)
        given[-1].close()

    return told


@_by_one
def simulate(config: Any, structures: Design | Derived, shards: Sequence[tuple[int, Tensor]], world: World) -> None:
    """Tell of a run of simulate.py."""
    left = [ids for k, ids in shards if not is_whole(_shard(config.out, k), ids.numpy(), config.seed)]
    n, ids, edge = sum(map(len, left)), torch.cat([ids for _, ids in shards]), _edge(structures, config)
    cell = f"{structures.box:g} voxels and {edge} sites an edge"
    print(f"would label {n} of {len(ids)} structures, {cell}, method {config.method}")
    names = f"{_shard(config.out, shards[0][0]).name} … {_shard(config.out, shards[-1][0]).name}"
    _files(config.out, f"{len(left)} of {len(shards)} shards, {names}, run.json, dataset.json, timing.json")
    methods = ("exact", "kmc") if config.method == "both" else (config.method,)
    each = math.fsum(_METHODS[method](config, structures, ids, world.device) for method in methods)
    now = _peak(world)
    fields = _FIELDS[world.device.type] * 3 * 4 * edge**3
    walks = 64 * 3 * 20 * config.walkers if "kmc" in methods else 0  # displacements, and four times that to analyse
    print(
        f"memory of a process: {_bytes(now)}, its peak until now (measured), and {_bytes(fields + walks)} for each "
        f"structure in hand (formula: {_FIELDS[world.device.type]} float32 fields of three axes"
        + (", 64 positions a walker)" if walks else ")")
    )
    _total(n * each / world.size, world)


def _edge(structures: Design | Derived, config: Any) -> int:
    return round(structures.box * config.sites_per_voxel)


def _shard(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.h5"


def _exact(config: Any, structures: Design | Derived, ids: Tensor, device: torch.device) -> float:
    """Return the seconds of an exact label."""
    fine, n = config.sites_per_voxel, len(ids)
    coarse = max(1, min(fine, int(_EDGE // structures.box)))
    some = ids[sorted({n // 6, n // 2, 5 * n // 6})]  # of several families, which take different times
    centers = structures.centers(some.tolist(), device)

    def solve(c: Tensor) -> object:
        cell = {"box": structures.box, "diameter": structures.diameter, "sites_per_voxel": coarse}
        return label(c, **cell, tolerance=config.tolerance)

    solve(centers[:1])  # compiles what is not
    seconds = _several(lambda k: solve(centers[k : k + 1]), len(centers))
    each = sum(seconds) / len(seconds) * (fine / coarse) ** 3
    scaled = f" on {round(structures.box * coarse)}³ sites, times {(fine / coarse) ** 3:g}" if fine > coarse else ""
    print(f"exact solve: {each:.3g} s each (measured, {len(seconds)} one by one{scaled})")
    return each


def _walk(config: Any, structures: Design | Derived, ids: Tensor, device: torch.device) -> float:
    """Return the seconds of a walk of given length."""
    if isinstance(config.time, str):
        print("walks: not foreseen, as with --time auto each goes on until it has settled")
        return math.nan
    centers = structures.centers(ids[:1].tolist(), device)
    cell = {"box": structures.box, "diameter": structures.diameter, "sites_per_voxel": config.sites_per_voxel}
    medium = electrolyte(centers, **cell)
    rate, W = 6 * float(hops.rates(medium).fastest[0]), min(config.walkers, 512)
    short = _ATTEMPTS / (rate * W)
    walk(medium, walkers=W, time=short)  # compiles what is not
    first, second = (_timed(functools.partial(walk, medium, walkers=W, time=t)) for t in (short, 4 * short))
    speed = 3 * _ATTEMPTS / max(second - first, 1e-3)
    attempts = config.walkers * rate * config.time
    each = first + attempts / speed
    print(f"walk: {each:.3g} s each ({attempts:.3g} attempts at the {speed:.3g} a second of {W} walkers, measured)")
    return each


_METHODS: Mapping[str, Callable[[Any, Design | Derived, Tensor, torch.device], float]] = {"exact": _exact, "kmc": _walk}


@_by_one
def train(config: Any, net: Model, parts: dict[str, Samples], world: World) -> None:
    """Tell of a run of train.py; the network is changed."""
    sizes = {name: len(samples) for name, samples in parts.items()}
    weights = sum(p.numel() for p in net.parameters())
    print(f"would train {config.model} ({weights} weights) on {', '.join(f'{n} {name}' for name, n in sizes.items())}")
    _files(config.out, "run.json, surrogate.pt, last.pt, history.jsonl, metrics.json, predictions.json, timing.json")
    plan = Plan(
        epochs=1000, batch=config.batch, learning_rate=min(1e-4, config.learning_rate), precision=config.precision
    )
    some = _first(parts["train"], max(1, config.batch // world.size)).to(world.device)
    prepare = _timed(lambda: training.prepared(net, some)) / len(some) if isinstance(net, Predictor) else 0.0
    some = training.prepared(net, some)
    training.calibrate(net, some)
    if isinstance(net, Ridge):
        learn, epochs = 0.0, 0
        print(f"preparing: {prepare:.3g} s a structure (measured on {len(some)}); it is solved at once")
    else:
        optimizer, alone = training.optimizer_for(net, plan), World(rank=0, size=1, device=world.device)
        epoch = lambda: training.train_epoch(net, optimizer, some, epoch=0, plan=plan, world=alone)  # noqa: E731
        epoch()  # brings in all code
        learn, epochs = min(_several(lambda _: epoch(), 3)) / len(some), config.epochs
        most = ", at most, as it may stop early" if config.patience else ""
        print(f"learning: {learn:.3g} s a structure and epoch (measured, batch of {len(some)}), {epochs} epochs{most}")
    training.predict(net, some)
    predict = _timed(lambda: training.predict(net, some)) / len(some)
    print(f"memory of a process: {_bytes(_peak(world))}, its peak at these steps (measured)")
    every, seen = sum(sizes.values()), epochs * sizes["validation"]
    seconds = every * prepare + (epochs * sizes["train"] * learn + (seen + every) * predict) / world.size
    _total(seconds, world)


@_by_one
def anneal(config: Any, data: Dataset, net: Model | None, goals: dict[str, Objective], world: World) -> None:
    """Tell of a run of anneal.py."""
    N, members, total = data.centers.shape[1], config.chains * config.exchange, 0.0
    print(f"would anneal {members} chains of {N} spheres {' and '.join(goals)}, by {config.score}")
    made = "run.json, state-*.pt, state-*.visited, shards, dataset.json, summary.json, traces.json, timing.json"
    if config.rounds:
        folders = " and ".join(f"{kind}-1 … {kind}-{config.rounds}" for kind in ("round", "model"))
        made = f"run.json, rounds.json, {folders}, of a run of anneal.py and of train.py each, at most"
    _files(config.out, made)
    for d, goal in goals.items():
        total += _chains(config, data, net, goal, config.ids(world, d))
    kept = sum(config.cycles_of(d) * min(config.samples, config.steps) for d in goals)
    held = members * kept * (12 * N + 8)
    solve = lambda: label(  # noqa: E731
        data.centers[:1], box=data.box, diameter=data.diameter, sites_per_voxel=data.sites_per_voxel, model=data.model,
        tolerance=config.tolerance,
    )  # fmt: skip
    solve()
    down = config.relabel if config.relabel_min is None else config.relabel_min
    each, wanted = _timed(solve), sum(config.chains + (config.relabel if d == "max" else down) for d in goals)
    print(f"labels: {each:.3g} s each (measured on one), {wanted} at most")
    print(
        f"memory of a process: {_bytes(_peak(world))}, its peak until now (measured), and {_bytes(held)} of "
        f"structures visited (formula: {kept} a chain of 12 N + 8 bytes)"
    )
    seconds = total + each * wanted / world.size
    if config.rounds and net is not None:
        seconds = config.rounds * seconds + _relearning(config, data, net, wanted) / world.size
    _total(seconds, world)


def _chains(config: Any, data: Dataset, net: Model | None, goal: Objective, ids: Tensor) -> float:
    """Return the seconds of this process's chains in a direction, from those of the first few."""
    score, cycles = score_of(net, data, goal, config.batch, config.tolerance), config.cycles_of(goal.direction)
    begin = functools.partial(starts, data, maximize=goal.maximize, seed=config.seed, objective=goal, net=net)
    first, climb = begin(ids[:_CHAINS], "random" if config.start == "ascent" else config.start), 0.0
    if config.start == "ascent" and len(ids):
        climb = len(ids) * _timed(lambda: begin(ids[:1], "ascent"))
        print(f"{goal.direction}: {climb:.3g} s to lead {len(ids)} chains along the gradient (measured on one)")
    run = functools.partial(
        move, score, first, box=data.box, diameter=data.diameter, cycles=1, samples=1, maximize=goal.maximize
    )
    run(steps=1)  # compiles what is not
    some, scale = len(first), len(ids) / max(len(first), 1)
    steps, one = 4, min(_several(lambda _: run(steps=1), 3))
    while (more := _timed(functools.partial(run, steps=1 + steps))) < one + _CLEAR and steps < _STEPS:
        steps *= 4
    each, one = scale * max(more - one, 0.0) / steps, scale * one
    rests = f"{steps} steps" + ("" if some == len(ids) else f" of {some} of them")
    print(
        f"{goal.direction}: {each:.3g} s a step of {len(ids)} chains (measured, {rests}), {one:.3g} s to begin a "
        f"cycle (measured), {cycles} cycles of {config.steps} steps"
    )
    return climb + cycles * (one + each * (config.steps - 1))


def _relearning(config: Any, data: Dataset, net: Model, labels: int) -> float:
    """Return the seconds of the retrainings of all rounds, each on the data and on the labels until then."""
    net, n, V = copy.deepcopy(net), min(16, len(data)), int(net.meta["voxels"])
    some = Samples(
        centers=data.centers[:n], target=data.d_star[:n].float(), id=data.id[:n],
        axes=(data.diffusivity[:n] / data.d_reference).float(),
        box=data.box, diameter=data.diameter, voxels=V,
    ).to(net.output_shift.device)  # fmt: skip
    plan, alone = Plan(epochs=1000, batch=n, learning_rate=1e-6), World(rank=0, size=1, device=some.centers.device)
    prepare = _timed(lambda: training.prepared(net, some)) / n
    some, optimizer = training.prepared(net, some), training.optimizer_for(net, plan)
    epoch = lambda: training.train_epoch(net, optimizer, some, epoch=0, plan=plan, world=alone)  # noqa: E731
    epoch()  # brings in all code
    learn = _timed(epoch) / n
    print(f"relearning: {learn:.3g} s a structure and epoch (measured, {n} at once), {config.epochs} epochs a round")
    met = sum(len(data) + k * labels for k in range(1, config.rounds + 1))
    return met * (prepare + config.epochs * learn)


def _first(samples: Samples, n: int) -> Samples:
    """Return the first structures of a part."""
    axes = None if samples.axes is None else samples.axes[:n]
    return Samples(
        centers=samples.centers[:n], target=samples.target[:n], id=samples.id[:n], axes=axes, box=samples.box,
        diameter=samples.diameter, voxels=samples.voxels,
    )  # fmt: skip


def _timed(task: Callable[[], object]) -> float:
    """Return the seconds of a task, its work on a GPU included."""
    began = time.perf_counter()
    task()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _several(task: Callable[[int], object], most: int) -> list[float]:
    """Return the seconds of a task done again and again, until that has taken long."""
    seconds: list[float] = []
    while len(seconds) < most and sum(seconds) < _LONG:
        seconds.append(_timed(lambda: task(len(seconds))))
    return seconds


def _peak(world: World) -> int:
    return peak_memory(world.device)


def _files(folder: Path, names: str) -> None:
    kind = "which is there" if folder.exists() else "which would be made"
    print(f"files in {folder}, {kind}: {names}")


def _bytes(count: float) -> str:
    return f"{_short(count / 1e9)} GB" if count >= 1e8 else f"{_short(count / 1e6)} MB"


def _short(number: float) -> str:
    """Return two digits, or all before the point."""
    return f"{number:.2g}" if number < 99.5 else f"{number:.0f}"


def _total(seconds: float, world: World) -> None:
    """Print how long it would take in all."""
    units = {"days": 86400, "hours": 3600, "minutes": 60}
    unit, size = next((u for u in units.items() if seconds > 2 * u[1]), ("seconds", 1))
    text = "not foreseen" if math.isnan(seconds) else f"about {_short(seconds / size)} {unit}"
    print(f"time: {text} on {world.size} process(es) like this one; nothing was written")
