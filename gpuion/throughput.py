"""How near a training comes to what the hardware can do."""

import copy
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from gpuion import training
from gpuion.distributed import World
from gpuion.models import Model
from gpuion.surrogate import Surrogate
from gpuion.training import Plan, Samples

_EDGE = {"cpu": 1024, "cuda": 8192}  # of the matrices: large enough to be bound by arithmetic


def operations(net: Model, samples: Samples, plan: Plan) -> float:
    """Return the floating-point operations of a training step's products and convolutions, a structure.

    Forward and backward, as torch counts them; the network is left as it was.
    """
    twin, index = copy.deepcopy(net).train(), torch.arange(min(2, len(samples)), device=samples.target.device)
    with FlopCounterMode(display=False) as counter:
        training.step(twin, twin, samples, index, 0, plan)[1].sum().backward()
    return counter.get_total_flops() / len(index)


def limit(device: torch.device, precision: str = "fp32") -> float:
    """Return the operations a second of a square matrix product in that precision, the best of five."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    edge, best = _EDGE[device.type], 0.0
    a = torch.ones(edge, edge, dtype=kind, device=device)
    for _ in range(5):
        began = time.perf_counter()
        product = a @ a
        float(product[0, 0])  # waits for the device
        best = max(best, 2 * edge**3 / (time.perf_counter() - began))
    return best


def sentence(net: Model, samples: Samples, plan: Plan, rate: float, world: World) -> str:
    """Return how the samples learnt from a second compare with the hardware's limit; all ranks measure at once."""
    if not isinstance(net, Surrogate):
        return "no share of a limit: gathers, small layers and small solves take the time, not large matrix products"
    work, top = operations(net, samples, plan), limit(world.device, plan.precision) * world.size
    return (
        f"{work / 1e9:.3g} GFLOP a sample: {work * rate / 1e9:.3g} GFLOP/s, {work * rate / top:.1%} of the "
        f"{top / 1e9:.3g} GFLOP/s that products of {_EDGE[world.device.type]}² matrices in {plan.precision} reach here"
    )
