"""The exact effective diffusivity of a periodic lattice medium, by a variational principle.

The reversible nearest-neighbour chain of a `Medium` has bond conductances g_xy = s_x s_y / h² with the site
factor s = √D exp(−U/2), 0 where blocked. Along a unit vector e, with Π = Σ_x exp(−U_x), it diffuses with

    D_ee = min_u Σ_bonds g_xy (h e·(y−x)/|y−x| + u_y − u_x)² / Π.

In units of h the minimiser solves A u = b with A u = s∘(S∘u − N(s∘u)), N the sum over six neighbours, S =
N(s): no bond is ever stored, and h drops out. The solver is conjugate gradients. It starts from the best
profile along the axis, exact for layers, and stops on the estimated error of D itself, which the fall of the
energy Σ_j α_j r_jᵀz_j tells, not on the residual. The preconditioner is the periodic Laplacian, inverted by
FFT, on a GPU, and multigrid in scalar loops on a CPU, where it is 6 to 15 times faster (`gpuion.multigrid`).

Letters: B structures of the batch, C of a chunk; R rows = (structure, axis) problems of a chunk, K of them
still unsolved; X Y Z sites; L site classes; T iterations. On a GPU at most 14 float32 fields a row are in flight: s,
S, u, r, p, z, work space and the finished u make 8, and 5 while the FFT runs (transform, its two copies,
each of one field and a bit, the result, the last z) or 3 for a sum in float64.
"""

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from gpuion import multigrid
from gpuion.fields import column, dot, green_function, minus_operator, neighbour_sum, precondition, total
from gpuion.medium import Medium
from gpuion.stopping import Stop, judge, patience

_CHECK = 4  # iterations between two looks at the error, each one transfer to the host
_FLOOR = 1e-6  # errors of D are relative to D, but at least to this fraction of the Voigt bound
_SPECTRAL = False  # the FFT as preconditioner on a CPU too, where it is slower: the oracle of tests
_EAGER = 0.6  # of the patience, with multigrid: of 3600 errors 1 was above its estimate; with 0.5 6 were, by up to 3
_SINGLE = 1e-6  # tolerances below this go to float64 at once
_ON_GPU = 2**27  # sites × axes in flight: 7 GB
_ON_CPU = 2**18  # sites × axes in flight: 14 MB, to stay in the cache


@dataclasses.dataclass(frozen=True, kw_only=True)
class HomogenizationResult:
    """Effective diffusivities and how far they can be trusted.

    Attributes
    ----------
    tensor : float64 [B, 3, 3]
        Effective diffusivity in the unit of the medium's table, symmetric.
    error : float64 [B, 3]
        Estimated error of each D_aa, relative to max(D_aa, 1e-6 of the Voigt bound Σ_bonds g h² / Π).
    converged : bool [B]
        Whether all three errors are within the tolerance.
    iterations : int64 [B]
        Iterations of the slowest axis.
    """

    tensor: Tensor
    error: Tensor
    converged: Tensor
    iterations: Tensor

    @property
    def diffusivity(self) -> Tensor:
        """The diagonal D_xx, D_yy, D_zz, float64 [B, 3]: upper bounds of the exact values."""
        return self.tensor.diagonal(dim1=-2, dim2=-1)


