"""Kirchhoff's laws for spheres that touch through shells, in a bath, in a periodic cell; with exact gradients.

Legend: B circuits, N spheres, E contacts between them, K contacts of one sphere, l = 1 … P orders of a shell,
M waves of the bath (cosines, then sines).

A sphere's corona is a conducting shell: what enters by one contact leaves by others after a way along the shell that
depends on the angle between them. So a contact e of conductance g_e does not join two points but two places on shells,
and the shell of sphere i answers currents I_a in directions n_a with potentials s_i Σ_b G(n_a · n_b) I_b,
G(x) = Σ_l γ_l P_l(x): s_i Σ_l γ_l Q_l of power, positive as each P_l is a positive kernel. The bath is a uniform
conductor σ around it all, whose potential is a sum of plane waves, too smooth to see a single sphere; sphere i is
joined to it through h_i, and short-circuits the field around itself by its polarizability α_i.
"""

import dataclasses
import math

import torch
from torch import Tensor
from torch.nn import functional

_HALVED = 512  # rows of a triangular system, and more
_GROUND = 1e-9  # of the largest conductance at a sphere: a cluster that nothing else holds has one potential


@dataclasses.dataclass(frozen=True, kw_only=True)
class Circuit:
    """Conductances, float; where sphere meets sphere, int64.

    Attributes
    ----------
    ends : int64 [B, 2, E]
        The spheres at a contact's tail and head; any for a contact of no conductance.
    vector : [B, E, 3]
        From tail to head, voxels.
    slots : int64 [B, N, K]
        A sphere's contacts: e + 1 for one whose tail it is, −(e + 1) for one whose head it is, 0 for none.
    conductance : [B, E]
        g, 0 for what is no contact.
    spread : [B, N]
        s, how much a sphere's shell resists, times
    orders : [P]
        γ, for l = 1 … P.
    coupling : [B, N]
        h, from a sphere to the bath around it, above 0.
    polarizability : [B, N]
        α, 0 or more, of a sphere in the bath's field: 3 σ times its volume if it is alone and conducts well.
    solvent : [B]
        σ of the bath.
    waves, slopes : [B, N, M], [B, N, 3, M]
        The bath's plane waves and their gradients, seen by the spheres.
    squares : [M]
        |k|² of the waves, 1/voxel².
    volume : float
        Of the cell, voxels³.
    """

    ends: Tensor
    vector: Tensor
    slots: Tensor
    conductance: Tensor
    spread: Tensor
    orders: Tensor
    coupling: Tensor
    polarizability: Tensor
    solvent: Tensor
    waves: Tensor
    slopes: Tensor
    squares: Tensor
    volume: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Solution:
    """What flows in a unit field along x, y, z (the last dimension), without gradients."""

    current: Tensor  # [B, E, 3], from tail to head
    sphere: Tensor  # [B, N, 3], potentials, float64
    bath: Tensor  # [B, M, 3], φ of the waves, float64


