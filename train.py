"""Train a model on one or more datasets and measure it on structures it has not seen.

    python train.py --model network --data runs/data --out runs/model
    python train.py --preset laptop --data runs/data --out runs/model
    torchrun --nproc-per-node 8 train.py --preset paper --data runs/data --out runs/model
    python train.py --data runs/data runs/annealed --checkpoint runs/model/surrogate.pt --out runs/retrained

Each folder is split as its split.json says (python -m gpuion.dataset split), else 60/20/20. The first folder's test
part is the test set, whatever else is added and whatever the seed; the others' training and validation parts join in,
their test parts are measured apart. Run again after a stop, the same command goes on from the last epoch and ends, on
a CPU with as many threads, with the same weights.

Models: periodic, tiled and zero read images, by what lies beyond the cell; nearest and pairs read descriptors; ridge
is linear in more of these, fitted at once; graph passes messages between spheres; network is one of learned resistors.
"""

if __name__ == "__main__":  # before torch, which takes seconds to load: a stop meanwhile is one line, too
    from gpuion.errors import expect_stops

    expect_stops()

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from gpuion import files, timing, training
from gpuion.baselines import Ridge
from gpuion.config import option, parse
from gpuion.dataset import Dataset, open_dataset
from gpuion.distributed import World, start
from gpuion.errors import CheckpointError, ConfigError, run_script
from gpuion.medium import whole
from gpuion.models import MODELS, Model, create
from gpuion.parts import divide
from gpuion.training import Plan, Samples


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What to learn from, and how."""

    data: tuple[str, ...] = option(("runs/data",), "dataset folders, the original one first")
    out: Path = option(Path("runs/model"), "folder for the network and its measures", identity=False)
    checkpoint: str = option("", "a surrogate.pt to start from")
    model: str = option("periodic", ", ".join(MODELS), aliases=("boundary",))
    widths: tuple[int, ...] = option((), "channels of the convolutions; the network's own if not given")
    hidden: int = option(32, "width of the fully connected layers")
    pool: int = option(5, "first pooling window of a periodic network, voxels")
    voxels: int = option(0, "voxels along the image's edge; 0 is one per unit of length")
    epochs: int = option(100, "passes over the training structures")
    batch: int = option(16, "structures a step, all ranks together")
    learning_rate: float = option(1e-2, "largest learning rate of AdamW")
    weight_decay: float = option(1e-2, "weight decay of AdamW")
    seed: int = option(0, "seed of weights, order and shifts")
    device: str = option("auto", "auto, cpu or cuda", identity=False)


def main() -> None:
    """Read, train, measure."""
    config = parse(Config, Path(__file__).parent, __doc__ or "")
    check(config)
    world = start(config.device)
    sets = [open_dataset(path) for path in config.data]
    voxels = config.voxels or whole(sets[0].box, 1, "voxels")
    divided = divide(config.data, sets, voxels)
    net, meta, content = network(config, sets, voxels, world.device)
    meta["structures"] = {name: len(samples) for name, samples in divided.items()}
    files.claim_folder(config.out, "train", config, world, content)
    lost = sum(int((~data.settled).sum()) for data in sets)
    if world.is_main and lost:
        print(f"{lost} of {sum(map(len, sets))} structures are left out: their labels did not settle")
    parts = {name: training.prepared(net, samples.to(world.device)) for name, samples in divided.items()}
    if isinstance(net, Ridge):
        solve(net, meta, parts, config, world)
    else:
        train(net, meta, parts, config, world)
    best = training.load_surrogate(config.out / "surrogate.pt", world.device)
    predictions = {name: training.predict(best, samples, world) for name, samples in parts.items()}
    if world.is_main:
        report(config, best, parts, predictions)
    world.close()


def check(config: Config) -> None:
    """Say what cannot be used, before any work."""
    for name, low in {"epochs": 1, "batch": 1, "seed": 0, "voxels": 0, "hidden": 1, "pool": 1}.items():
        if getattr(config, name) < low:
            raise ConfigError(f"{name} must be at least {low}, got {getattr(config, name)}")
    if not (config.learning_rate > 0 and math.isfinite(config.learning_rate)) or not config.weight_decay >= 0:
        raise ConfigError(
            f"learning_rate must be above 0 and weight_decay not below, got {config.learning_rate} "
            f"and {config.weight_decay}"
        )


def network(
    config: Config, sets: list[Dataset], voxels: int, device: torch.device
) -> tuple[Model, dict[str, Any], dict[str, str]]:
    """Return the network to train, new or from a checkpoint of the same cell, what its checkpoints say, and
    fingerprints of what it learns from.
    """
    first = sets[0]
    meta: dict[str, Any] = {
        "d_reference": first.d_reference, "box": first.box, "diameter": first.diameter,
        "n_particles": first.centers.shape[1], "voxels": voxels, "sites_per_voxel": first.sites_per_voxel,
        "config": files.identity(config), "provenance": files.provenance(),
    }  # fmt: skip
    content = {"data": files.fingerprint({str(k): data.fingerprint for k, data in enumerate(sets)})}
    torch.manual_seed(config.seed)
    net = create(config.model, voxels=voxels, widths=config.widths, hidden=config.hidden, pool=config.pool)
    if config.model == "periodic" and (voxels % config.pool or voxels // config.pool < 3):
        raise ConfigError(f"pool = {config.pool} must cut {voxels} voxels into three windows or more; choose another")
    if not config.checkpoint:
        return net.to(device), meta, content
    old = training.load_surrogate(config.checkpoint, device)
    cell = ("d_reference", "box", "diameter", "n_particles")
    expected = net.arguments | {name: meta[name] for name in cell}
    actual = old.arguments | {name: old.meta.get(name, math.nan) for name in cell}
    for name, asked in expected.items():
        held = actual[name]
        if held != asked and not (isinstance(asked, float) and math.isclose(held, asked, rel_tol=1e-6)):
            raise CheckpointError(f"{config.checkpoint} has {name} = {held}, this run {asked}; they must agree")
    return old, meta, content | {"checkpoint": training.fingerprint(old)}


def train(net: Model, meta: dict[str, Any], parts: dict[str, Samples], config: Config, world: World) -> None:
    """Train from the start or from the last finished epoch; keep the best network and the last one."""
    plan = Plan(
        epochs=config.epochs, batch=config.batch, learning_rate=config.learning_rate,
        weight_decay=config.weight_decay, seed=config.seed,
    )  # fmt: skip
    if not config.checkpoint:
        training.calibrate(net, parts["train"])
    optimizer, last = training.optimizer_for(net, plan), config.out / "last.pt"
    history = training.resume(last, net, optimizer) if last.exists() else []
    wrapped, samples = training.parallel(net, world), parts["train"]
    total, done = config.epochs * len(samples), len(history) * len(samples)
    began, quiet = time.perf_counter(), None if world.is_main else True
    with tqdm(total=total, initial=done, unit=" samples", disable=quiet) as bar:
        for epoch in range(len(history), config.epochs):
            loss = training.train_epoch(
                wrapped, optimizer, samples, epoch=epoch, plan=plan, world=world, after=bar.update
            )
            found = training.metrics(training.predict(net, parts["validation"], world), parts["validation"].target)
            best = min((row["mse"] for row in history), default=math.inf)
            history.append({"epoch": epoch, "loss": loss, **found})
            bar.set_postfix(loss=f"{loss:.2e}", validation=f"{found['mse']:.2e}")
            if world.is_main:
                if found["mse"] < best:
                    training.save_checkpoint(config.out / "surrogate.pt", net, {**meta, "metrics": found})
                training.save_checkpoint(last, net, meta, history=history, optimizer=optimizer.state_dict())
    timing.tell(config.out, "train", count=(total - done) * world.is_main, unit="samples", began=began, world=world)
    write(history, config, world)


def solve(net: Ridge, meta: dict[str, Any], parts: dict[str, Samples], config: Config, world: World) -> None:
    """Fit at once; every rank does the same."""
    began, samples = time.perf_counter(), parts["train"]
    loss = net.solve(samples.target, samples.inputs or net.prepare(samples.centers, samples.box, samples.diameter))
    found = training.metrics(training.predict(net, parts["validation"], world), parts["validation"].target)
    if world.is_main:
        training.save_checkpoint(config.out / "surrogate.pt", net, {**meta, "metrics": found})
    timing.tell(config.out, "train", count=len(samples) * world.is_main, unit="samples", began=began, world=world)
    write([{"epoch": 0, "loss": loss, **found}], config, world)


def write(history: list[dict[str, Any]], config: Config, world: World) -> None:
    """Write what was met in each epoch."""
    if world.is_main:
        with files.atomic(config.out / "history.jsonl") as partial:
            partial.write_text("".join(json.dumps(row) + "\n" for row in history))


def report(config: Config, net: Model, parts: dict[str, Samples], predictions: dict[str, Tensor]) -> None:
    """Print MSE, MAPE and R of every part, and write them, the predictions and the final checkpoint."""
    found = {name: training.metrics(predictions[name], samples.target) for name, samples in parts.items()}
    print(f"{'part':<24}{'count':>7}{'MSE':>11}{'MAPE/%':>9}{'R':>8}")
    for name, row in found.items():
        print(f"{name:<24}{len(parts[name]):>7}{row['mse']:>11.3e}{row['mape']:>9.2f}{row['r']:>8.4f}")
    files.write_json(config.out / "metrics.json", found)
    rows: dict[str, list[Any]] = {"split": [], "id": [], "true": [], "predicted": []}
    for name, samples in parts.items():
        if name.startswith("test"):
            rows["split"] += [name] * len(samples)
            rows["id"] += samples.id.tolist()
            rows["true"] += samples.target.tolist()
            rows["predicted"] += predictions[name].tolist()
    files.write_json(config.out / "predictions.json", rows)
    training.save_checkpoint(config.out / "surrogate.pt", net, {**net.meta, "metrics": found})
    print(f"network in {config.out / 'surrogate.pt'}")


if __name__ == "__main__":
    run_script(main)
