"""Convolutional networks that predict D* from a binary image of the spheres.

Legend: B structures, C channels, V voxels along an edge, G cells along an edge after pooling.
"""

import reprlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gpuion.checks import check_room, is_whole
from gpuion.layers import CubeBody, PaperBody
from gpuion.medium import whole
from gpuion.prediction import Predicting
from gpuion.voxels import voxelize

BOUNDARIES = ("periodic", "tiled", "zero")

_TILES = 3
_LARGEST, _DEEPEST = 2**14, 64  # channels of a layer, voxels of an edge; convolutions


class Surrogate(Predicting):
    """A network from the image of a structure to its D*.

    `periodic` has kernels tied by the cube's 48 symmetries, circular padding and global average pooling, and beside
    them the image's radial power spectrum: its answer does not change when the cell is turned or mirrored, and it
    takes any cell that its window divides.
    It predicts log D*, so that its D* is positive.
    `tiled` is the network of Kadulkar, Howard, Truskett and Ganesan (J. Phys. Chem. B 2021): the image
    repeated 3×3×3, four blocks of 3×3×3 convolution, ReLU and average pooling, two fully connected layers; what
    enters these is normalised over the batch while it learns, else by constants that they could absorb.
    `zero` is the same network on the image itself, padded with zeros.

    Parameters
    ----------
    boundary : {"periodic", "tiled", "zero"}
    voxels : int, optional
        V; needed by `tiled` and `zero`, ignored by `periodic`.
    widths : sequence of int, optional
        Channels of the convolutions: (8, 16, 16, 16) for `periodic`, (16, 32, 64, 64) otherwise.
    hidden : int
        Width of the first fully connected layer.
    pool : int
        Edge of the first pooling window of `periodic`, voxels; 5 divides the cells of 50 and of 75 voxels.

    Raises
    ------
    ValueError
        For an unknown boundary, a missing V, widths that do not fit, or (in `forward`) a wrong image.
    """

    output_shift: Tensor
    output_scale: Tensor
    target_scale: Tensor

    def __init__(
        self,
        boundary: str = "periodic",
        *,
        voxels: int | None = None,
        widths: Sequence[int] | None = None,
        hidden: int = 32,
        pool: int = 5,
    ) -> None:
        super().__init__()
        if not isinstance(boundary, str) or boundary not in BOUNDARIES:
            raise ValueError(f"boundary must be one of {', '.join(BOUNDARIES)}, got {reprlib.repr(boundary)}")
        widths, hidden, pool = _sizes(widths, hidden, pool, voxels)
        widths = widths or ((8, 16, 16, 16) if boundary == "periodic" else (16, 32, 64, 64))
        if boundary != "periodic" and voxels is None:
            raise ValueError(f"boundary {boundary!r} needs the number of voxels along an edge, voxels = V")
        self.arguments: dict[str, Any] = {
            "boundary": boundary, "voxels": voxels, "widths": list(widths), "hidden": hidden, "pool": pool,
        }  # fmt: skip
        self.meta: dict[str, Any] = {}
        self.body: CubeBody | PaperBody
        if boundary == "periodic":
            self.body = CubeBody(widths, pool)
        else:
            assert voxels is not None
            self.body = PaperBody(widths, voxels, _TILES if boundary == "tiled" else 1)
        self.hidden = nn.Linear(self.body.features, hidden)
        self.output = nn.Linear(hidden, 1)
        for name, value in (("output_shift", 0.0), ("output_scale", 1.0), ("target_scale", 1.0)):
            self.register_buffer(name, torch.tensor(value))

    def forward(self, image: Tensor) -> Tensor:
        """Return D* [B] of images [B, 1, V, V, V]."""
        kind = self.target_scale.dtype
        if not isinstance(image, Tensor) or image.layout is not torch.strided or image.is_meta or image.dtype != kind:
            given = image.dtype if isinstance(image, Tensor) else type(image).__name__
            raise ValueError(f"image must be a dense tensor of {kind}, as the weights, got {given}")
        if (
            image.ndim != 5
            or not len(image)
            or image.shape[1] != 1
            or not image.shape[2] == image.shape[3] == image.shape[4]
        ):
            raise ValueError(f"image must have shape [B, 1, V, V, V], got {list(image.shape)}")
        features = self.body(image)
        with torch.autocast(image.device.type, enabled=False):  # eight bits of log D* would be too few
            features = features.to(self.target_scale.dtype)
            value = self.output(self.hidden(features).relu())[:, 0] * self.output_scale + self.output_shift
            return value.exp() if self.is_logarithmic else value

    def inputs(self, centers: Tensor, box: float, diameter: float, batch: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield images of whole batches, the last one filled up: a convolution's sums depend on the batch's size.

        They have as many voxels a unit of length as those it was trained on, one if it was not.
        """
        known = "box" in self.meta and "voxels" in self.meta
        voxels = whole(box * self.meta["voxels"] / self.meta["box"] if known else box, 1, "voxels")
        check_room(4.0 * batch * voxels**3, f"{batch} images of {voxels}³ voxels")
        filled = torch.cat([centers, centers[:1].expand(-len(centers) % batch, -1, -1)])
        for some in filled.split(batch):
            yield (voxelize(some, box=box, diameter=diameter, voxels=voxels).to(self.target_scale.dtype),)

    @property
    def is_logarithmic(self) -> bool:
        """Whether the layers predict log D*, and training counts its error too."""
        return self.arguments["boundary"] == "periodic"

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return what training minimises, [B]: squared error over variance, of D* and, if predicted, of log D*.

        The paper's networks minimise the squared error alone. With the logarithm the low conductors count, too: MAPE
        fell from 28 to 24% on 76 test structures of 27 spheres, at equal R.
        """
        loss = ((prediction - target) / self.target_scale).square()
        if self.is_logarithmic:
            loss = loss + ((prediction.log() - _log(target)) / self.output_scale).square()
        return loss

    @torch.no_grad()
    def calibrate(self, targets: Tensor) -> None:
        """Fix mean and deviation of the output, and the scale of the loss, from the training set's targets [n]."""
        outputs = _log(targets) if self.is_logarithmic else targets
        self.output_shift.copy_(outputs.double().mean())
        if len(targets) > 1:
            self.output_scale.copy_(outputs.double().std().clamp_min(1e-6))
            self.target_scale.copy_(targets.double().std().clamp_min(1e-6))


def _sizes(widths: Any, hidden: Any, pool: Any, voxels: Any) -> tuple[tuple[int, ...], int, int]:
    """Return widths, hidden and pool as ints, if they and voxels are sizes that layers can have."""
    try:
        given = tuple(widths) if widths is not None else ()
    except (TypeError, RuntimeError):
        given = (None,)
    sizes = [*given, hidden, pool, 1 if voxels is None else voxels]
    if not all(is_whole(n, 1) and n <= _LARGEST for n in sizes) or len(given) > _DEEPEST:
        raise ValueError(
            f"widths, hidden and pool must be ≥ 1 and, as voxels, whole numbers of at most {_LARGEST}, got "
            f"{reprlib.repr(widths)}, {reprlib.repr(hidden)}, {reprlib.repr(pool)} and {reprlib.repr(voxels)}"
        )
    return tuple(map(int, given)), int(hidden), int(pool)


def _log(target: Tensor) -> Tensor:
    """Return log D*; a D* of nothing at all counts as one millionth."""
    return target.clamp_min(1e-6).log()
