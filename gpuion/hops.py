"""What a walk needs to know of a medium: hop rates as tables, first sites from π, weight in closed pockets.

Everything is made for many structures at once, a bounded number of sites at a time, and depends on the structure alone.

Legend: B structures, W walkers, X Y Z sites, K classes.
"""

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from gpuion.kernels.reference import Stream, philox, pick
from gpuion.medium import Medium

_SCALE = 1 + 2.0**-20  # the clock's k_max over the fastest bond's, so that its threshold stays below 2³²
_RAREST = 1e-6  # smallest k/k_max whose threshold a 32-bit word resolves to 0.2%
_SPAN = 1e140  # fastest rates lie within 1 / this … this: slopes are squared, and 1e±308 is where float64 ends
_STEEPEST = 138  # kT on each side of the middle: a table's e^69 = 1e30
_LARGEST = 1e38  # float32 ends at 3.4e38
_SITES = 2**22  # sites at once: 32 MB an index


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """Hop rates as tables of the class left and the class entered.

    Attributes
    ----------
    leave, enter : float32 [B, 256]
        leave[class x] · enter[class y] = k(x→y) · 2³² / k_max: the threshold of a hop.
    fastest : float64 [B]
        k_max of the clock; 0 where nothing hops.
    """

    leave: Tensor
    enter: Tensor
    fastest: Tensor


def count(medium: Medium) -> Tensor:
    """Return how many sites of each class a structure has, int64 [B, K]."""
    K, flat = len(medium.potential), medium.labels.flatten(1)
    counts = torch.zeros(len(medium), K, dtype=torch.int64, device=flat.device)
    if not flat.is_cuda:
        from gpuion.kernels import tables

        tables.count(flat.numpy(), counts.numpy())
        return counts
    for part, piece in _pieces(flat):
        index = flat[part, piece].long() + _numbers(part, K, flat.device)
        counts[part] += torch.bincount(index.flatten(), minlength=(part.stop - part.start) * K).view(-1, K)
    return counts


def weights(medium: Medium, counts: Tensor) -> Tensor:
    """Return a site's stationary weight π of each class, the largest in a structure 1, float64 [B, K]."""
    potential = medium.potential.cpu().expand(counts.shape).masked_fill(counts.cpu() == 0, math.inf)
    lowest = potential.amin(1, keepdim=True)
    shut = (lowest == math.inf).nonzero()
    if len(shut):
        raise ValueError(f"structure {int(shut[0, 0])} has no open site; leave it out, or open one of its classes")
    return torch.exp(lowest - potential).to(counts.device)  # on the CPU, so that every device has the same


def rates(medium: Medium) -> Rates:
    """Return each structure's rate tables, scaled so that leave · enter is the threshold of a hop.

    Raises
    ------
    ValueError
        If rates of a structure's bonds span more than 10⁶, or its potential more than numbers can.
    """
    # Tables are made on the CPU, so that every device walks with the same.
    counts, potential = count(medium).cpu(), medium.potential.cpu()
    is_open = torch.isfinite(potential) & (counts > 0)
    level = potential.expand(counts.shape)
    middle = (level.masked_fill(~is_open, math.inf).amin(1) + level.masked_fill(~is_open, -math.inf).amax(1)) / 2
    level = torch.where(is_open, level - middle[:, None], 0.0)
    if len(medium) and float(level.abs().max()) > _STEEPEST:
        raise ValueError("the potential spans too many kT for a walk; use homogenize")
    root = medium.diffusivity.cpu().sqrt()
    leave = torch.where(is_open, root * torch.exp(level / 2), 0.0)
    enter = torch.where(is_open, root * torch.exp(-level / 2), 0.0) / medium.spacing**2
    slow, fast = _extremes(medium.labels, leave, enter)
    strange = ((fast > 0) & ~((fast > 1 / _SPAN) & (fast < _SPAN))).nonzero()
    if len(strange):
        b = int(strange[0, 0])
        raise ValueError(
            f"structure {b}: its fastest rate, D / h², is {float(fast[b]):.1e}, beyond {1 / _SPAN:.0e} … {_SPAN:.0e}; "
            "give diffusivities in another unit"
        )
    steep = ((slow > 0) & (slow < _RAREST * fast)).nonzero()
    if len(steep):
        b = int(steep[0, 0])
        raise ValueError(
            f"structure {b}: rates of its bonds span a factor {float(fast[b] / slow[b]):.1e}, more than "
            f"{1 / _RAREST:.0e}, so a walk would hardly ever make the slow hops; use homogenize"
        )
    fastest = fast * _SCALE
    # A power of two in one table and out of the other: products stay the same bits, and any unit of D fits float32.
    scale = 2.0 ** torch.frexp(enter.amax(1))[1].double()
    tables = enter.new_zeros(2, len(medium), 256)
    tables[0, :, : leave.shape[1]] = leave * (torch.where(fastest > 0, 2.0**32 / fastest, 0.0) * scale)[:, None]
    tables[1, :, : leave.shape[1]] = enter / scale[:, None]
    if len(medium) and not float(tables.nan_to_num(math.inf).max()) <= _LARGEST:
        raise ValueError("the potential spans too many kT for a walk; use homogenize")
    leave_enter = tables.float().to(medium.labels.device)
    return Rates(leave=leave_enter[0], enter=leave_enter[1], fastest=fastest.to(medium.labels.device))


