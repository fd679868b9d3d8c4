"""The exact effective diffusivity of a periodic lattice medium, by a variational principle.

The reversible nearest-neighbour chain of a `Medium` has bond conductances g_xy = s_x s_y / h² with the site factor s =
√D exp(−U/2), 0 where blocked. Along a unit vector e, with Π = Σ_x exp(−U_x), it diffuses with

    D_ee = min_u Σ_bonds g_xy (h e·(y−x)/|y−x| + u_y − u_x)² / Π.

In units of h the minimiser solves A u = b with A u = s∘(S∘u − N(s∘u)), N the sum over six neighbours, S = N(s): no bond
is ever stored, and h drops out. The solver is conjugate gradients. It starts from the best profile along the axis,
exact for layers, and stops on the estimated error of D itself, which the fall of the energy Σ_j α_j r_jᵀz_j tells, not
on the residual. The preconditioner is the periodic Laplacian, inverted by FFT, on a GPU (`gpuion.spectral`), and
multigrid in scalar loops on a CPU, where it is 6 to 15 times faster (`gpuion.multigrid`).

Letters: B structures of the batch, C of a chunk; A axes solved; R rows = (structure, axis) problems of a chunk; X Y Z
sites; L site classes. On a GPU at most 14 fields a row are in flight: s, S, u, r, p, work space, the inverse diagonal
and the finished u make 8, s in float64 and the Green function of all rows 1, and 4 come while the FFT runs (transform,
its copy and its work space, each of one field and a bit, and the result), or fewer for a sum in float64. So one
structure of 375³ sites takes 9 GB at most with its three axes at once, in double precision 18 GB. With multigrid on a
CPU it is 5 fields a row.
"""

import dataclasses
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from gpuion import multigrid, spectral
from gpuion.axes import ALL_AXES, check_axes, widen
from gpuion.checks import check_kind, check_limits, check_room
from gpuion.fields import empty
from gpuion.hops import count, trapped
from gpuion.medium import Medium
from gpuion.profiles import profile
from gpuion.stopping import MILD, SHARE, Stop, contrast, patience
from gpuion.threads import Team

_FLOOR = 1e-6  # errors of D are relative to D, but at least to this fraction of the Voigt bound
_SPECTRAL = False  # the FFT as preconditioner on a CPU too, where it is slower: the oracle of tests
_ROUNDING = 1e-13  # of D: what sums and exponentials of float64 cost at most, 1e-15 as measured at mild contrasts
_SINGLE = 1e-6  # tolerances below this go to float64 at once
_DECADES = 6.0  # so do structures of more contrast: float32 may not see a weak link between two clusters
_ON_GPU = 2**27  # sites × axes in flight, half of it in double precision: 7.5 GB, or one structure if that is more
_ON_CPU = 2**18  # likewise: 15 MB, to stay in the cache
_SHARED = 2**19  # sites from which on threads share a structure: below, waiting for each other costs what sharing gains


@dataclasses.dataclass(frozen=True, kw_only=True)
class HomogenizationResult:
    """Effective diffusivities and how far they can be trusted; NaN for axes that were not asked for.

    Attributes
    ----------
    tensor : float64 [B, 3, 3]
        Effective diffusivity in the unit of the medium's table, symmetric. D_ab needs the solutions for both a and b,
        so it is NaN unless both were asked for: the flux of one alone would tell it, but with an error of the root of
        that of D_aa.
    error : float64 [B, 3]
        Estimated error of each D_aa, relative to `scale`. An estimate, not a bound. With multigrid, as on a CPU, none
        of 1944 values of random media (8³ to 11³ sites, contrasts of 10 to 10⁶, solved to 1e-2, 1e-3 and 1e-4) was
        further from the exact one than 0.24 of it, and none of 2448 of electrolytes (16³ to 75³ sites, 1e-1 to 1e-4)
        than 0.1. Hardest are mazes, corridors one site wide: at 12³ sites 26 of 288 values were further off than
        estimated at 1e-1, by up to 2.1 times, and 4 at 1e-2, by up to 2.5. With the FFT, as on a GPU, it was 0.95 of
        the estimate at most on 864 values of random media, 0.94 on 180 of electrolytes, and in mazes of 12³ sites 72 of
        216 were further off, by up to 5 times. At least 1e-13, for rounding; 0, as D, where no cluster leads through.
    scale : float64 [B, 3]
        max(D_aa, 1e-6 of the Voigt bound Σ_bonds g h² / Π), in the unit of the medium's table.
    converged : bool [B]
        Whether the errors of all axes asked for are within the tolerance.
    iterations : int64 [B]
        Iterations of the slowest of them.
    """

    tensor: Tensor
    error: Tensor
    scale: Tensor
    converged: Tensor
    iterations: Tensor

    @property
    def diffusivity(self) -> Tensor:
        """The diagonal D_xx, D_yy, D_zz, float64 [B, 3]: upper bounds of the exact values."""
        return self.tensor.diagonal(dim1=-2, dim2=-1)