def homogenize(medium: Medium, *, tolerance: float = 1e-4, max_iterations: int = 2000) -> HomogenizationResult:
    """Solve for the effective diffusivity tensor: D_ab = Σ_bonds g (h e_a·d + δu_a)(h e_b·d + δu_b) / Π.

    The sum is taken in float64, from solutions u_a in float32. Where their rounding is seen to cost more than
    the tolerance, the structure is solved again in float64. Structure b gets the same answer alone and in any
    batch, on CPU bit for bit. Weight in closed pockets counts in Π and carries nothing.

    Parameters
    ----------
    medium : Medium
        Labelled lattices [B, X, Y, Z] of any edge lengths ≥ 1, periodic along all axes.
    tolerance : float
        Bound in (0, 1) on the estimated relative error of each D_aa (see `HomogenizationResult.error`).
    max_iterations : int
        Iterations after which a structure is given up: D is still an upper bound, `converged` false.

    Returns
    -------
    HomogenizationResult
        On the medium's device; D in the unit of its table of diffusivities.

    Raises
    ------
    ValueError
        For a tolerance or limit out of range, or a structure with no open site.

    Notes
    -----
    Preconditioner: on a GPU the homogeneous reference medium of Moulinec & Suquet, Comput. Methods Appl. Mech.
    Eng. 157 (1998) 69, on bonds; on a CPU aggregates with over-corrected bonds, Braess, Computing 55 (1995) 379.
    Error: after Meurant, Papež & Tichý, Numer. Algorithms 88 (2021) 1337.
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance is a relative error in (0, 1), got {tolerance}; 1e-4 is usual")
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1, got {max_iterations}")
    factor, unit = _site_factors(medium)
    first = torch.float32 if tolerance >= _SINGLE else torch.float64
    energy, error, iterations = _solve_all(medium.labels, factor, first, (tolerance, max_iterations))
    again = ((error > tolerance).any(1) & (iterations < max_iterations)).nonzero()[:, 0]
    if first == torch.float32 and len(again):
        redone = _solve_all(medium.labels[again], factor[again], torch.float64, (tolerance, max_iterations))
        for old, new in zip((energy, error, iterations), redone, strict=True):
            old[again] = new
    return HomogenizationResult(
        tensor=energy * unit[:, None, None],
        error=error,
        converged=(error <= tolerance).all(1),
        iterations=iterations,
    )


def _site_factors(medium: Medium) -> tuple[Tensor, Tensor]:
    """Return s per class [B, L], its largest 1 in each structure, and what D a unit of energy means [B].

    Only classes that occur in a structure set its scale, so nothing overflows and batch mates do not matter.
    """
    B, L = len(medium), len(medium.potential)
    share = max(1, _ON_CPU // max(1, medium.labels[:1].numel()))
    counts = torch.cat([_histogram(part, L) for part in medium.labels.split(share)])
    shut = ((counts > 0) & torch.isfinite(medium.potential)).sum(1) == 0
    if bool(shut.any()):
        b = int(shut.nonzero()[0, 0])
        raise ValueError(f"structure {b} of {B} has no open site; leave it out, or open one of its classes")
    log_weight = torch.logsumexp(counts.double().log() - medium.potential, 1)  # log Π
    log_factor = (medium.diffusivity.log() - medium.potential) / 2
    top = log_factor.expand(B, L).masked_fill(counts == 0, -math.inf).amax(1, keepdim=True)
    top = torch.where(torch.isfinite(top), top, 0.0)  # all open classes may have D = 0
    factor = (log_factor - top).exp().masked_fill(counts == 0, 0.0)
    return factor, (2 * top[:, 0] - log_weight).exp()


def _histogram(labels: Tensor, L: int) -> Tensor:
    """Return how many sites of each class each structure has, int64 [C, L]."""
    first = torch.arange(len(labels), device=labels.device)[:, None] * L
    return torch.bincount((labels.flatten(1).long() + first).flatten(), minlength=len(labels) * L).view(-1, L)


def _solve_all(
    labels: Tensor, factor: Tensor, dtype: torch.dtype, limits: tuple[float, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return energies [B, 3, 3], errors [B, 3] and iterations [B], a chunk of structures at a time."""
    energy = torch.zeros(len(labels), 3, 3, dtype=torch.float64, device=labels.device)
    error = torch.zeros_like(energy[:, 0])
    iterations = torch.zeros(len(labels), dtype=torch.int64, device=labels.device)
    size = max(1, (_ON_GPU if labels.is_cuda else _ON_CPU) // (3 * max(1, labels[:1].numel())))

    def solve(first: int) -> None:
        part = slice(first, first + size)
        s = factor[part].gather(1, labels[part].flatten(1).long()).view(labels[part].shape)
        energy[part], error[part], iterations[part] = _solve(s, dtype, limits)

    chunks, threads = range(0, len(labels), size), torch.get_num_threads()
    if labels.is_cuda or threads == 1 or len(chunks) < 2:
        for first in chunks:
            solve(first)
    else:  # a thread a chunk: no waiting for each other at every operation
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(solve, chunks))
    return energy, error, iterations