def _extremes(labels: Tensor, leave: Tensor, enter: Tensor) -> tuple[Tensor, Tensor]:
    """Return the slowest and the fastest rate of the bonds that occur in each structure, [B]; 0 where there is none.

    Labels may be on a device; tables and answers are on the CPU.
    """
    B, K = leave.shape
    slow, fast = leave.new_zeros(B), leave.new_zeros(B)
    for b in range(0, B, max(1, _SITES // K**2)):
        some = slice(b, min(B, b + max(1, _SITES // K**2)))
        occurs = _beside(labels[some], K)
        rate = leave[some, :, None] * enter[some, None] * (occurs | occurs.mT)
        fast[some] = rate.amax((1, 2))
        slow[some] = rate.masked_fill(rate == 0, math.inf).amin((1, 2)).nan_to_num(posinf=0.0)
    return slow, fast


def _beside(labels: Tensor, K: int) -> Tensor:
    """Return which classes lie ahead of which along an axis in each structure, bool [B, K, K], on the CPU."""
    occurs = torch.zeros(len(labels) * K * K, dtype=torch.bool, device=labels.device)
    if not labels.is_cuda:
        from gpuion.kernels import tables

        tables.pairs(labels.contiguous().numpy(), occurs.view(-1, K, K).numpy())
        return occurs.view(-1, K, K)
    for axis in (1, 2, 3):
        here, ahead = labels.flatten(1), labels.roll(-1, axis).flatten(1)
        for part, piece in _pieces(here):
            pair = here[part, piece].long() * K + ahead[part, piece] + _numbers(part, K * K, labels.device)
            occurs[pair.flatten()] = True
    return occurs.view(-1, K, K).cpu()


def starts(medium: Medium, walkers: int, seed: int, ids: Tensor, first: int = 0) -> Tensor:
    """Draw the first sites of walkers first … first + W − 1 from π, int32 [B, W]: a class by weight, then a site of it.

    Counts are integers and the cumulative weights are made on the CPU, so that every device draws the same sites.

    Raises
    ------
    ValueError
        If a structure has no open site.
    """
    B, flat, device = len(medium), medium.labels.flatten(1), medium.labels.device
    counts = count(medium)
    share = np.cumsum((counts * weights(medium, counts)).cpu().numpy(), axis=1)
    number = torch.arange(first, first + walkers, device=device)
    words = philox(seed, 0, number, ids[:, None], Stream.WALK_START)
    u = (words[0] * 2**21 + (words[1] >> 11)).double() * 2.0**-53
    kind = torch.searchsorted(torch.from_numpy(share / share[:, -1:]).to(device), u, right=True)
    rank = (counts.cumsum(1) - counts).gather(1, kind) + pick(words[2], counts.gather(1, kind))
    start = torch.empty((B, walkers), dtype=torch.int32, device=device)
    for b in range(0, B, max(1, _SITES // flat.shape[1])):
        part = slice(b, b + max(1, _SITES // flat.shape[1]))
        start[part] = torch.argsort(flat[part], dim=1, stable=True).gather(1, rank[part]).int()
    return start


def trapped(medium: Medium, counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the share of π in pockets that no ion leaves, float64 [B], and the axes that are open, bool [B, 3].

    A pocket is a cluster of sites joined by hops that reaches none of its own periodic images. Its ions count in π but
    carry nothing over long distances. Along an axis that no cluster leads through, D is exactly zero. `counts` are
    those of `count(medium)`, if they are at hand.
    """
    from gpuion.kernels.pockets import pockets

    weight = weights(medium, count(medium) if counts is None else counts)
    return pockets(medium.labels, torch.isfinite(medium.potential) & (medium.diffusivity > 0), weight)


def _pieces(flat: Tensor) -> list[tuple[slice, slice]]:
    """Return slices of structures and of sites that cover labels [B, X Y Z], a bounded number of sites in each."""
    B, sites = flat.shape
    share = max(1, _SITES // sites)
    return [
        (slice(b, min(B, b + share)), slice(s, s + _SITES)) for b in range(0, B, share) for s in range(0, sites, _SITES)
    ]


def _numbers(part: slice, stride: int, device: torch.device) -> Tensor:
    """Return 0, stride, 2 stride … for the structures of a piece, [C, 1]."""
    return torch.arange(part.stop - part.start, device=device)[:, None] * stride
