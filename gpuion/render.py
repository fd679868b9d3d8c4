"""Pictures of arrangements: shaded spheres, their coronas, and sticks where two coronas touch.

Legend: N spheres, S sticks, P pixels along the edge of the buffer, twice that of the picture.

Each body is cast on the pixels it may cover, by closed formulas for rays parallel to the view, into a depth
buffer. Coronas are then laid over what stands: the longer a ray's way through them, the denser their colour.
"""

import dataclasses
import itertools
import math
import struct
import zlib

import numpy as np
import torch

from gpuion.descriptors import clusters, neighbors
from gpuion.medium import check_centers

# Okabe and Ito's colours, told apart by all common kinds of colour vision; grey for a sphere without neighbours.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
LONE = "#B4B8BD"
_EDGE = "#6B7280"
_STICK = 0.24  # of a sphere's radius
_LIGHT = np.array([-0.45, 0.62, 0.64]) / np.linalg.norm([-0.45, 0.62, 0.64])
_CORONA = 0.030  # opacity per voxel of corona


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Canvas:
    """Depth towards the viewer, normal and colour of what each pixel sees, float32 [P, P(, 3)]."""

    x: np.ndarray
    depth: np.ndarray
    normal: np.ndarray
    color: np.ndarray
    flat: np.ndarray

    def patch(self, low: np.ndarray, high: np.ndarray) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
        """Return the pixels that a body between two points of the screen may cover, and their x and y."""
        (i, k), (j, m) = (np.searchsorted(self.x, (low[axis], high[axis])) for axis in (1, 0))
        return (slice(i, k), slice(j, m)), self.x[None, j:m], self.x[i:k, None]

    def put(self, where: tuple[slice, slice], z: np.ndarray, normal: list[np.ndarray], color: np.ndarray) -> None:
        """Let a surface show where it is nearer than what is there; z is NaN or -inf where it is not."""
        seen = z > self.depth[where]
        self.depth[where][seen] = z[seen]
        self.color[where][seen] = color
        for axis in range(3):
            self.normal[where][..., axis][seen] = normal[axis][seen]


def render(
    centers: torch.Tensor | np.ndarray, *, box: float, diameter: float, reach: float = 2.2, size: int = 720,
    azimuth: float = 28.0, elevation: float = 20.0,
) -> np.ndarray:  # fmt: skip
    """Return a picture of one arrangement; spheres whose coronas are joined share a colour.

    Two spheres closer than diameter + 2 reach, where their coronas touch, are joined by a stick, which is cut at
    the box where it goes on to another image. The larger clusters choose their colours first, which repeat after
    seven; spheres without neighbours are grey.

    Parameters
    ----------
    centers : float [N, 3]
        Sphere centres, voxels, any image.
    box, diameter : float
        Edge of the periodic cube and sphere diameter, voxels.
    reach : float
        Thickness of a corona, voxels.
    size : int
        Edge of the picture, pixels.
    azimuth, elevation : float
        Where the viewer stands, degrees; z is up.

    Returns
    -------
    uint8 [size, size, 3]
        RGB on white.

    Raises
    ------
    ValueError
        For malformed centres, lengths or size.
    """
    if size < 8 or not reach >= 0:
        raise ValueError(f"size must be at least 8 pixels and reach not negative, got {size} and {reach}")
    spheres = check_centers(torch.as_tensor(centers)[None], box, diameter).cpu()
    x, radius, touch = spheres[0].numpy(), diameter / 2, diameter + 2 * reach
    color = cluster_colors(clusters(spheres, box=box, cutoff=touch)[0].numpy())
    view = _view(azimuth, elevation)
    corners = (np.array(list(itertools.product((0, 1), repeat=3))) - 0.5) * box @ view.T
    canvas = _canvas(2 * size, 1.02 * (np.abs(corners[:, :2]).max() + 0.8 * radius))
    _draw_box(canvas, corners, 0.0035 * box)
    for a, b, i in _sticks(spheres, box, touch):
        _draw_stick(canvas, (a - box / 2) @ view.T, (b - box / 2) @ view.T, _STICK * radius, color[i])
    placed = (x - box / 2) @ view.T
    for center, rgb in zip(placed, color, strict=True):
        _draw_sphere(canvas, center, radius, rgb)
    image = _shade(canvas, box)
    _add_coronas(image, canvas, placed, radius + reach, color)
    image *= 1 - 0.5 * _contour(canvas.depth, 0.1 * radius, box)[..., None]
    image = image.reshape(size, 2, size, 2, 3).mean((1, 3))[::-1]
    return (255 * image.clip(0, 1) + 0.5).astype(np.uint8)