def _solve(s: Tensor, dtype: torch.dtype, limits: tuple[float, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return energies [C, 3, 3], relative errors [C, 3] and iterations [C]; the fields are of `dtype`."""
    C = len(s)
    start = [_profile(s, axis) for axis in range(3)]
    before = torch.stack([p.energy for p in start], 1)  # [C, 3]
    floor = _FLOOR * torch.stack([p.voigt for p in start], 1)
    r = torch.stack([p.residual.to(dtype) for p in start], 1).flatten(0, 1)  # [R, X, Y, Z]
    spectral = s.is_cuda or _SPECTRAL
    stop = Stop(
        energy=before.flatten().cpu().numpy(),
        floor=floor.flatten().cpu().numpy(),
        patience=patience(s).repeat(3) * (1 if spectral else _EAGER),
        least=4 if spectral else 3,
        tolerance=limits[0],
        max_iterations=limits[1],
    )
    solve = _conjugate_gradients if spectral else multigrid.solve
    u, fall, tail, iterations = solve(s.to(dtype), r, stop)
    add_up = _energy if spectral else multigrid.energy
    energy = add_up(s, u.unflatten(0, (C, 3)), [p.flow for p in start])
    reached = energy.diagonal(dim1=1, dim2=2)
    # What the sum over bonds has above the tracked energy is what rounding cost.
    lost = (reached - (before - fall.view(C, 3))).clamp_min(0)
    scale = torch.maximum(reached, floor).clamp_min(torch.finfo(torch.float64).tiny)
    return energy, (tail.view(C, 3) + lost) / scale, iterations.view(C, 3).amax(1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Profile:
    """The best u that varies along one axis only: drops 1 + δu [C, n], what is left of b, energies [C]."""

    flow: Tensor
    residual: Tensor
    energy: Tensor
    voigt: Tensor


def _profile(s: Tensor, axis: int) -> _Profile:
    """Return the start along an axis: layers in series; exact for laminates and shut slabs."""
    layers = s.movedim(axis + 1, 1)  # [C, n, …]
    ahead = layers.roll(-1, 1)
    g = (layers * ahead).sum(-1).sum(-1)  # conductance of each layer, [C, n]
    least = g.amin(1, keepdim=True)
    flow = torch.where(g == least, 1.0, least / g)
    flow = flow * (g.shape[1] / flow.sum(1, keepdim=True))
    w = flow[:, :, None, None]
    residual = layers * (ahead * w - layers.roll(1, 1) * w.roll(1, 1))
    energy = (g * flow.square()).sum(1)
    return _Profile(flow=flow, residual=residual.movedim(1, axis + 1), energy=energy, voigt=g.sum(1))


def _energy(s: Tensor, u: Tensor, flow: list[Tensor]) -> Tensor:
    """Return Σ_bonds g (e_a·d + δu_a)(e_b·d + δu_b), float64 [C, 3, 3], from u [C, 3, X, Y, Z]."""
    energy = torch.zeros(len(s), 3, 3, dtype=torch.float64, device=s.device)
    for d in range(3):
        g = s * s.roll(-1, d + 1)
        drop = u.roll(-1, d + 2).double() - u.double()
        drop[:, d] += flow[d].view(len(s), *(-1 if axis == d else 1 for axis in range(3)))
        for a in range(3):
            weighted = g * drop[:, a]
            for b in range(a, 3):
                energy[:, a, b] += total(weighted * drop[:, b])
    return energy + energy.triu(1).mT


def _conjugate_gradients(s: Tensor, r: Tensor, stop: Stop) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return u [R, X, Y, Z], the fall of the energy, what it may still fall, and the iterations, [R] each.

    Rows that are done leave, so that all work is on whole contiguous fields.
    """
    s = s.repeat_interleave(3, 0)
    R, last = len(s), stop.max_iterations
    falls, tail, iterations = np.zeros((last, R)), np.zeros(R), np.full(R, last)
    active = np.arange(R)
    solved, work, green = torch.zeros_like(r), torch.empty_like(r), green_function(s)
    S = neighbour_sum(s, torch.empty_like(s))
    u, p = torch.zeros_like(r), torch.zeros_like(r)
    rz = torch.zeros(R, dtype=torch.float64, device=s.device)
    recent = []
    for i in range(1, last + 1):
        z = precondition(r, green)
        rz, old = dot(r, z, work), rz
        torch.addcmul(z, p, column(torch.where(old > 0, rz / old, 0.0), p), out=p)
        image = minus_operator(s, S, p, work, out=z)
        curvature = -dot(p, image, work)
        alpha = torch.where(curvature > 0, rz / curvature, 0.0)
        u.addcmul_(p, column(alpha, p))
        r.addcmul_(image, column(alpha, r))
        recent.append(alpha * rz)
        if i % _CHECK and i < last:
            continue
        falls[i - len(recent) : i, active] = torch.stack(recent).cpu().numpy()
        recent = []
        tail[active], done = judge(falls[:i, active], active, stop)
        iterations[active[done]] = i
        if i == last:
            done[:] = True
        if done.any():
            leave, stay = (torch.from_numpy(x.nonzero()[0]).to(s.device) for x in (done, ~done))
            solved[torch.from_numpy(active[done]).to(s.device)] = u[leave]
            active = active[~done]
            if not len(active):
                break
            s, S, u, r, p, rz = (x[stay] for x in (s, S, u, r, p, rz))
            work = work[: len(active)]
    fall, left, count = (torch.from_numpy(x).to(s.device) for x in (falls.sum(0), tail, iterations))
    return solved, fall, left, count
