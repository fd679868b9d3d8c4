"""What the convolutional networks of `gpuion.surrogate` are made of.

Legend: B structures, C channels, V voxels along an edge, G cells along an edge after pooling.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from gpuion.voxels import tile

_SHELL = (1, 6, 12, 8)  # places of a 3×3×3 kernel at squared distance 0 … 3: centre, faces, edges, corners
_ORBIT = [abs(i) + abs(j) + abs(k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)]


class FeatureNorm(nn.BatchNorm1d):
    """Batch normalisation of feature vectors [B, C] over the batches of all ranks, on any backend.

    Statistics are sums in float64 over the global batch, so training does not depend on the number of ranks.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return normalised features; in training by the batch's statistics, else by the running ones."""
        if not self.training:
            return super().forward(x)
        wide = x.double()
        count = _sum_over_ranks(wide.new_full((1,), len(wide)))
        mean = _sum_over_ranks(wide.sum(0)) / count
        variance = _sum_over_ranks((wide - mean).square().sum(0)) / count
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            self.running_mean.lerp_(mean.to(x.dtype), 0.1)
            self.running_var.lerp_((variance * count / (count - 1).clamp_min(1)).to(x.dtype), 0.1)
        normal = (wide - mean) / (variance + self.eps).sqrt()
        return normal.to(x.dtype) * self.weight + self.bias


class _Sum(torch.autograd.Function):
    """The sum over all ranks; each rank's result depends on every rank's input, so gradients are summed, too."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def _sum_over_ranks(x: Tensor) -> Tensor:
    """Return the sum of x over all ranks; its gradient is summed likewise."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        total: Tensor = _Sum.apply(x)
        return total
    return x


