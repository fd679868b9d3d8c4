"""Training a surrogate on one or many ranks, its measures of quality, and its checkpoints.

Legend: n structures, N particles, B structures of a batch, V voxels along an edge.

Every choice of an epoch (order, shift, turn) is drawn from Philox by (seed, epoch, structure id), and a
global batch is cut into one slice a rank: one process and many take the same path up to float32 rounding.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gpuion import files
from gpuion.distributed import World
from gpuion.errors import CheckpointError, GpuionError
from gpuion.kernels.reference import Stream, philox, pick
from gpuion.surrogate import Surrogate
from gpuion.voxels import voxelize

_FORMAT, _VERSION = "gpuion-surrogate", 1
_EVALUATE = 32  # most structures a batch when only predicting
_NUMBERS = 2**28  # most values of a layer then: a gigabyte, and far from 2³¹, where a tensor's 32-bit indices end


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
    """What a network learns from: centers float32 [n, N, 3], D* float32 [n], id int64 [n], and the cell."""

    centers: Tensor
    target: Tensor
    id: Tensor
    box: float
    diameter: float
    voxels: int

    def __len__(self) -> int:
        """Return the number of structures."""
        return len(self.centers)

    def to(self, device: torch.device | str) -> "Samples":
        """Return the same structures on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("centers", "target", "id")}
        return dataclasses.replace(self, **moved)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How to train: AdamW, a linear warm-up, a cosine to zero; all ranks together take `batch` structures."""

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float = 0.01
    warmup: float = 0.05
    seed: int = 0

    def rate(self, progress: float) -> float:
        """Return the learning rate at a share of the training."""
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return self.learning_rate * cosine * min(1.0, progress / self.warmup)


def metrics(prediction: Tensor, truth: Tensor) -> dict[str, float]:
    """Return MSE = mean (y − ŷ)², MAPE = 100 · mean |(y − ŷ)/ŷ| and Pearson's R; ŷ is the truth.

    Parameters
    ----------
    prediction, truth : float [n]
        R is NaN if either does not vary.

    Raises
    ------
    ValueError
        For different lengths, or none.
    """
    y, t = prediction.double(), truth.double()
    if y.ndim != 1 or y.shape != t.shape or not len(y):
        raise ValueError(f"prediction and truth must be [n] with n ≥ 1, got {list(y.shape)} and {list(t.shape)}")
    u, v = y - y.mean(), t - t.mean()
    r = (u * v).sum() / (u.square().sum() * v.square().sum()).sqrt()
    return {
        "mse": float((y - t).square().mean()),
        "mape": float(100 * ((y - t) / t).abs().mean()),
        "r": float(r.clamp(-1, 1)),
    }


def batches(samples: Samples, epoch: int, plan: Plan) -> Iterator[Tensor]:
    """Yield the positions of each global batch of an epoch: a Philox order, cut in nearly equal parts."""
    word = philox(plan.seed, epoch, 0, samples.id, Stream.AUGMENT)[0]
    order = torch.argsort(word, stable=True)
    yield from order.tensor_split(math.ceil(len(order) / plan.batch))


def augmented(samples: Samples, index: Tensor, epoch: int, plan: Plan, *, turn: bool) -> Tensor:
    """Return images [B, 1, V, V, V] of structures shifted by whole voxels and, if `turn`, turned or mirrored.

    Shifts and the cube's 48 symmetries act on the centres, where they cost nothing.
    """
    _, *words = philox(plan.seed, epoch, 0, samples.id[index], Stream.AUGMENT)
    steps = torch.stack([pick(word, samples.voxels) for word in words], -1)  # [B, 3]
    centers = samples.centers[index].double() + steps[:, None] * (samples.box / samples.voxels)
    if turn:
        draw = philox(plan.seed, epoch, 1, samples.id[index], Stream.AUGMENT)
        axes = torch.tensor(list(permutations(range(3))), device=index.device)[pick(draw[0], 6)]
        mirror = torch.stack([pick(draw[1] << k & 0xFFFFFFFF, 2) for k in range(3)], -1) == 1
        centers = centers.gather(2, axes[:, None].expand_as(centers))
        centers = torch.where(mirror[:, None], samples.box - centers, centers)
    return _images(samples, centers)


def _images(samples: Samples, centers: Tensor) -> Tensor:
    return voxelize(centers, box=samples.box, diameter=samples.diameter, voxels=samples.voxels)


def train_epoch(
    net: Surrogate | DistributedDataParallel, optimizer: torch.optim.Optimizer, samples: Samples, *, epoch: int,
    plan: Plan, world: World, after: Callable[[int], None] | None = None,
) -> float:  # fmt: skip
    """Take one epoch's steps, telling `after` the size of each; return the mean squared error met.

    Raises
    ------
    GpuionError
        If the error is not a number.
    """
    net.train()
    bare = net.module if isinstance(net, DistributedDataParallel) else net
    steps = list(batches(samples, epoch, plan))
    total = torch.zeros((), dtype=torch.float64, device=world.device)
    for i, whole in enumerate(steps):
        mine = whole.tensor_split(world.size)[world.rank]
        for group in optimizer.param_groups:
            group["lr"] = plan.rate((epoch + (i + 1) / len(steps)) / plan.epochs)
        image = augmented(samples, mine, epoch, plan, turn=bare.arguments["boundary"] != "periodic")
        found, target = net(image.to(bare.target_scale.dtype)), samples.target[mine]
        total += (found.detach() - target).square().sum()
        # Ranks average their gradients: weighted so that the average is that of the whole batch's mean.
        loss = bare.loss(found, target).sum() * (world.size / len(whole))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if after:
            after(len(whole))
    if world.size > 1:
        dist.all_reduce(total)
    mean = float(total) / len(samples)
    if not math.isfinite(mean):
        raise GpuionError(f"training diverged in epoch {epoch}: the error is {mean}; lower the learning rate")
    return mean


@torch.no_grad()
def predict(net: Surrogate, samples: Samples, world: World | None = None) -> Tensor:
    """Return D*, float64 [n], each rank predicting every world.size-th batch."""
    net.eval()
    rank, size = (world.rank, world.size) if world else (0, 1)
    value = torch.zeros(len(samples), dtype=torch.float64, device=samples.centers.device)
    together = _together(net, samples.voxels)
    for index in list(torch.arange(len(samples), device=value.device).split(together))[rank::size]:
        value[index] = net(_images(samples, samples.centers[index])).double()
    if size > 1:
        dist.all_reduce(value)
    return value


def _together(net: nn.Module, voxels: int) -> int:
    """Return how many structures to predict at once: of the paper's tiled network at 75 voxels, 225³ · 16 values, one.

    The periodic network takes 32 up to 200 voxels: only its pooled cells have channels.
    """
    arguments = getattr(net, "arguments", None)
    if arguments is None:
        return _EVALUATE
    periodic = arguments["boundary"] == "periodic"
    edge = voxels * (3 if arguments["boundary"] == "tiled" else 1)
    width = arguments["widths"][0] / (arguments["pool"] ** 3 if periodic else 1)
    return max(1, min(_EVALUATE, int(_NUMBERS // (max(1, width) * edge**3))))


def parallel(net: Surrogate, world: World) -> Surrogate | DistributedDataParallel:
    """Return the network as all ranks train it, with rank 0's weights."""
    if world.size == 1:
        return net
    return DistributedDataParallel(net)


