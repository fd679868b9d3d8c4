"""How near a training comes to what the hardware can do."""

import time

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gpuion import training
from gpuion.distributed import World
from gpuion.models import Model, again
from gpuion.surrogate import Surrogate
from gpuion.training import Plan, Samples

_LARGEST, _LONG = 8192, 0.01  # edge of matrices, seconds


def operations(net: Model, samples: Samples, plan: Plan) -> float:
    """Return the floating-point operations of a training step's products and convolutions, a structure.

    Forward and backward, as torch counts them; the network is left as it was.
    """
    twin, index = again(net.arguments).to(samples.target.device), torch.arange(min(2, len(samples)))
    twin.load_state_dict(net.state_dict())
    with FlopCounterMode(display=False) as counter:
        training.step(twin.train(), twin, samples, index.to(samples.target.device), 0, plan)[1].sum().backward()
    return counter.get_total_flops() / len(index)


def limit(device: torch.device, precision: str = "fp32") -> tuple[float, int]:
    """Return the operations a second of a product of square matrices in that precision, and their edge.

    The edge doubles until a product takes a hundredth of a second, so that arithmetic and not its start is measured.
    """
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    edge, best = 256, 0.0
    while edge < _LARGEST:
        edge *= 2
        a = torch.ones(edge, edge, dtype=kind, device=device)
        seconds = min(_timed(a) for _ in range(5))
        best = max(best, 2 * edge**3 / seconds)
        if seconds > _LONG:
            break
    return best, edge


def _timed(a: Tensor) -> float:
    began = time.perf_counter()
    float((a @ a)[0, 0])  # waits for the device
    return time.perf_counter() - began


def sentence(net: Model, samples: Samples, plan: Plan, rate: float, world: World) -> str:
    """Return how the samples learnt from a second compare with the hardware's limit; all ranks measure at once."""
    if not isinstance(net, Surrogate):
        return "no share of a limit: gathers, small layers and small solves take the time, not large matrix products"
    work, (top, edge) = operations(net, samples, plan), limit(world.device, plan.precision)
    top *= world.size
    return (
        f"{work / 1e9:.3g} GFLOP a sample: {work * rate / 1e9:.3g} GFLOP/s, {work * rate / top:.1%} of the "
        f"{top / 1e9:.3g} GFLOP/s that products of up to {edge}² numbers in {plan.precision} reach here"
    )