def recenter(centers: torch.Tensor, box: float) -> torch.Tensor:
    """Return centres [N, 3] shifted around the periodic box so that, per axis, their widest gap lies at its faces.

    That cuts as few clusters as possible; nothing physical changes.
    """
    x = torch.remainder(centers.double(), box)
    low = x.sort(0).values
    gap = torch.cat([low[1:], low[:1] + box]) - low
    k = gap.argmax(0, keepdim=True)
    middle = low.gather(0, k) + gap.gather(0, k) / 2
    return torch.remainder(x - middle, box)


def cluster_colors(label: np.ndarray) -> np.ndarray:
    """Return the RGB in [0, 1] of each sphere, [N, 3], from its cluster's label [N]; larger clusters choose first."""
    names, inverse, count = np.unique(label, return_inverse=True, return_counts=True)
    rank = np.empty(len(names), dtype=int)
    rank[np.argsort(-count, kind="stable")] = np.arange(len(names))
    table = np.array([_rgb(name) for name in PALETTE])
    colors = table[rank % len(table)]
    colors[count == 1] = _rgb(LONE)
    return colors[inverse]


def png(image: np.ndarray) -> bytes:
    """Return a uint8 RGB image [height, width, 3] as the bytes of a PNG file."""
    height, width, _ = image.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, -1)], 1)  # filter 0 heads each row
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0),
        b"IDAT": zlib.compress(rows.tobytes(), 9),
        b"IEND": b"",
    }
    body = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def _rgb(name: str) -> tuple[float, ...]:
    return tuple(int(name[k : k + 2], 16) / 255 for k in (1, 3, 5))


def _view(azimuth: float, elevation: float) -> np.ndarray:
    """Return the rows right, up and towards the viewer."""
    a, e = math.radians(azimuth), math.radians(elevation)
    right = [-math.sin(a), math.cos(a), 0.0]
    near = [math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)]
    return np.array([right, np.cross(near, right), near])


def _canvas(pixels: int, half: float) -> _Canvas:
    x = ((np.arange(pixels) + 0.5) / pixels * 2 - 1) * half
    return _Canvas(
        x=x.astype(np.float32),
        depth=np.full((pixels, pixels), -np.inf, np.float32),
        normal=np.zeros((pixels, pixels, 3), np.float32),
        color=np.ones((pixels, pixels, 3), np.float32),
        flat=np.zeros((pixels, pixels), bool),
    )


def _draw_box(canvas: _Canvas, corners: np.ndarray, radius: float) -> None:
    """Draw the twelve edges: pairs of corners that differ in one of three bits."""
    for i, bit in itertools.product(range(8), (1, 2, 4)):
        if not i & bit:
            _draw_stick(canvas, corners[i], corners[i | bit], radius, np.array(_rgb(_EDGE)))
    canvas.flat[...] = np.isfinite(canvas.depth)


def _draw_sphere(canvas: _Canvas, center: np.ndarray, radius: float, color: np.ndarray) -> None:
    where, x, y = canvas.patch(center - radius, center + radius)
    x, y = (x - center[0]).astype(np.float32), (y - center[1]).astype(np.float32)
    square = np.float32(radius**2) - x**2 - y**2
    z = np.sqrt(np.maximum(square, 0))
    nearest = np.where(square > 0, z + np.float32(center[2]), -np.inf)
    shape = z.shape
    normal = [np.broadcast_to(x / radius, shape), np.broadcast_to(y / radius, shape), z / np.float32(radius)]
    canvas.put(where, nearest, normal, color)


def _draw_stick(canvas: _Canvas, a: np.ndarray, b: np.ndarray, radius: float, color: np.ndarray) -> None:
    """Draw a cylinder with round ends. With q = (x, y, t) from a, u along the axis: |q|² − (q·u)² = r² gives t."""
    length = float(np.linalg.norm(b - a))
    if length > 1e-9:
        u = ((b - a) / length).astype(np.float32)
        where, x, y = canvas.patch(np.minimum(a, b) - radius, np.maximum(a, b) + radius)
        x, y = (x - a[0]).astype(np.float32), (y - a[1]).astype(np.float32)
        along, steep = x * u[0] + y * u[1], max(1 - float(u[2]) ** 2, 1e-9)
        root = (along * u[2]) ** 2 - steep * (x**2 + y**2 - along**2 - radius**2)
        t = (along * u[2] + np.sqrt(np.maximum(root, 0))) / steep
        s = along + t * u[2]
        inside = (root > 0) & (s >= 0) & (s <= length)
        normal = [(x - s * u[0]) / radius, (y - s * u[1]) / radius, (t - s * u[2]) / radius]
        canvas.put(where, np.where(inside, t + np.float32(a[2]), -np.inf), normal, color)
    for end in (a, b):
        _draw_sphere(canvas, end, radius, color)


