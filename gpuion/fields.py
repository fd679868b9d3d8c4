"""Operations on periodic lattice fields that homogenisation is made of: stencil, spectral inverse, sums.

Letters: K rows, each a field [X, Y, Z] of its own.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gpuion.threads import one_thread


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a field of no particular values; on a CPU as numpy has it, which asks for large pages.

    Linux then hands out 27 MB (150³ in float64) in 1 to 2 ms, for 9 by torch.
    """
    if device.type == "cpu":
        return torch.from_numpy(np.empty(tuple(shape), str(dtype).removeprefix("torch.")))
    return torch.empty(tuple(shape), dtype=dtype, device=device)


def green_function(like: Tensor) -> Tensor:
    """Return 1 / eigenvalues of the periodic Laplacian, 0 for the mean, for re and im, [X, Y, Z//2+1, 2]."""
    counts = [torch.arange(n, dtype=torch.float64, device=like.device) for n in like.shape[1:]]
    x, y, z = (2 - 2 * torch.cos(2 * math.pi * k / len(k)) for k in counts)
    eigenvalue = x[:, None, None] + y[:, None] + z[: len(z) // 2 + 1]
    eigenvalue[0, 0, 0] = math.inf
    return (1 / eigenvalue).to(like.dtype)[..., None].expand(-1, -1, -1, 2).contiguous()


def precondition(r: Tensor, green: Tensor) -> Tensor:
    """Return the periodic solution z of −∇²z = r with zero mean.

    On CPU row by row, from an aligned copy, on one thread: the last bits of MKL's transforms change with alignment,
    batch and threads (tried: edges of 2 … 16, 32, 64 in single precision, nearly all in double).
    """
    if r.is_cuda:
        return _poisson(r, green)
    with one_thread():
        return torch.stack([_poisson(row.clone(), green) for row in r])


def _poisson(r: Tensor, green: Tensor) -> Tensor:
    """Return the inverse transform of green times the transform of r, over the last three axes."""
    waves = torch.fft.rfftn(r, dim=(-3, -2, -1))
    torch.view_as_real(waves).mul_(green)  # FFTs and this: 1.7 ms; with complex times real 2.7 (3 × 50³)
    return torch.fft.irfftn(waves, s=r.shape[-3:], dim=(-3, -2, -1))


def neighbour_sum(t: Tensor, out: Tensor) -> Tensor:
    """Return the sum over the six periodic neighbours; on an axis of one site a site has itself for both."""
    X, Y, Z = t.shape[1:]
    flat = t.view(-1)
    torch.add(flat[2:], flat[:-2], out=out.view(-1)[1:-1])  # wrong at the ends of lines, until:
    torch.add(t[..., 1 % Z], t[..., -1], out=out[..., 0])
    torch.add(t[..., 0], t[..., -2 % Z], out=out[..., -1])
    for dim, n in ((1, X), (2, Y)):
        out.narrow(dim, 0, n - 1).add_(t.narrow(dim, 1, n - 1))
        out.select(dim, n - 1).add_(t.select(dim, 0))
        out.narrow(dim, 1, n - 1).add_(t.narrow(dim, 0, n - 1))
        out.select(dim, 0).add_(t.select(dim, n - 1))
    return out


def minus_operator(s: Tensor, S: Tensor, p: Tensor, work: Tensor, out: Tensor) -> Tensor:
    """Return −A p = s∘(N(s∘p) − S∘p)."""
    neighbour_sum(torch.mul(s, p, out=work), out)
    return torch.addcmul(out, S, p, value=-1, out=out).mul_(s)


def dot(a: Tensor, b: Tensor, work: Tensor) -> Tensor:
    """Return Σ a b of each row, float64 [K]."""
    return total(torch.mul(a, b, out=work))


def total(field: Tensor) -> Tensor:
    """Return the sum of each row, float64 [K]; axis by axis, so batch and threads do not change its order."""
    return field.double().sum(-1).sum(-1).sum(-1)


def column(scalar: Tensor, field: Tensor) -> Tensor:
    """Return one number a row as a tensor that multiplies a field."""
    return scalar.to(field.dtype).view(-1, 1, 1, 1)
