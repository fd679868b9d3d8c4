"""Training a model on one or many ranks, and its measures of quality.

Legend: n structures, N particles, B structures of a batch, V voxels along an edge.

Every choice of an epoch (order, shift, turn) is drawn from Philox by (seed, epoch, structure id), and a
global batch is cut into one slice a rank: one process and many take the same path up to float32 rounding.
Models that read images get one of the shifted and turned structure; those that read sphere centres do not change
with it, and get what they prepared of the structure once for all epochs.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from itertools import permutations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gpuion import memory
from gpuion.checkpoints import (  # noqa: F401, names of this module
    build,
    fingerprint,
    load_checkpoint,
    load_matching,
    load_surrogate,
    resume,
    save_checkpoint,
)
from gpuion.distributed import World
from gpuion.errors import GpuionError
from gpuion.kernels.reference import Stream, philox, pick
from gpuion.models import Model
from gpuion.predictor import Predictor
from gpuion.samples import AT_ONCE, Samples, held, images, prepared  # noqa: F401, names of this module, too

_NUMBERS = 2**28  # most values of a layer in predicting: a gigabyte, far from 2³¹, where 32-bit indices end


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How to train: AdamW, a linear warm-up, a cosine to zero; all ranks together take `batch` structures.

    With `precision` bf16 the layers of image networks compute so; weights, and all that is predicted, stay in float32.
    """

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float = 0.01
    warmup: float = 0.05
    seed: int = 0
    precision: str = "fp32"

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
    return images(samples, centers)


def calibrate(net: Model, samples: Samples) -> None:
    """Fix a model's scales from its training structures, those of the inputs from the first 256."""
    if isinstance(net, Predictor):
        some = torch.arange(min(256, len(samples)), device=samples.target.device)
        with net.alone():
            net.calibrate(samples.target, held(net, samples, some))
    else:
        net.calibrate(samples.target)


def step(net: nn.Module, bare: Model, samples: Samples, index: Tensor, epoch: int, plan: Plan) -> tuple[Tensor, ...]:
    """Return D* [B] and the loss of each structure [B]."""
    if isinstance(bare, Predictor):
        found = net(*held(bare, samples, index))
        if not bare.per_axis:
            return found, bare.loss(found, samples.target[index])
        if samples.axes is None:
            raise GpuionError("this model learns D along each axis, and these samples hold their mean only")
        return found.mean(-1), bare.loss(found, samples.axes[index])
    image = augmented(samples, index, epoch, plan, turn=bare.arguments["boundary"] != "periodic")
    with torch.autocast(image.device.type, torch.bfloat16, enabled=plan.precision == "bf16"):
        found = net(image.to(bare.target_scale.dtype))
    return found, bare.loss(found, samples.target[index])


def train_epoch(
    net: Model | DistributedDataParallel, optimizer: torch.optim.Optimizer, samples: Samples, *, epoch: int,
    plan: Plan, world: World, after: Callable[[int], None] | None = None,
) -> float:  # fmt: skip
    """Take one epoch's steps, telling `after` the size of each; return the mean squared error met.

    Raises
    ------
    GpuionError
        If the error is not a number, a batch does not fit into memory, or a model of D along the axes meets samples
        without.
    """
    net.train()
    bare = net.module if isinstance(net, DistributedDataParallel) else net
    steps = list(batches(samples, epoch, plan))
    total = torch.zeros((), dtype=torch.float64, device=world.device)
    for i, whole in enumerate(steps):
        mine = whole.tensor_split(world.size)[world.rank]
        for group in optimizer.param_groups:
            group["lr"] = plan.rate((epoch + (i + 1) / len(steps)) / plan.epochs)
        fewer = functools.partial(_attempt, net, bare, samples, mine, epoch, plan) if world.size == 1 else None
        with memory.explained(len(mine), plan.batch, world.device, fewer), bare.alone():
            found, losses = step(net, bare, samples, mine, epoch, plan)
            total += (found.detach() - samples.target[mine]).square().sum()
            # Ranks average their gradients: weighted so that the average is that of the whole batch's mean.
            loss = losses.sum() * (world.size / len(whole))
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


def _attempt(net: nn.Module, bare: Model, samples: Samples, index: Tensor, epoch: int, plan: Plan, count: int) -> None:
    """Take a step's layers there and back with the first of its structures."""
    step(net, bare, samples, index[:count], epoch, plan)[1].sum().backward()


def predict(net: Model, samples: Samples, world: World | None = None) -> Tensor:
    """Return D*, float64 [n], each rank predicting every world.size-th batch."""
    return estimate(net, samples, world)[0]


@torch.no_grad()
def estimate(net: Model, samples: Samples, world: World | None = None) -> tuple[Tensor, Tensor]:
    """Return D* and the standard deviation of log D*, NaN if the model does not know it, float64 [n] each.

    Each rank estimates every world.size-th batch.
    """
    net.eval()
    rank, size = (world.rank, world.size) if world else (0, 1)
    value = torch.zeros(2, len(samples), dtype=torch.float64, device=samples.centers.device)
    together = _together(net, samples.voxels)
    for index in list(torch.arange(len(samples), device=value.device).split(together))[rank::size]:
        if isinstance(net, Predictor):
            with net.alone():
                found, spread = net.estimate(*held(net, samples, index))
            found = found.mean(-1) if net.per_axis else found
        else:
            found, spread = net.estimate(images(samples, samples.centers[index]))
        value[:, index] = torch.stack([found.double(), spread.double()])
    if size > 1:
        dist.all_reduce(value)
    return value[0], value[1]


@torch.no_grad()
def features(net: Predictor, samples: Samples) -> Tensor:
    """Return the features of structures that a model tells its doubt by, [n, C]."""
    net.eval()
    parts = torch.arange(len(samples), device=samples.centers.device).split(AT_ONCE)
    with net.alone():
        return torch.cat([net.features(*held(net, samples, index)) for index in parts])


def _together(net: nn.Module, voxels: int) -> int:
    """Return how many structures to predict at once: of the paper's tiled network at 75 voxels, 225³ · 16 values, one.

    The periodic network takes 32 up to 200 voxels: only its pooled cells have channels.
    """
    arguments = getattr(net, "arguments", None)
    if arguments is None or "boundary" not in arguments:
        return AT_ONCE
    periodic = arguments["boundary"] == "periodic"
    edge = voxels * (3 if arguments["boundary"] == "tiled" else 1)
    width = arguments["widths"][0] / (arguments["pool"] ** 3 if periodic else 1)
    return max(1, min(AT_ONCE, int(_NUMBERS // (max(1, width) * edge**3))))


def parallel(net: Model, world: World) -> Model | DistributedDataParallel:
    """Return the network as all ranks train it, with rank 0's weights."""
    return net if world.size == 1 else DistributedDataParallel(net)


def optimizer_for(net: nn.Module, plan: Plan) -> torch.optim.AdamW:
    """Return AdamW that decays weights but not biases and scales."""
    decayed = [p for p in net.parameters() if p.ndim > 1]
    free = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=plan.learning_rate)