def _sticks(spheres: torch.Tensor, box: float, touch: float) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Return start, end and sphere of each stick, cut at the box; one that crosses it comes as two."""
    adjacent, vector = neighbors(spheres, box=box, cutoff=touch)
    i, j = (index.numpy() for index in adjacent[0].nonzero(as_tuple=True))
    a, v = spheres[0].numpy()[i], vector[0].numpy()[i, j]
    with np.errstate(divide="ignore", invalid="ignore"):
        wall = np.where(v > 0, (box - a) / v, np.where(v < 0, -a / v, np.inf)).min(-1)
    crossing = wall < 1  # its other half starts at j, as the pair (j, i)
    chosen = crossing | (i < j)
    ends = a + v * np.minimum(wall, 1)[:, None]
    return list(zip(a[chosen], ends[chosen], i[chosen], strict=True))


def _shade(canvas: _Canvas, box: float) -> np.ndarray:
    """Return the lit picture [P, P, 3]: diffuse and specular light, crevices, and haze with distance."""
    hit = np.isfinite(canvas.depth)
    depth = np.where(hit, canvas.depth, -0.9 * box).astype(np.float32)
    lit = canvas.normal @ _LIGHT.astype(np.float32)
    half = _LIGHT + np.array([0, 0, 1])
    shine = np.maximum(canvas.normal @ (half / np.linalg.norm(half)).astype(np.float32), 0) ** 48
    light = 0.50 + 0.34 * lit + 0.26 * np.maximum(lit, 0) + 0.10 * canvas.normal[..., 2]
    # A pixel that lies behind what surrounds it is in a crevice or behind a nearer body: less light comes there.
    around = _blur(np.where(hit, depth, -0.45 * box).astype(np.float32), len(depth) // 40)
    light *= 1 - np.clip((around - depth) / (0.28 * box), 0, 0.45)
    light[canvas.flat] = 1.0
    image = canvas.color * light[..., None] + 0.30 * np.where(canvas.flat, 0, shine)[..., None]
    haze = np.clip(0.30 - 0.42 * depth / box, 0.0, 0.62)[..., None]
    return np.where(hit[..., None], image * (1 - haze) + haze, 1.0).astype(np.float32)


def _add_coronas(image: np.ndarray, canvas: _Canvas, centers: np.ndarray, radius: float, color: np.ndarray) -> None:
    """Lay over the picture what lies in front of it: opacity 1 − exp(−k · way through coronas)."""
    way = np.zeros(image.shape[:2], np.float32)
    tint = np.zeros_like(image)
    for center, rgb in zip(centers, color, strict=True):
        where, x, y = canvas.patch(center - radius, center + radius)
        half = np.sqrt(np.maximum(radius**2 - (x - center[0]) ** 2 - (y - center[1]) ** 2, 0))
        part = np.maximum(center[2] + half - np.maximum(center[2] - half, canvas.depth[where]), 0)
        way[where] += part
        tint[where] += part[..., None] * rgb.astype(np.float32)
    opacity = (1 - np.exp(-_CORONA * way))[..., None]
    image += opacity * (tint / np.maximum(way, 1e-9)[..., None] - image)


def _contour(depth: np.ndarray, jump: float, box: float) -> np.ndarray:
    """Return 1 for pixels behind a nearer neighbour by more than a jump, less for distant ones, 0 elsewhere."""
    front = depth.copy()
    for axis in (0, 1):
        for shift in (-1, 1):
            np.maximum(front, np.roll(depth, shift, axis), out=front)
    near = np.clip(0.75 + front / box, 0.15, 1)
    return np.where(front - np.maximum(depth, -2 * box) > jump, near, 0)


def _blur(image: np.ndarray, radius: int) -> np.ndarray:
    """Return the mean over a square of 2 radius + 1 pixels around each, the edge's value beyond the edge."""
    for _ in range(2):  # along the columns, then along the rows
        total = np.pad(image, ((radius + 1, radius), (0, 0)), mode="edge").cumsum(0, dtype=np.float64)
        image = ((total[2 * radius + 1 :] - total[: -2 * radius - 1]) / (2 * radius + 1)).astype(np.float32).T
    return image
