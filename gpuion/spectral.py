"""The GPU's way to solve A u = b: conjugate gradients with the periodic Laplacian inverted by FFT, all rows at once.

It runs on a CPU, too, where it is the oracle of the multigrid way and copes with what that leaves.

Letters: C structures, A axes solved, R = A C rows (structure, axis), K of them still unsolved; X Y Z sites;
T iterations.
"""

import numpy as np
import torch
from torch import Tensor

from gpuion.fields import column, dot, green_function, minus_operator, neighbour_sum, precondition, total
from gpuion.stopping import Stop, judge

_CHECK = 4  # iterations between two looks at the error, each one transfer to the host


def solve(s: Tensor, r: Tensor, stop: Stop) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return u [R, X, Y, Z], the fall of the energy, what it may still fall, and the iterations, [R] each.

    As `multigrid.solve`. Rows that are done leave, so that all work is on whole contiguous fields.
    """
    s = s.to(r.dtype).repeat_interleave(len(r) // len(s), 0)
    R, last = len(s), stop.max_iterations
    falls, tail, iterations = np.zeros((last, R)), np.zeros(R), np.full(R, last)
    active = np.arange(R)
    solved, work, green = torch.zeros_like(r), torch.empty_like(r), green_function(s)
    S = neighbour_sum(s, torch.empty_like(s))
    diagonal = _inverse_diagonal(s, S)
    u, p = torch.zeros_like(r), torch.zeros_like(r)
    rz = torch.zeros(R, dtype=torch.float64, device=s.device)
    recent = []
    for i in range(1, last + 1):
        fall, rz = _step(s, S, green, diagonal, u, r, p, work, rz)
        recent.append(fall)
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
            s, S, u, r, p, rz, diagonal = (x[stay] for x in (s, S, u, r, p, rz, diagonal))
            work = work[: len(active)]
    fall, left, count = (torch.from_numpy(x).to(s.device) for x in (falls.sum(0), tail, iterations))
    return solved, fall, left, count


def _step(
    s: Tensor, S: Tensor, green: Tensor, diagonal: Tensor, u: Tensor, r: Tensor, p: Tensor, work: Tensor, before: Tensor
) -> tuple[Tensor, Tensor]:
    """Do one iteration on u, r and p; return the falls of the energies and rᵀz, `before` that of the last one, [K]."""
    z = precondition(r, green).addcmul_(r, diagonal)
    rz = dot(r, z, work)
    torch.addcmul(z, p, column(torch.where(before > 0, rz / before, 0.0), p), out=p)
    image = minus_operator(s, S, p, work, out=z)  # in z's place, which the next transform takes
    curvature = -dot(p, image, work)
    alpha = torch.where(curvature > 0, rz / curvature, 0.0)
    u.addcmul_(p, column(alpha, p))
    r.addcmul_(image, column(alpha, r))
    return alpha * rz, rz


def _inverse_diagonal(s: Tensor, S: Tensor) -> Tensor:
    """Return 3 ⟨s²⟩ / A_xx [R, X, Y, Z]: what joins the Laplacian's inverse, whose own conductance is ⟨s²⟩ here.

    Sites of weak bonds settle in a few iterations that the Laplacian alone takes hundreds for: on electrolytes of 50³
    and 75³ sites to 1e-3 that makes 40 to 96 iterations of 72 to 108, and a fifth at contrasts of 1e4 and more. A share
    of 1 or 6 instead of 3 changes the number by less than a fifth.
    """
    diagonal = s * S
    mean = total(s * s) / s[0].numel()
    inverse = column(3 * mean, s) / diagonal.clamp_min(1e-30)  # 1e-30: float32 ends at 1e-38
    return inverse.masked_fill_(diagonal == 0, 0.0)


def energy(s: Tensor, u: Tensor, flow: dict[int, Tensor]) -> Tensor:
    """Return Σ_bonds g (e_a·d + δu_a)(e_b·d + δu_b), float64 [C, A, A].

    Parameters
    ----------
    s : float64 [C, X, Y, Z]
        Site factors.
    u : [C, A, X, Y, Z]
        Solutions for the axes that are the keys of `flow`.
    flow : float64 [C, n] of each axis
        Drops along it before u, n = X, Y or Z.
    """
    A = len(flow)
    energy = torch.zeros(len(s), A, A, dtype=torch.float64, device=s.device)
    for d in range(3):
        g = s * s.roll(-1, d + 1)
        drop = u.roll(-1, d + 2).double().sub_(u)  # the roundings of u.double(), without the copy
        if d in flow:
            drop[:, list(flow).index(d)] += flow[d].view(len(s), *(-1 if axis == d else 1 for axis in range(3)))
        for a in range(A):
            weighted = g * drop[:, a]
            for b in range(a, A):
                energy[:, a, b] += total(weighted * drop[:, b])
    return energy + energy.triu(1).mT
