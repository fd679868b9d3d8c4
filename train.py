"""Train a model on one or more datasets and measure it on structures it has not seen.

    python train.py --data runs/data --out runs/model
    python train.py --preset laptop --data runs/data --out runs/model
    torchrun --nproc-per-node 8 train.py --preset paper --data runs/data --out runs/model
    python train.py --data runs/data runs/annealed --checkpoint runs/model/surrogate.pt --out runs/retrained

Each folder is split as its split.json says (python -m gpuion.dataset split), else 60/20/20. The first folder's test
part is the test set, whatever else is added and whatever the seed; the others' training and validation parts join in,
their test parts are measured apart. Run again after a stop, the same command goes on from the last epoch and ends, on
a CPU with as many threads, with the same weights.

Models: network, one of learned resistors between spheres, is the default; graph passes messages between spheres;
periodic, tiled and zero read images, by what lies beyond the cell; nearest and pairs read descriptors; ridge is linear
in more of these, fitted at once. Those on centres learn from the validation part how sure they are, too.
"""

if __name__ == "__main__":  # before torch, which takes seconds to load: a stop meanwhile is one line, too
    from gpuion.errors import expect_stops

    expect_stops()

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpuion import acceleration, dry_run, files, fitting, throughput, timing, training
from gpuion.acceleration import PRECISIONS
from gpuion.baselines import Ridge
from gpuion.config import check_least, option, parse
from gpuion.dataset import Dataset, open_dataset
from gpuion.distributed import World, start
from gpuion.errors import ConfigError, run_script
from gpuion.events import check_tensorboard
from gpuion.measures import measured, shift_sensitivity, table
from gpuion.medium import whole
from gpuion.models import MODELS, Model, create
from gpuion.parts import divide
from gpuion.training import Plan, Samples


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What to learn from, and how."""

    data: tuple[str, ...] = option(("runs/data",), "dataset folders, the original one first", group="files")
    out: Path = option(Path("runs/model"), "folder for the network and its measures", identity=False)
    checkpoint: str = option("", "a surrogate.pt to start from", metavar="PATH")
    model: str = option("network", "see above", choices=MODELS, group="the model")
    widths: tuple[int, ...] = option((), "channels of the convolutions; the network's own if not given")
    hidden: int = option(32, "width of the fully connected layers")
    pool: int = option(5, "first pooling window of a periodic network, voxels")
    voxels: int = option(0, "voxels along the image's edge; 0 is one per unit of length")
    epochs: int = option(30, "passes over the training structures", group="learning")
    patience: int = option(0, "epochs without a better one after which to stop; 0 takes all")
    batch: int = option(16, "structures a step, all ranks together")
    learning_rate: float = option(5e-3, "largest learning rate of AdamW")
    weight_decay: float = option(1e-2, "weight decay of AdamW")
    precision: str = option("fp32", "of training: tf32 rounds on a GPU, bf16 the layers on images", choices=PRECISIONS)
    compile: bool = option(False, "compile the layers of a network on images", identity=False)
    tensorboard: bool = option(False, "write TensorBoard's event files into --out, too", identity=False)
    seed: int = option(0, "seed of weights, order and shifts", group="the run")
    device: str = option("auto", "auto, cpu or cuda", identity=False)
    dry_run: bool = option(False, "say what would be done, in what time and memory, and write nothing", identity=False)


def main() -> None:
    """Read the command line, train."""
    config = parse(Config, Path(__file__).parent, __doc__ or "")
    check(config)
    learn(config)


def learn(config: Config) -> None:
    """Read, train, measure."""
    world = start(config.device)
    sets = [open_dataset(path) for path in config.data]
    voxels = config.voxels or whole(sets[0].box, 1, "voxels")
    divided = divide(config.data, sets, voxels)
    net, meta, content = network(config, sets, voxels, world.device)
    acceleration.arrange(net, config.precision, world.device, compile=config.compile)
    if config.dry_run:
        dry_run.train(config, net, divided, world)
        return
    meta["structures"] = {name: len(samples) for name, samples in divided.items()}
    with files.claim_folder(config.out, "train", config, world, content):
        lost = sum(int((~data.settled).sum()) for data in sets)
        if world.is_main and lost:
            print(f"{lost} of {sum(map(len, sets))} structures are left out: their labels did not settle")
        parts = {name: training.prepared(net, samples.to(world.device)) for name, samples in divided.items()}
        train(net, meta, parts, config, world)
        best = training.load_surrogate(config.out / "surrogate.pt", world.device)
        fitting.doubt(best, parts, world)
        estimates = {name: training.estimate(best, samples, world) for name, samples in parts.items()}
        if world.is_main:
            report(config, best, parts, estimates)
    world.close()


def check(config: Config) -> None:
    """Say what cannot be used, before any work."""
    check_least(config, epochs=1, batch=1, seed=0, voxels=0, hidden=1, pool=1, patience=0)
    if not (config.learning_rate > 0 and math.isfinite(config.learning_rate)) or not config.weight_decay >= 0:
        raise ConfigError(
            f"learning_rate must be above 0 and weight_decay not below, got {config.learning_rate} "
            f"and {config.weight_decay}"
        )
    if config.tensorboard:
        check_tensorboard()


def network(
    config: Config, sets: list[Dataset], voxels: int, device: torch.device
) -> tuple[Model, dict[str, Any], dict[str, str]]:
    """Return the network to train, new or from a checkpoint of the same cell, what its checkpoints say, and
    fingerprints of what it learns from.
    """
    first = sets[0]
    content = {"data": files.fingerprint({str(k): data.fingerprint for k, data in enumerate(sets)})}
    meta: dict[str, Any] = {
        "d_reference": first.d_reference, "box": first.box, "diameter": first.diameter,
        "n_particles": first.centers.shape[1], "voxels": voxels, "sites_per_voxel": first.sites_per_voxel,
        "config": files.identity(config), "data": content["data"], "provenance": files.provenance(),
    }  # fmt: skip
    torch.manual_seed(config.seed)
    net = create(config.model, voxels=voxels, widths=config.widths, hidden=config.hidden, pool=config.pool)
    if config.model == "periodic" and (voxels % config.pool or voxels // config.pool < 3):
        raise ConfigError(f"pool = {config.pool} must cut {voxels} voxels into three windows or more; choose another")
    if not config.checkpoint:
        return net.to(device), meta, content
    old = training.load_matching(config.checkpoint, net, meta, device)
    return old, meta, content | {"checkpoint": training.fingerprint(old)}


def train(net: Model, meta: dict[str, Any], parts: dict[str, Samples], config: Config, world: World) -> None:
    """Train, or fit at once; say how fast that was."""
    plan = Plan(
        epochs=config.epochs, batch=config.batch, learning_rate=config.learning_rate,
        weight_decay=config.weight_decay, seed=config.seed, precision=config.precision,
    )  # fmt: skip
    began = time.perf_counter()
    if isinstance(net, Ridge):
        count = fitting.solve(net, meta, parts, config.out, world)
    else:
        count = fitting.fit(
            net, meta, parts, plan, config.out, world, fresh=not config.checkpoint, patience=config.patience,
            tensorboard=config.tensorboard,
        )  # fmt: skip
    rate = count / (time.perf_counter() - began)
    timing.tell(config.out, "train", count=count * world.is_main, unit="samples", began=began, world=world)
    if count:
        line = throughput.sentence(net, parts["train"], plan, rate, world)
        if world.is_main:
            print(line)


def report(config: Config, net: Model, parts: dict[str, Samples], estimates: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Print how good the network is on every part, and write that, the predictions and the final checkpoint."""
    found = {name: measured(samples.target, *estimates[name], net.quantiles) for name, samples in parts.items()}
    found["test"] |= (moved := shift_sensitivity(net, parts["test"]))
    print(table(found, {name: len(samples) for name, samples in parts.items()}))
    most, usual = (f"{100 * value:.2g}%" for value in moved.values())
    print(f"shifts by whole voxels move D* by {usual} of its spread over the test part (rms), at most {most}")
    files.write_json(config.out / "metrics.json", found)
    rows: dict[str, list[Any]] = {"split": [], "id": [], "true": [], "predicted": []}
    for name, samples in parts.items():
        if name.startswith("test"):
            predicted, spread = estimates[name]
            rows["split"] += [name] * len(samples)
            rows["id"] += samples.id.tolist()
            rows["true"] += samples.target.tolist()
            rows["predicted"] += predicted.tolist()
            if not bool(spread.isnan().any()):
                rows.setdefault("spread", []).extend(spread.tolist())
    files.write_json(config.out / "predictions.json", rows)
    training.save_checkpoint(config.out / "surrogate.pt", net, {**net.meta, "metrics": found})
    print(f"network in {config.out / 'surrogate.pt'}")


if __name__ == "__main__":
    run_script(main)
