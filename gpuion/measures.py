"""What a trained network is worth: its errors on each part, and whether its own estimate of them is right."""

import torch
from torch import Tensor

from gpuion.doubt import reach
from gpuion.kernels.reference import Stream, philox, pick
from gpuion.models import Model
from gpuion.predictor import Predictor, logarithm
from gpuion.training import Samples, metrics
from gpuion.voxels import voxelize

COVERAGES = {"coverage_68": 0.68, "coverage_95": 0.95}


def measured(samples: Samples, found: Tensor, spread: Tensor, quantiles: Tensor) -> dict[str, float]:
    """Return MSE, MAPE and R of D* [n], and where its spread [n] is known how often it is right.

    `coverage_68` and `coverage_95` are the shares of structures within the intervals of 68 and 95%, `spread` is the
    root of the mean square of the standard deviations of log D*, `error` that of log D*'s errors.
    """
    row = metrics(found, samples.target)
    if bool(spread.isnan().any()):
        return row
    error = (logarithm(found) - logarithm(samples.target.double())).abs()
    for name, share in COVERAGES.items():
        row[name] = float((error <= reach(quantiles, share) * spread).double().mean())
    return row | {"spread": rms(spread), "error": rms(error)}


@torch.no_grad()
def shift_sensitivity(net: Model, samples: Samples, structures: int = 32, shifts: int = 8) -> dict[str, float]:
    """Return how much shifts of the cell's contents by whole voxels move D*, over the deviation of D* in the samples.

    `shift_sensitivity` is the largest change met, `shift_sensitivity_rms` the root of the mean square, of the first
    structures with so many random shifts each. Models on centres see no shift: 0 by construction.
    """
    if isinstance(net, Predictor):
        return {"shift_sensitivity": 0.0, "shift_sensitivity_rms": 0.0}
    net.eval()
    V, changes = samples.voxels, []
    for center, number in zip(samples.centers[:structures, None], samples.id[:structures], strict=True):
        image = voxelize(center, box=samples.box, diameter=samples.diameter, voxels=V).to(net.target_scale.dtype)
        draws = philox(0, torch.arange(shifts), 0, number.cpu(), Stream.AUGMENT)[:3]
        steps = torch.stack([pick(word, V) for word in draws], 1).tolist()
        still = net(image)
        changes += [net(image.roll(step, (2, 3, 4))) - still for step in steps]
    ratio = torch.cat(changes).double() / samples.target.double().std(correction=0)
    return {"shift_sensitivity": float(ratio.abs().max()), "shift_sensitivity_rms": rms(ratio)}


def rms(x: Tensor) -> float:
    """Return the root of the mean square."""
    return float(x.square().mean().sqrt())


def table(rows: dict[str, dict[str, float]], counts: dict[str, int]) -> str:
    """Return measures as lines of text, one a part."""
    known = any("spread" in row for row in rows.values())
    head = f"{'part':<24}{'count':>7}{'MSE':>11}{'MAPE/%':>9}{'R':>8}"
    lines = [head + (f"{'error/%':>9}{'spread/%':>10}{'in 68%':>8}{'in 95%':>8}" if known else "")]
    for name, row in rows.items():
        line = f"{name:<24}{counts[name]:>7}{row['mse']:>11.3e}{row['mape']:>9.2f}{row['r']:>8.4f}"
        if known:
            line += f"{100 * row['error']:>9.2f}{100 * row['spread']:>10.2f}"
            line += f"{row['coverage_68']:>8.1%}{row['coverage_95']:>8.1%}"
        lines.append(line)
    return "\n".join(lines)