class TiedConv(nn.Module):
    """A periodic 3×3×3 convolution with one weight each for centre, faces, edges and corners."""

    orbit: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        # Each orbit carries a quarter of the variance that He initialisation gives the whole kernel.
        scale = (2 / (4 * inputs * torch.tensor(_SHELL))).sqrt()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 4) * scale)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("orbit", torch.tensor(_ORBIT), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolved x [B, C, G, G, G]."""
        kernel = self.weight[..., self.orbit].view(*self.weight.shape[:2], 3, 3, 3)
        return functional.conv3d(functional.pad(x, (1,) * 6, mode="circular"), kernel, self.bias)


class RadialSpectrum(nn.Module):
    """The logarithm of an image's power spectrum, averaged over shells of equal |k|.

    It tells pair distances to a voxel, which the pooled cells do not, and no symmetry of the cube, no shift and no
    repetition of the cell changes it. Shells lie 2π/50 apart in units of 1/voxel, up to 2π/2.5, whatever the cell.
    """

    SHELLS = 20
    _SPAN = 50.0  # voxels

    def __init__(self) -> None:
        super().__init__()
        self._weights: dict[tuple[int, torch.device, torch.dtype], tuple[int, Tensor]] = {}

    def forward(self, image: Tensor) -> Tensor:
        """Return [B, SHELLS] of images [B, 1, V, V, V]."""
        V = image.shape[-1]
        top, shells = self.shells(V, image)
        parts = image[:, 0].split(len(image) if image.is_cuda else 1)  # MKL's batches round otherwise than single ones
        waves = torch.cat([torch.fft.rfftn(part, dim=(-3, -2, -1))[..., : top + 1] for part in parts])
        low = torch.cat([waves[:, : top + 1], waves[:, V - top :]], 1)
        low = torch.cat([low[:, :, : top + 1], low[:, :, V - top :]], 2)
        power = (low.real.square() + low.imag.square()) / V**3
        return (power.flatten(1) @ shells + 1e-6).log()

    def shells(self, V: int, like: Tensor) -> tuple[int, Tensor]:
        """Return the highest wave number along an axis, and each kept wave's weight in each shell."""
        key = (V, like.device, like.dtype)
        if key not in self._weights:
            top = min((V - 1) // 2, math.ceil((self.SHELLS + 1) * V / self._SPAN))
            n = torch.cat([torch.arange(top + 1), torch.arange(-top, 0)]).double()
            size = (n[:, None, None] ** 2 + n[:, None] ** 2 + n[: top + 1] ** 2).sqrt() * (self._SPAN / V)
            shell = torch.arange(1, self.SHELLS + 1, dtype=torch.float64)
            # A wave between two shells counts in both.
            share = (1 - (size.flatten()[:, None] - shell).abs()).clamp_min(0)
            share *= (1 + (n[: top + 1] > 0).double()).repeat(len(n) ** 2)[:, None]  # for its conjugate, too
            waves = 4 * math.pi * (shell**2 + 1 / 6) * (V / self._SPAN) ** 3  # a shell's, were they a continuum
            self._weights[key] = top, (share / waves).to(like.device, like.dtype)
        return self._weights[key]


class CubeBody(nn.Module):
    """The radial spectrum; average pooling, tied periodic convolutions, and every channel's mean after each of them."""

    def __init__(self, widths: Sequence[int], pool: int) -> None:
        super().__init__()
        self.pool = pool
        channels = [1, *widths]
        self.convolutions = nn.ModuleList(TiedConv(a, b) for a, b in pairwise(channels))
        self.spectrum = RadialSpectrum()
        self.features = sum(widths) + RadialSpectrum.SHELLS
        self.norm = FeatureNorm(self.features)

    def forward(self, image: Tensor) -> Tensor:
        """Return features [B, C]."""
        V, k = image.shape[-1], self.pool
        self.check(V)
        # Sums from the outermost axis inwards run along memory: half the time of avg_pool3d.
        cells = image.reshape(-1, V // k, k, V, V).sum(2).view(-1, V // k, V // k, k, V).sum(3)
        share = cells.view(-1, 1, V // k, V // k, V // k, k).sum(-1) / k**3  # of each cell, inside a sphere
        x = (share - 0.1) / 0.2  # mean and deviation at a volume fraction of 0.1; the layers adapt to others
        with torch.autocast(image.device.type, enabled=False):
            means = [self.spectrum(image)]
        for convolution in self.convolutions:
            x = convolution(x).relu()
            means.append(x.mean((2, 3, 4), dtype=image.dtype))
        return self.norm(torch.cat(means, 1))

    def check(self, voxels: int) -> None:
        """Raise ValueError unless images of so many voxels can be pooled."""
        if voxels % self.pool or voxels // self.pool < 3:
            raise ValueError(f"{voxels} voxels are not three or more windows of {self.pool}; choose another pool or V")


class PaperBody(nn.Module):
    """The image repeated, then blocks of zero-padded 3×3×3 convolution, ReLU and average pooling by 2."""

    def __init__(self, widths: Sequence[int], voxels: int, repeats: int) -> None:
        super().__init__()
        self.voxels, self.repeats = voxels, repeats
        cells = voxels * repeats // 2 ** len(widths)
        if cells < 1:
            raise ValueError(f"{voxels * repeats} voxels cannot be halved {len(widths)} times; give fewer widths")
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([1, *widths]):
            convolution = nn.Conv3d(inputs, outputs, 3, padding=1)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            layers += [convolution, nn.ReLU(inplace=True), nn.AvgPool3d(2)]
        self.features = widths[-1] * cells**3
        # Thousands of positive features of one mean: a step of Adam moved all hidden units by twenty times what
        # structures differ by, and the ReLUs died. Normalised they learn; afterwards the next layer could absorb it.
        self.blocks = nn.Sequential(*layers, nn.Flatten(), FeatureNorm(self.features))

    def forward(self, image: Tensor) -> Tensor:
        """Return features [B, C]."""
        if image.shape[-1] != self.voxels:
            raise ValueError(f"this network takes images of {self.voxels} voxels, got {image.shape[-1]}")
        return self.blocks(tile(image, self.repeats))
