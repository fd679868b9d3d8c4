"""What varies together in many structures: principal components, and correlations with a property.

Legend: n structures, K columns, C components. Everything is computed in float64.
"""

import dataclasses

import torch
from torch import Tensor

from gpuion.checks import check_flag, check_tensor

_MOST = 1e300  # of numbers whose sum over rows is to be one, too


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrincipalComponents:
    """The directions in which rows of K columns vary most, largest first.

    Attributes
    ----------
    mean : float64 [K]
        Of the columns.
    components : float64 [C, K]
        Orthonormal rows: the weights of the columns. The entry of largest magnitude, the first of equals, is positive.
    share : float64 [C]
        Of the total variance, along each component; they sum up to 1.
    scores : float64 [n, C]
        The rows' coordinates along the components; their means are 0.
    """

    mean: Tensor
    components: Tensor
    share: Tensor
    scores: Tensor

    def project(self, x: Tensor) -> Tensor:
        """Return the coordinates of other rows [m, K] along these components, float64 [m, C]."""
        x = _columns(x, "x")
        if x.shape[1] != len(self.mean):
            raise ValueError(f"x must have the {len(self.mean)} columns of the components, got {list(x.shape)}")
        return (x - self.mean) @ self.components.T


def principal_components(x: Tensor) -> PrincipalComponents:
    """Return the principal components of rows x: with x − ⟨x⟩ = U S Vᵀ, components Vᵀ, scores U S, shares S² / Σ S².

    Columns keep their units; what does not vary, as g(r) below contact, has no weight. Directions without variance, in
    which S is rounding alone (at most max(n, K) 2⁻⁵² of the largest), are left out: C is the rank of x − ⟨x⟩, at most
    min(n − 1, K).

    Parameters
    ----------
    x : float [n, K]
        One row a structure, for instance `pair_distribution(…)`.

    Returns
    -------
    PrincipalComponents
        On the device of x.

    Raises
    ------
    ValueError
        For another shape, fewer than two rows, numbers that are not finite, or rows that are all the same.

    References
    ----------
    Kadulkar, Howard, Truskett and Ganesan, J. Phys. Chem. B 2021: of g(r) over all structures.
    """
    x = _columns(x, "x")
    if len(x) < 2:
        raise ValueError(f"principal components need at least two rows, got x of shape {list(x.shape)}")
    mean = x.mean(0)
    # The mean of equal numbers may be off by rounding: such a column is made exactly 0.
    centred = torch.where(_constant(x), 0.0, x - mean)
    _, S, V = torch.linalg.svd(centred, full_matrices=False)
    if not float(S[0]) > 0:
        raise ValueError(f"all {len(x)} rows are the same: there is no variance to take apart")
    rounding = max(x.shape) * torch.finfo(S.dtype).eps
    rank = int((S / S[0] > rounding).sum())
    S, V = S[:rank], V[:rank]
    top = V.abs().argmax(1, keepdim=True)
    V = V * V.gather(1, top).sign()
    variance = (S / S[0]).square()
    return PrincipalComponents(mean=mean, components=V, share=variance / variance.sum(), scores=centred @ V.T)


def correlation(a: Tensor, b: Tensor, *, ranks: bool = False) -> Tensor:
    """Return Pearson's correlation of each column of a with b, or with `ranks` Spearman's.

        R = Σ (a − ⟨a⟩)(b − ⟨b⟩) / √(Σ (a − ⟨a⟩)² Σ (b − ⟨b⟩)²),

    for Spearman of the ranks of a and b, where equal values share the mean of their ranks.

    Parameters
    ----------
    a : float [n, K] or [n]
        One row a structure.
    b : float [n]
        The property, for instance `Dataset.mean_diffusivity`; not constant.
    ranks : bool
        Whether to compare ranks (Spearman) rather than values (Pearson).

    Returns
    -------
    float64 [K], or [] for a of shape [n]
        In [−1, 1]; NaN for a constant column, which has no correlation.

    Raises
    ------
    ValueError
        For other shapes, fewer than two rows, numbers that are not finite, or a constant b.
    """
    a, b, ranks = check_tensor("a", a), check_tensor("b", b), check_flag("ranks", ranks)
    if 0 in (a.ndim, b.ndim):
        raise ValueError(f"a must be [n, K] or [n] and b [n] with n ≥ 2, got {list(a.shape)} and {list(b.shape)}")
    x, y = _columns(a[:, None] if a.ndim == 1 else a, "a"), _columns(b[:, None] if b.ndim == 1 else b, "b")
    if b.ndim != 1 or len(x) != len(y) or len(x) < 2:
        raise ValueError(f"a must be [n, K] or [n] and b [n] with n ≥ 2, got {list(a.shape)} and {list(b.shape)}")
    if bool(_constant(y)):
        raise ValueError(f"b is {float(y[0])} in all {len(y)} rows: nothing can be correlated with it")
    if ranks:
        x, y = _ranks(x), _ranks(y)
    found = (_directions(x) * _directions(y)).sum(0).clamp(-1, 1)
    found = torch.where(_constant(x), torch.nan, found)
    return found[0] if a.ndim == 1 else found


def _columns(x: Tensor, name: str) -> Tensor:
    x = check_tensor(name, x).detach()
    if x.ndim != 2 or 0 in x.shape or x.is_complex():
        raise ValueError(f"{name} must be a table [n, K] of real numbers, got {x.dtype} {list(x.shape)}")
    x = x.double()
    bad = ~(x.abs() <= _MOST)
    if bool(bad.any()):
        where = bad.nonzero()[0].tolist()
        given = float(x[tuple(where)])
        raise ValueError(f"{name} must be numbers within ±{_MOST:g}, got {given} at {where}; leave such rows out")
    return x


def _constant(x: Tensor) -> Tensor:
    return (x == x[0]).all(0)


def _directions(x: Tensor) -> Tensor:
    """Return the columns less their means, at length 1; scaled first, so that no square over- or underflows."""
    x = x - x.mean(0)
    x = x / x.abs().amax(0).clamp_min(torch.finfo(x.dtype).tiny)
    return x / x.square().sum(0).sqrt().clamp_min(torch.finfo(x.dtype).tiny)


def _ranks(x: Tensor) -> Tensor:
    """Return the rank of each number in its column, float64 [n, K]; equal ones share the mean of theirs."""
    rows = x.T.contiguous()
    ordered = rows.sort(1).values
    below = torch.searchsorted(ordered, rows)
    upto = torch.searchsorted(ordered, rows, right=True)
    return (below + upto + 1).T.double() / 2
