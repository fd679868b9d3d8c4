"""What a trained network is worth: its errors on each part, whether its own estimate of them is right, and what moves
of the whole cell, which D does not see, do to it.

Legend: n structures, B structures of a batch, N particles, V voxels along an edge.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from gpuion.doubt import reach
from gpuion.kernels.reference import Stream, philox, pick
from gpuion.models import Model
from gpuion.predictor import Predictor, logarithm
from gpuion.training import Samples, metrics
from gpuion.voxels import voxelize

COVERAGES = {"coverage_68": 0.68, "coverage_95": 0.95}


def measured(truth: Tensor, found: Tensor, spread: Tensor, quantiles: Tensor) -> dict[str, float]:
    """Return MSE, MAPE and R of D* found [n], and where its spread [n] is known how often it is right.

    `coverage_68` and `coverage_95` are the shares of structures within the intervals of 68 and 95%, `spread` is the
    root of the mean square of the standard deviations of log D*, `error` that of log D*'s errors.
    """
    row = metrics(found, truth)
    if bool(spread.isnan().any()):
        return row
    error = (logarithm(found.double()) - logarithm(truth.double())).abs()
    for name, share in COVERAGES.items():
        row[name] = float((error <= reach(quantiles, share) * spread).double().mean())
    return row | {"spread": rms(spread), "error": rms(error)}


def shift_sensitivity(net: Model, samples: Samples, structures: int = 32, shifts: int = 8) -> dict[str, float]:
    """Return how much shifts of the cell's contents by whole voxels move D*, over the deviation of D* in the samples.

    `shift_sensitivity` is the largest change met, `shift_sensitivity_rms` the root of the mean square, of the first
    structures with so many random shifts each.
    """
    changes = []
    for at, number in enumerate(samples.id[:structures, None]):
        draws = philox(0, torch.arange(shifts), 0, number.cpu(), Stream.AUGMENT)[:3]
        steps = torch.stack([pick(word, samples.voxels) for word in draws], 1).tolist()
        changes.append(_changes(net, samples, at, [_Move(step=tuple(step)) for step in steps]))
    return _ratios("shift_sensitivity", torch.cat(changes), samples)


def turn_sensitivity(net: Model, samples: Samples, structures: int = 8) -> dict[str, float]:
    """Return how much the cube's 48 turns and mirrors move D*, as `shift_sensitivity` does for shifts."""
    turns = [
        _Move(order=order, mirrored=mirrored)
        for order in itertools.permutations(range(3))
        for mirrored in itertools.product([False, True], repeat=3)
    ]
    changes = [_changes(net, samples, at, turns) for at in range(min(structures, len(samples)))]
    return _ratios("turn_sensitivity", torch.cat(changes), samples)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Move:
    """A turn of the cell, mirrors of its axes, then a shift by whole voxels: nothing that D depends on."""

    order: tuple[int, ...] = (0, 1, 2)
    mirrored: tuple[bool, ...] = (False, False, False)
    step: tuple[int, ...] = (0, 0, 0)

    def image(self, x: Tensor) -> Tensor:
        """Return a moved image [B, 1, V, V, V]."""
        flipped = [2 + k for k in range(3) if self.mirrored[k]]
        return x.permute(0, 1, *(2 + k for k in self.order)).flip(flipped).roll(self.step, (2, 3, 4))

    def centers(self, x: Tensor, samples: Samples) -> Tensor:
        """Return moved centres [B, N, 3]."""
        x = x.double()[..., list(self.order)]
        x = torch.where(torch.tensor(self.mirrored, device=x.device), samples.box - x, x)
        steps = torch.tensor(self.step, dtype=x.dtype, device=x.device)
        return (x + steps * (samples.box / samples.voxels)) % samples.box


@torch.no_grad()
def _changes(net: Model, samples: Samples, at: int, moves: Sequence[_Move]) -> Tensor:
    """Return D* of a structure after each move less D* as it is, float64."""
    net.eval()
    center, cell = samples.centers[at : at + 1], {"box": samples.box, "diameter": samples.diameter}
    if isinstance(net, Predictor):
        moved = torch.cat([_Move().centers(center, samples), *(move.centers(center, samples) for move in moves)])
        with net.alone():
            found = net(*net.prepare(moved, **cell)).double()
        found = found.mean(-1) if net.per_axis else found
    else:
        image = voxelize(center, voxels=samples.voxels, **cell).to(net.target_scale.dtype)
        found = torch.cat([net(image), *(net(move.image(image)) for move in moves)]).double()
    return found[1:] - found[0]


def _ratios(name: str, changes: Tensor, samples: Samples) -> dict[str, float]:
    ratio = changes / samples.target.double().std(correction=0)
    return {name: float(ratio.abs().max()), f"{name}_rms": rms(ratio)}


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