def homogenize(
    medium: Medium, *, tolerance: float = 1e-4, max_iterations: int = 2000, axes: Sequence[int] = ALL_AXES
) -> HomogenizationResult:
    """Solve for the effective diffusivity tensor: D_ab = Σ_bonds g (h e_a·d + δu_a)(h e_b·d + δu_b) / Π.

    The sum is taken in float64, from solutions u_a in float32. Where their rounding is seen to cost more than
    the tolerance, the structure is solved again in float64. Structure b gets the same answer alone and in any
    batch, on CPU bit for bit. Weight in closed pockets counts in Π and carries nothing.

    Parameters
    ----------
    medium : Medium
        Labelled lattices [B, X, Y, Z] of any edge lengths ≥ 1, periodic along all axes.
    tolerance : float
        Bound in [1e-12, 1) on the estimated relative error of each D_aa (see `HomogenizationResult.error`).
    max_iterations : int
        Iterations, of each precision and preconditioner tried, after which a structure is given up: D is still an upper
        bound, `converged` false.
    axes : ints
        Those of 0, 1 and 2 to solve for, each at a third of the cost of all; the rest is NaN in the result. What an
        axis gets does not depend on the others, but that one of them may send the structure to float64.

    Returns
    -------
    HomogenizationResult
        On the medium's device; D in the unit of its table of diffusivities.

    Raises
    ------
    ValueError
        For a tolerance, limit or axis out of range, a structure with no open site, or one that takes more than this
        machine's memory.

    Notes
    -----
    Preconditioner: on a GPU the homogeneous reference medium of Moulinec & Suquet, Comput. Methods Appl. Mech.
    Eng. 157 (1998) 69, on bonds; on a CPU aggregates with over-corrected bonds, Braess, Computing 55 (1995) 379.
    Error: after Meurant, Papež & Tichý, Numer. Algorithms 88 (2021) 1337.
    """
    check_kind("medium", medium, Medium)
    limits, chosen = check_limits(tolerance, max_iterations), check_axes(axes)
    check_fields(medium.labels, chosen)
    tolerance = limits[0]
    factor, unit, counts = _site_factors(medium)
    B, A = len(medium), len(chosen)
    energy, error, scale = (torch.zeros(B, A, *n, dtype=torch.float64, device=unit.device) for n in ((A,), (), ()))
    iterations, error = torch.zeros_like(unit, dtype=torch.int64), error + math.inf
    decades = contrast(factor)
    mild = torch.from_numpy(decades <= _DECADES).to(unit.device)
    for way in ways(tolerance, _SINGLE, on_gpu=medium.labels.is_cuda):
        left = (error > tolerance).any(1)
        todo = (left & mild if way.dtype is torch.float32 else left).nonzero()[:, 0]
        if len(todo):
            found = _solve_all(medium.labels[todo], factor[todo], decades[todo.cpu().numpy()], way, limits, chosen)
            for whole, part in zip((energy, error, scale, iterations), found, strict=True):
                whole[todo] = part
    _close(medium, counts, chosen, energy, error, scale)
    return HomogenizationResult(
        tensor=widen(energy * unit[:, None, None], chosen),
        error=widen(error, chosen),
        scale=widen(scale * unit[:, None], chosen),
        converged=(error <= tolerance).all(1),
        iterations=iterations,
    )


