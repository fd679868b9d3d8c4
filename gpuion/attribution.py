"""What a model, or the medium itself, says about each sphere: gradients of ln D in the centres, and in the voxels.

Legend: B structures, N particles, V voxels along an edge. Lengths in voxels; gradients of ln D are per voxel.
"""

import torch
from torch import Tensor

from gpuion.baselines import Descriptive, Ridge
from gpuion.medium import TransportModel
from gpuion.models import Model
from gpuion.predictor import Predictor
from gpuion.smooth import smooth_diffusivity, smooth_medium
from gpuion.voxels import voxelize

_BARE = TransportModel(affinity=0.0, crowded_affinity=0.0)  # spheres and nothing around them


def exact_pull(
    centers: Tensor, *, box: float, diameter: float, model: TransportModel | None = None, core_width: float = 0.25,
    tolerance: float = 1e-4,
) -> Tensor:  # fmt: skip
    """Return ∂ ln D / ∂x_i of the homogenised smooth medium at one site a voxel, D the mean of the three axes.

    Parameters
    ----------
    centers : float [B, N, 3]
        Sphere centres, voxels.
    box, diameter : float
        Voxels.
    model : TransportModel, optional
    core_width, tolerance : float
        As for `smooth_medium` and `effective_diffusivity`.

    Returns
    -------
    float64 [B, N, 3]
        Per voxel.

    Raises
    ------
    ValueError
        For malformed centres or a box that is no whole number of voxels.
    """
    x = centers.detach().double().requires_grad_()
    D = smooth_diffusivity(x, box=box, diameter=diameter, model=model, core_width=core_width, tolerance=tolerance)
    return _slope(D.mean(1), x)


def pull(net: Model, centers: Tensor, *, box: float, diameter: float, core_width: float = 0.25) -> Tensor:
    """Return ∂ ln D* / ∂x_i of a model's D*.

    A model of images sees spheres whose edges fade over `core_width`, drawn with one voxel a unit of length: a binary
    image moves in jumps.

    Parameters
    ----------
    net : Model
        Of images, `graph` or `network`; the others read counts.
    centers : float [B, N, 3]
        Sphere centres, voxels.
    box, diameter, core_width : float
        Voxels.

    Returns
    -------
    float64 [B, N, 3]
        Per voxel.

    Raises
    ------
    ValueError
        For malformed centres, a cell that the model does not take, or a model of counts.
    """
    if isinstance(net, Descriptive | Ridge):
        raise ValueError(  # noqa: TRY004, of all models, not a type of the caller's
            f"{net.arguments['model']} has no gradient in the centres: pairs in bins and spheres in clusters are "
            "counted; take graph, network or a model of images"
        )
    x = centers.detach().double().requires_grad_()
    if isinstance(net, Predictor):
        D = net(*net.prepare(x, box, diameter))
        return _slope(D.mean(1) if net.per_axis else D, x)
    spheres = smooth_medium(x, box=box, diameter=diameter, model=_BARE, core_width=core_width)
    return _slope(net(1 - (-spheres.potential).exp()[:, None].to(net.output_shift.dtype)), x)


def saliency(net: Model, centers: Tensor, *, box: float, diameter: float, voxels: int) -> Tensor:
    """Return ∂ ln D* / ∂ image of a model of images at the binary image, float [B, V, V, V].

    Parameters
    ----------
    net : Surrogate
    centers : float [B, N, 3]
        Sphere centres, voxels.
    box, diameter : float
        Voxels.
    voxels : int
        V.

    Raises
    ------
    ValueError
        For malformed centres, or a model that reads centres.
    """
    if isinstance(net, Predictor):
        raise ValueError(f"{net.arguments['model']} reads sphere centres, not images: see `pull`")  # noqa: TRY004
    image = voxelize(centers, box=box, diameter=diameter, voxels=voxels).to(net.output_shift.dtype).requires_grad_()
    return _slope(net(image), image)[:, 0]


def agreement(true: Tensor, found: Tensor) -> Tensor:
    """Return how alike two gradients [B, N, 3] are, float64 [B, 3].

    The cosine of the angle between them as vectors of 3 N numbers; Pearson's R of their lengths over the spheres; and
    the ratio of their root mean squares.
    """
    a, b = true.double().flatten(1), found.double().flatten(1)
    lengths = torch.stack([true.double().norm(dim=2), found.double().norm(dim=2)])
    u, v = lengths - lengths.mean(2, keepdim=True)
    r = (u * v).sum(1) / (u.square().sum(1) * v.square().sum(1)).sqrt()
    return torch.stack([torch.cosine_similarity(a, b), r, b.norm(dim=1) / a.norm(dim=1)], 1)


def _slope(D: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of Σ ln D in x; structures do not see each other."""
    (found,) = torch.autograd.grad(D.log().sum(), x)
    return found