def save_checkpoint(path: Path, net: Surrogate, meta: dict[str, Any], **progress: Any) -> None:
    """Write weights, network arguments, `meta` (plain values only) and any progress, whole or not at all."""
    content = {
        "format": _FORMAT, "version": _VERSION, "arguments": net.arguments, "weights": net.state_dict(),
        "meta": json.loads(json.dumps(meta)), "progress": progress,  # torch's version is not a plain str
    }  # fmt: skip
    files.save_tensors(path, content)


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return what `save_checkpoint` wrote; nothing is unpickled but tensors and plain values.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, or not a surrogate's checkpoint.
    """
    try:
        content = files.load_tensors(path, device)
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}; train.py writes surrogate.pt into its --out") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of a gpuion surrogate")
    if content.get("version") != _VERSION:
        raise CheckpointError(f"{path} is of version {content.get('version')}, this program reads {_VERSION}")
    missing = {"arguments", "weights", "meta", "progress"} - content.keys()
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(sorted(missing))}")
    return content


def build(content: dict[str, Any], path: str | Path, device: torch.device | str = "cpu") -> Surrogate:
    """Return the network of a loaded checkpoint, in evaluation mode, with its `meta`.

    Raises
    ------
    CheckpointError
        If arguments and weights do not fit together.
    """
    try:
        net = Surrogate(**content["arguments"])
        net.load_state_dict(content["weights"])
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: the weights do not fit the network: {reason}") from None
    net.meta = content["meta"]
    return net.to(device).eval()


def load_surrogate(path: str | Path, device: torch.device | str = "cpu") -> Surrogate:
    """Return the trained network of a checkpoint, in evaluation mode.

    Its `meta` holds d_reference, box, diameter, n_particles, voxels, sites_per_voxel, metrics, config and
    provenance.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or of another model.
    """
    return build(load_checkpoint(path, device), path, device)


def fingerprint(net: Surrogate) -> str:
    """Return the SHA-256 of a network's weights and of what they were made for, whatever else its file says."""
    cell = {name: net.meta.get(name) for name in ("d_reference", "box", "diameter", "n_particles", "voxels")}
    return files.fingerprint({**net.state_dict(), "cell": cell, "arguments": getattr(net, "arguments", None)})


def optimizer_for(net: nn.Module, plan: Plan) -> torch.optim.AdamW:
    """Return AdamW that decays weights but not biases and scales."""
    decayed = [p for p in net.parameters() if p.ndim > 1]
    free = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=plan.learning_rate)


def resume(path: str | Path, net: Surrogate, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Put network and optimizer back to where a checkpoint left them, and return the history until then.

    Raises
    ------
    CheckpointError
        If the file is damaged or of another network.
    """
    content = load_checkpoint(path, net.output_shift.device)
    if content["arguments"] != net.arguments:
        raise CheckpointError(f"{path} is of {content['arguments']}, this run trains {net.arguments}")
    try:
        net.load_state_dict(content["weights"])
        optimizer.load_state_dict(content["progress"]["optimizer"])
        return list(content["progress"]["history"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} does not fit this run: {' '.join(str(error).split())[:200]}") from None