def power(circuit: Circuit) -> Tensor:
    """Return the power dissipated in a unit field along x, y and z, [B, 3].

    It is stationary in currents and potentials, so gradients with respect to conductances, to where spheres are and to
    which way contacts lie follow from the solution held fixed, at no further solve:

        Σ_e (2 I_e v_e − I_e² / g_e) − Σ_i s_i Σ_l γ_l Q_il + Σ_i (h_i w_i² + α_i |E_i|²) + σ V (1 + Σ_k |k|² φ_k²),

    with v the drops between spheres, w their offsets from the bath and E its field, the unit one included.
    Its error is of second order in the solution's.

    Parameters
    ----------
    circuit : Circuit

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    B, _, E = circuit.ends.shape
    N = circuit.spread.shape[1]
    if circuit.vector.shape != (B, E, 3) or circuit.conductance.shape != (B, E) or circuit.slots.shape[:2] != (B, N):
        raise ValueError(
            f"a circuit of {B} × {N} spheres and {E} contacts has vectors [B, E, 3], conductances [B, E] and slots "
            f"[B, N, K], got {[list(x.shape) for x in (circuit.vector, circuit.conductance, circuit.slots)]}"
        )
    kernels = _legendre(circuit)
    with torch.no_grad():
        at = _solve(circuit, kernels)
    g = circuit.conductance[..., None]
    real = g > 0
    lost = torch.where(real, at.current.square() / torch.where(real, g, 1), 0)
    drop = circuit.vector + _difference(at.sphere.to(g.dtype), circuit.ends)  # between the means of two spheres
    offset = (at.sphere - circuit.waves.double() @ at.bath).to(g.dtype)  # of a sphere from the bath around it
    contacts = (2 * at.current * drop - lost).sum(1)
    shells = torch.einsum("bi,l,bilx->bx", circuit.spread, circuit.orders, _shell_powers(circuit, kernels, at.current))
    coupling = torch.einsum("bi,bix->bx", circuit.coupling, offset.square())
    bath = at.bath.to(g.dtype)
    polarized = torch.einsum("bi,bix->bx", circuit.polarizability, _field(circuit, bath))
    own = 1 + torch.einsum("m,bmx->bx", circuit.squares, bath.square())
    return contacts - shells + coupling + polarized + circuit.volume * circuit.solvent[:, None] * own


def _solve(circuit: Circuit, kernels: list[Tensor]) -> _Solution:
    """Eliminate the currents, then solve for the potentials of spheres and bath in float64."""
    B, N, M = circuit.waves.shape
    root, vector = circuit.conductance.sqrt()[..., None], circuit.vector
    factor = _factor(circuit, kernels, root)
    # Differences of potential along the contacts, of unit potentials and of unit fields.
    incidence = (circuit.ends[..., None] == torch.arange(N, device=root.device)).to(root.dtype)
    drops = torch.cat([incidence[:, 1] - incidence[:, 0], vector], -1) * root
    reduced = _substitute(factor, drops, upper=False)
    laplacian = (reduced.mT @ reduced).double()
    matrix, force = _bath(circuit)
    h, waves = circuit.coupling.double(), circuit.waves.double()
    system = laplacian.new_zeros(B, N + M, N + M)
    own = laplacian.diagonal(dim1=1, dim2=2)[:, :N] + h
    ground = _GROUND * own.amax(1, keepdim=True)
    system[:, :N, :N] = laplacian[:, :N, :N] + torch.diag_embed(h + ground)
    joined = -h[..., None] * waves
    system[:, :N, N:], system[:, N:, :N] = joined, joined.mT
    system[:, N:, N:] = matrix - waves.mT @ joined
    system[:, N:, N:].diagonal(dim1=1, dim2=2).add_(ground)
    right = -torch.cat([laplacian[:, :N, N:], force], 1)
    lower = _cholesky(system)
    potential = _substitute(lower.mT, _substitute(lower, right, upper=False), upper=True)
    sphere, bath = potential[:, :N], potential[:, N:]
    drop = vector + _difference(sphere.to(root.dtype), circuit.ends)
    current = _substitute(factor.mT, _substitute(factor, drop * root, upper=False), upper=True) * root
    return _Solution(current=current, sphere=sphere, bath=bath)


def _bath(circuit: Circuit) -> tuple[Tensor, Tensor]:
    """Return the bath's own matrix, [B, M, M], and what unit fields do to its waves by polarized spheres, [B, M, 3]."""
    slopes, alpha = circuit.slopes.double(), circuit.polarizability.double()
    pulled = slopes * alpha[..., None, None]
    stiff = circuit.volume * circuit.solvent.double()[:, None] * circuit.squares.double()
    matrix = slopes.flatten(1, 2).mT @ pulled.flatten(1, 2) + torch.diag_embed(stiff)
    return matrix, pulled.sum(1).mT


def _field(circuit: Circuit, bath: Tensor) -> Tensor:
    """Return |E|² of the bath at the spheres, in unit fields along x, y and z, [B, N, 3]."""
    gradient = torch.einsum("bidm,bmx->bidx", circuit.slopes, bath)
    return (gradient + torch.eye(3, dtype=bath.dtype, device=bath.device)).square().sum(2)


def _difference(potential: Tensor, ends: Tensor) -> Tensor:
    """Return head minus tail, [B, E, 3]."""
    tail, head = (potential.gather(1, end[..., None].expand(-1, -1, 3)) for end in ends.unbind(1))
    return head - tail


def _signs(circuit: Circuit, values: Tensor) -> Tensor:
    """Return what leaves a sphere by its contacts, [B, N, K, C], of values [B, E, C] from tail to head."""
    B, N, K = circuit.slots.shape
    if not values.shape[1]:
        return values.new_zeros(B, N, K, values.shape[-1])
    taken = values.gather(1, _contact(circuit).view(B, N * K, 1).expand(-1, -1, values.shape[-1]))
    return taken.view(B, N, K, -1) * circuit.slots.sign()[..., None]


def _contact(circuit: Circuit) -> Tensor:
    """Return the contacts of the slots, 0 for none."""
    return (circuit.slots.abs() - 1).clamp_min(0)