def check_fields(structures: Tensor, axes: tuple[int, ...]) -> None:
    """Raise ValueError if the fields of a solve, s and four for each axis, of one of [B, X, Y, Z] exceed the memory."""
    if not structures.is_cuda:  # torch itself knows what a GPU has
        check_room(structures[:1].numel() * (8 + 16 * len(axes)), f"to solve on {list(structures.shape[1:])} sites")


def _close(medium: Medium, counts: Tensor, axes: tuple[int, ...], energy: Tensor, error: Tensor, scale: Tensor) -> None:
    """Set D to exactly 0 along axes that no cluster of sites leads through, where it is next to nothing."""
    small = (energy.diagonal(dim1=1, dim2=2) < scale).any(1).nonzero()[:, 0]
    if not len(small):
        return
    _, leads = trapped(dataclasses.replace(medium, labels=medium.labels[small]), counts[small])
    shut = torch.zeros_like(error, dtype=torch.bool)
    shut[small] = ~leads[:, list(axes)]
    error.masked_fill_(shut, 0.0)
    energy.masked_fill_(shut[:, :, None] | shut[:, None, :], 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """How to solve: the precision of the fields, and whether the preconditioner is the FFT or else multigrid."""

    dtype: torch.dtype
    spectral: bool


def ways(tolerance: float, single: float, *, on_gpu: bool) -> list[Way]:
    """Return the ways to solve, each for what the one before left above the tolerance.

    On a CPU multigrid is the fast one, and the FFT the one that copes with a few structures of contrast 1e7 and more:
    of 4000 of up to 6³ sites multigrid left 96 above 1e-9 or 1e-5.
    """
    spectral = on_gpu or _SPECTRAL
    found = [Way(dtype=torch.float32, spectral=spectral)] if tolerance >= single else []
    found.append(Way(dtype=torch.float64, spectral=spectral))
    return found if spectral else [*found, Way(dtype=torch.float64, spectral=True)]


def _site_factors(medium: Medium) -> tuple[Tensor, Tensor, Tensor]:
    """Return s per class [B, L], its largest 1 in each structure, what D a unit of energy means [B], counts [B, L].

    Only classes that occur in a structure set its scale, so nothing overflows and batch mates do not matter.
    """
    B, L = len(medium), len(medium.potential)
    counts = count(medium)
    shut = ((counts > 0) & torch.isfinite(medium.potential)).sum(1) == 0
    if bool(shut.any()):
        b = int(shut.nonzero()[0, 0])
        raise ValueError(f"structure {b} of {B} has no open site; leave it out, or open one of its classes")
    lowest = medium.potential.expand(B, L).masked_fill(counts == 0, math.inf).amin(1, keepdim=True)
    potential = medium.potential - lowest  # only differences matter, and those of large numbers may be small
    log_weight = torch.logsumexp(counts.double().log() - potential, 1)  # log Π
    log_factor = (medium.diffusivity.log() - potential) / 2
    top = log_factor.expand(B, L).masked_fill(counts == 0, -math.inf).amax(1, keepdim=True)
    top = torch.where(torch.isfinite(top), top, 0.0)  # all open classes may have D = 0
    factor = (log_factor - top).exp().masked_fill(counts == 0, 0.0)
    return factor, (2 * top[:, 0] - log_weight).exp(), counts


def _look_up(labels: Tensor, factor: Tensor) -> Tensor:
    """Return the factors [C, L] of the classes of sites [C, X, Y, Z], float64 [C, X, Y, Z]."""
    if labels.is_cuda:
        return factor.gather(1, labels.flatten(1).long()).view(labels.shape)
    from gpuion.kernels import tables

    s = empty(labels.shape, torch.float64, labels.device)
    with _team(s) as team:
        for c in range(len(s)):
            planes = labels[c].flatten(1).numpy(), factor[c].numpy(), s[c].flatten(1).numpy()
            team.each(s.shape[1], tables.look_up, *planes)
    return s


def _team(s: Tensor) -> Team:
    """Return the threads that share the work on structures [C, X, Y, Z]: one if they are small, or on a GPU."""
    return Team(1 if s.is_cuda or s[0].numel() < _SHARED else torch.get_num_threads())


def _solve_all(
    labels: Tensor, factor: Tensor, decades: np.ndarray, way: Way, limits: tuple[float, int], axes: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return energies [B, A, A], errors and their scales [B, A], iterations [B], a chunk of structures at a time."""
    A = len(axes)
    energy = torch.zeros(len(labels), A, A, dtype=torch.float64, device=labels.device)
    error, scale = torch.zeros_like(energy[:, 0]), torch.zeros_like(energy[:, 0])
    iterations = torch.zeros(len(labels), dtype=torch.int64, device=labels.device)
    room = (_ON_GPU if labels.is_cuda else _ON_CPU) * 4 // way.dtype.itemsize
    size = max(1, room // (A * max(1, labels[:1].numel())))

    def solve(first: int) -> None:
        part = slice(first, first + size)
        s = _look_up(labels[part], factor[part])
        energy[part], error[part], scale[part], iterations[part], *_ = solve_fields(s, way, limits, axes, decades[part])

    chunks, threads = range(0, len(labels), size), torch.get_num_threads()
    if labels.is_cuda or threads == 1 or len(chunks) < 2:
        for first in chunks:
            solve(first)
    else:  # a thread a chunk: no waiting for each other at every operation
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(solve, chunks))
    return energy, error, scale, iterations


def solve_fields(
    s: Tensor, way: Way, limits: tuple[float, int], axes: tuple[int, ...] = ALL_AXES, decades: np.ndarray | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, dict[int, Tensor]]:
    """Return energies [C, A, A], errors relative to scales [C, A], those, iterations [C], and the solutions.

    The solutions are u [C, A, X, Y, Z] and for each axis the drops 1 + δu of the start, [C, n]. `s` is float64,
    `decades` what `contrast(s)` says, if that is at hand.
    """
    C, A = len(s), len(axes)
    r = empty((C, A, *s.shape[1:]), way.dtype, s.device)
    with _team(s) as team:
        start = {axis: profile(team, s, axis, r[:, a]) for a, axis in enumerate(axes)}
        before = torch.stack([p.energy for p in start.values()], 1)  # [C, A]
        floor = _FLOOR * torch.stack([p.voigt for p in start.values()], 1)
        stop = _stop(way, limits, before, floor, (contrast(s) if decades is None else decades).repeat(A))
        flow = {axis: p.flow for axis, p in start.items()}
        if way.spectral:
            u, fall, tail, iterations = spectral.solve(s, r.flatten(0, 1), stop)
            energy = spectral.energy(s, u.unflatten(0, (C, A)), flow)
        else:
            u, fall, tail, iterations = multigrid.solve(team, s, r.flatten(0, 1), stop)
            energy = multigrid.energy(team, s, u.unflatten(0, (C, A)), flow)
    reached = energy.diagonal(dim1=1, dim2=2)
    # What the sum over bonds has above the tracked energy is what rounding cost.
    lost = (reached - (before - fall.view(C, A))).clamp_min(0)
    scale = torch.maximum(reached, floor).clamp_min(torch.finfo(torch.float64).tiny)
    error = (tail.view(C, A) + lost + _ROUNDING * reached) / scale
    return energy, error, scale, iterations.view(C, A).amax(1), u.unflatten(0, (C, A)), flow


def _stop(way: Way, limits: tuple[float, int], before: Tensor, floor: Tensor, decades: np.ndarray) -> Stop:
    """Return when rows are done that start from some energies [C, A]; `decades` of contrast [C A]."""
    return Stop(
        energy=before.flatten().cpu().numpy(),
        floor=floor.flatten().cpu().numpy(),
        patience=patience(decades, 1 / 3) if way.spectral else patience(decades, 1),
        mild=(decades <= MILD) & (not way.spectral),
        least=4 if way.spectral else 3,
        share=0.0 if way.spectral else SHARE,
        tolerance=limits[0],
        max_iterations=limits[1],
    )