def _legendre(circuit: Circuit) -> list[Tensor]:
    """Return P_l of the cosine between each two contacts of a sphere, l = 1 …, [B, N, K, K] each."""
    outward = _signs(circuit, functional.normalize(circuit.vector, dim=-1))
    x = outward @ outward.mT
    kernels = [torch.ones_like(x), x]
    for l in range(2, len(circuit.orders) + 1):  # noqa: E741, the field's letter
        kernels.append(((2 * l - 1) * x * kernels[-1] - (l - 1) * kernels[-2]) / l)
    return kernels[1:]


def _factor(circuit: Circuit, kernels: list[Tensor], root: Tensor) -> Tensor:
    """Return the Cholesky factor of 1 + √g G √g, [B, E, E]: of order one, however small or large the conductances."""
    B, E, _ = circuit.vector.shape
    shell = sum(gamma * kernel for gamma, kernel in zip(circuit.orders, kernels, strict=True))
    scale = _signs(circuit, root)  # its sign says which way the current is counted
    shell = shell * circuit.spread[..., None, None] * scale * scale.mT
    contact = _contact(circuit)
    place = contact[..., :, None] * E + contact[..., None, :]
    matrix = root.new_zeros(B, E * E).scatter_add_(1, place.view(B, -1), shell.reshape(B, -1)).view(B, E, E)
    matrix.diagonal(dim1=1, dim2=2).add_(1)
    return _cholesky(matrix)


def _cholesky(matrix: Tensor) -> Tensor:
    """Return the lower factor, NaN where there is none: of a GPU, the host does not wait to know."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    return factor.masked_fill_((failed != 0)[..., None, None], math.nan)


def _substitute(factor: Tensor, right: Tensor, *, upper: bool) -> Tensor:
    """Return the solution of a triangular system, by halves on a GPU if it is large: torch 2.11 may ask MAGMA."""
    n = factor.shape[-1]
    if not factor.is_cuda or n <= _HALVED:
        return torch.linalg.solve_triangular(factor, right, upper=upper)
    ends = [slice(0, n // 2), slice(n // 2, n)]
    last, first = ends if upper else ends[::-1]
    known = _substitute(factor[:, first, first], right[:, first], upper=upper)
    other = right[:, last] - factor[:, last, first] @ known
    found = [known, _substitute(factor[:, last, last], other, upper=upper)]
    return torch.cat(found[::-1] if upper else found, 1)


def _shell_powers(circuit: Circuit, kernels: list[Tensor], current: Tensor) -> Tensor:
    """Return Q = Σ_ab I_a P_l(n_a · n_b) I_b of each sphere, [B, N, P, 3]."""
    out = _signs(circuit, current)
    return torch.stack([(out * (kernel @ out)).sum(2) for kernel in kernels], 2)


def plane_waves(centers: Tensor, vectors: Tensor, *, radius: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the bath's plane waves as spheres see them, [B, N, M], their gradients, [B, N, 3, M], and |k|², [M].

    √2 cos k·r and √2 sin k·r for each wave vector k, averaged over the surface of a sphere: sin(ka) / ka.

    Parameters
    ----------
    centers : [B, N, 3]
        Voxels.
    vectors : [M / 2, 3]
        k of `wave_vectors`.
    radius : float
        a, voxels.
    """
    k = vectors.to(centers)
    length = k.norm(dim=1)
    seen = math.sqrt(2) * torch.sinc(length * (radius / math.pi))
    phase = centers @ k.mT
    cosine, sine = phase.cos() * seen, phase.sin() * seen
    slopes = torch.cat([-sine, cosine], -1)[:, :, None] * k.mT.repeat(1, 2)
    return torch.cat([cosine, sine], -1), slopes, length.square().repeat(2)


def wave_vectors(box: float, reach: float) -> Tensor:
    """Return one of each pair ±k ≠ 0 of a cell's wave vectors with |k| ≤ reach, 1/voxel, float32 [M / 2, 3]."""
    return wave_numbers(box, reach) * (2 * math.pi / box)


def wave_numbers(box: float, reach: float) -> Tensor:
    """Return one n of each pair ±n ≠ 0 with 2π |n| / box ≤ reach, int64 [M / 2, 3]."""
    top = math.floor(reach * box / (2 * math.pi) + 1e-9)
    steps = torch.arange(-top, top + 1)
    n = torch.cartesian_prod(steps, steps, steps)
    half = (n * torch.tensor([4 * top * top + 4 * top + 1, 2 * top + 1, 1])).sum(1) > 0
    near = n.square().sum(1) <= (reach * box / (2 * math.pi)) ** 2 + 1e-9
    return n[half & near]
