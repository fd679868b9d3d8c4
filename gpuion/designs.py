"""Arrangements built by hand, to hold a search against: what an expert would propose as best and as worst conductor.

    python -m gpuion.designs data/study --out runs/search/designs

labels them with the exact solver and writes them as a data set. Ions pass from corona to corona where two of them
touch, so good ones are sheets and surfaces of spheres at one corona's distance, which conduct along two axes of three
wherever they lead; bad ones are one lump, or spheres that keep apart.

Legend: N spheres, M sites to choose from. Lengths in voxels.
"""

if __name__ == "__main__":  # before torch, which takes seconds to load: a stop meanwhile is one line, too
    from gpuion.errors import expect_stops

    expect_stops()

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpuion import files, work
from gpuion.config import Parser
from gpuion.dataset import Dataset, open_dataset, write_shard, write_summary
from gpuion.descriptors import nearest_distance
from gpuion.errors import run_script
from gpuion.relabel import Selection, relabel
from gpuion.survey import touching

CELLS = {
    "sc": ((0.0, 0.0, 0.0),),
    "bcc": ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5)),
    "fcc": ((0.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.5, 0.0, 0.5), (0.0, 0.5, 0.5)),
}
"""Sites of a cubic cell, in units of its edge; nearest neighbours are 1, √3/2 and 1/√2 of an edge apart."""

_NEAREST = {"sc": 1.0, "bcc": math.sqrt(3) / 2, "fcc": math.sqrt(0.5)}
DEEP = 1.0  # voxels by which coronas on a good way overlap: spheres 13 apart, where the study's chains conduct best
_SHIFT = 0.25  # voxels: sites of the lattice then lie on no plane of symmetry of a design


def crystal(kind: str, cells: int, box: float) -> Tensor:
    """Return the sites of `cells`³ cubic cells of a crystal that fill the box, float64 [M, 3].

    Raises
    ------
    ValueError
        For an unknown crystal, or no cell.
    """
    if kind not in CELLS or cells < 1:
        raise ValueError(f"crystal must be one of {', '.join(CELLS)} with 1 cell or more, got {kind!r} and {cells}")
    steps = torch.arange(cells, dtype=torch.float64)
    basis = torch.tensor(CELLS[kind], dtype=torch.float64)
    return ((torch.cartesian_prod(steps, steps, steps).view(-1, 1, 3) + basis) * (box / cells)).view(-1, 3)


def filling(kind: str, box: float, apart: float) -> Tensor:
    """Return the sites [M, 3] of the crystal that fills the box with nearest neighbours closest to `apart`."""
    return crystal(kind, max(1, round(_NEAREST[kind] * box / apart)), box)


def nearest_sites(sites: Tensor, distance: Tensor, n: int) -> Tensor:
    """Return the n sites [n, 3] of least distance [M] from some shape, of equal ones those that come first.

    Raises
    ------
    ValueError
        If there are fewer sites.
    """
    if len(sites) < n:
        raise ValueError(f"a design of {n} spheres needs as many sites, got {len(sites)}; take more cells")
    # Rounded: equal distances must not depend on the last bit.
    return sites[(distance * 1e6).round().argsort(stable=True)[:n]]


def shape(name: str, x: Tensor, box: float) -> Tensor:
    """Return how far points x [M, 3] are from a periodic shape, [M]: voxels, or what grows as they do.

    - plane-hkl: the plane through the origin with normal (h, k, l), wrapped around the box;
    - planes: the nearest of the three faces of the box;
    - rods: the nearest of three lines, one along each axis, that meet;
    - primitive, gyroid: the surfaces Σ cos = 0 and Σ sin cos = 0, near Schwarz's P and Schoen's gyroid;
    - ball: the middle of the box.

    Raises
    ------
    ValueError
        For an unknown shape.
    """
    wave, near = x * (2 * math.pi / box), x - box * (x / box).round()
    if name.startswith("plane-"):
        normal = x.new_tensor([float(digit) for digit in name[6:]])
        along = x @ normal
        return (along - box * (along / box).round()).abs() / normal.norm()
    if name == "planes":
        return near.abs().amin(-1)
    if name == "rods":
        return near.abs().sort(-1).values[:, :2].norm(dim=-1)
    if name == "primitive":
        return wave.cos().sum(-1).abs()
    if name == "gyroid":
        return (wave.sin() * wave.roll(-1, -1).cos()).sum(-1).abs()
    if name == "ball":
        return (x - box / 2).norm(dim=-1)
    raise ValueError(f"unknown shape {name!r}; see gpuion.designs.shape")


def sheet(n: int, box: float, normal: tuple[int, int, int]) -> Tensor:
    """Return n spheres as one lattice on a plane that wraps around the box, the most even of all there are, [n, 3].

    The plane's own periods span a parallelogram of area |normal| L². Each of its sublattices of index n is tried;
    the one whose three shortest distances are the most alike wins.

    Raises
    ------
    ValueError
        For a normal that is no shortest integer vector.
    """
    if math.gcd(*normal) != 1:
        raise ValueError(f"normal must be integers without a common divisor, got {normal}")
    periods = np.stack(_periods(normal))
    best, chosen = math.inf, periods * box
    for rows in (d for d in range(1, n + 1) if n % d == 0):
        for skew in range(rows):
            step = _reduced(*(np.linalg.inv([[rows, skew], [0, n // rows]]) @ periods))
            short = sorted(float(np.linalg.norm(v)) for v in (*step, step[0] - step[1]))
            if short[2] / short[0] < best:
                best, chosen = short[2] / short[0], step * box
    grid = np.array(list(itertools.product(range(n), repeat=2))) @ chosen
    wrapped = np.round(grid / box % 1, 9) % 1
    return torch.from_numpy(np.unique(wrapped, axis=0)[:n] * box)


def _reduced(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the two shortest vectors that span what a and b span, at an angle of 60° to 90° (Lagrange and Gauss)."""
    while True:
        a, b = sorted((a, b), key=np.linalg.norm)
        times = np.round(a @ b / (a @ a))
        if not times:
            return np.stack([a, b if a @ b >= 0 else -b])
        b = b - times * a


def _periods(normal: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return two short integer vectors that span all those across a normal."""
    reach = 1 + max(map(abs, normal))
    across = [np.array(v) for v in itertools.product(range(-reach, reach + 1), repeat=3) if any(v)]
    across = sorted((v for v in across if not v @ np.array(normal)), key=lambda v: (v @ v, v.tolist()))
    area = math.sqrt(sum(i * i for i in normal))
    for second in across[1:]:
        if abs(float(np.linalg.norm(np.cross(across[0], second))) - area) < 1e-9:
            return across[0], second
    raise AssertionError("a plane's integer vectors are spanned by two of them")


def strands(n: int, box: float, apart: float) -> Tensor:
    """Return straight rows of touching coronas along x, on a square grid; the last one is as long as n lets it, [n, 3].

    Of 91 spheres in 75 voxels, fifteen rows of six are whole, and one sphere is left over.
    """
    along = max(1, round(box / apart))
    across = math.ceil(math.sqrt(n / along))
    rows = torch.cartesian_prod(*[torch.arange(k, dtype=torch.float64) / k for k in (across, across, along)])
    return rows[:n].flip(-1) * box


def spread(n: int, box: float, apart: float, *, seed: int = 0, steps: int = 400, surface: str = "") -> Tensor:
    """Return n points that repel each other, in all of the box or near a surface of `shape`, float64 [n, 3].

    They go down Σ (apart / r)^p, p rising to 12, with a step that shrinks; on a surface they are drawn to it, too.
    """
    draw = torch.Generator().manual_seed(seed)
    x = (torch.rand(n, 3, generator=draw, dtype=torch.float64) * box).requires_grad_()
    own = torch.eye(n, dtype=torch.float64) * box**2
    descent = torch.optim.Adam([x], lr=1.0)
    for step in range(steps):
        done = step / steps
        descent.param_groups[0]["lr"] = 1.5 * (1 - done) + 0.01
        gap = x[:, None] - x
        square = (gap - box * (gap / box).round()).square().sum(-1) + own
        loss = (apart**2 / square).pow(1 + 5 * done).clamp(max=1e6).sum() / n
        if surface:
            height = shape(surface, x, box)
            (steep,) = torch.autograd.grad(height.sum(), x, create_graph=True)
            loss = loss + 2 * (1 + 5 * done) * (height / (steep.norm(dim=-1) + 0.02)).square().mean()
        descent.zero_grad()
        loss.backward()
        descent.step()
    return x.detach().remainder(box)


def catalogue(n: int, box: float, diameter: float, apart: float) -> dict[str, Callable[[], Tensor]]:
    """Return the designs by name (at most 16 letters): each makes float64 [n, 3], without overlaps if n and box suit.

    Balls and spheres far apart are meant as poor conductors, the others as good ones. Whole cells fill the box, as many
    as bring nearest neighbours closest to `apart`. With 13 voxels, 91 = 6³ − 5³ spheres fit three crossing planes of
    6 × 6 in a box of 75 exactly.
    """
    made: dict[str, Callable[[], Tensor]] = {}

    def cut(kind: str, form: str, turn: float = 0.0) -> Callable[[], Tensor]:
        sites = filling(kind, box, apart)
        cells = round((len(sites) / len(CELLS[kind])) ** (1 / 3))
        return lambda: nearest_sites(sites, shape(form, sites + turn * box / cells, box), n)

    def ball(kind: str, contact: float) -> Callable[[], Tensor]:
        edge = contact * diameter / _NEAREST[kind]
        cells = math.ceil(2 * (n / len(CELLS[kind])) ** (1 / 3)) + 1
        sites = crystal(kind, cells, cells * edge)
        lump = sites - sites.mean(0) + edge * 0.25
        return lambda: nearest_sites(lump, lump.norm(dim=-1), n) + box / 2

    for form in ("planes", "primitive", "gyroid", "rods", "plane-001", "plane-011", "plane-111", "plane-012"):
        short = form.replace("plane-", "slab").replace("primitive", "p")
        made |= {f"{kind}-{short}": cut(kind, form) for kind in CELLS}
    made["fcc-p-shifted"] = cut("fcc", "primitive", 0.25)
    for normal in ((0, 1, 1), (1, 1, 1), (0, 1, 2), (1, 1, 2), (1, 2, 2)):
        made["sheet" + "".join(map(str, normal))] = functools.partial(sheet, n, box, normal)
    made["strands"] = functools.partial(strands, n, box, apart)
    for surface in ("primitive", "gyroid"):
        made[f"even-{surface[:6]}"] = functools.partial(spread, n, box, apart, surface=surface)
    for contact in (1.001, 1.05, 1.1, 1.15, 1.2):
        made |= {f"ball-{kind}-{contact:.2f}": ball(kind, contact) for kind in CELLS}
    made["far-apart"] = functools.partial(spread, n, box, apart)
    return made


def build(n: int, box: float, diameter: float, apart: float) -> tuple[list[str], Tensor]:
    """Return names and centres float32 [B, n, 3] of the designs whose spheres do not overlap in this box."""
    names, found = [], []
    for name, make in catalogue(n, box, diameter, apart).items():
        centers = (make() + _SHIFT).remainder(box).float()[None]
        centers = torch.where(centers < box, centers, 0.0)
        if len(centers[0]) == n and float(nearest_distance(centers, box=box).min()) >= diameter:
            names.append(name)
            found.append(centers)
    return names, torch.cat(found) if found else torch.empty(0, n, 3)


def save(folder: Path, chosen: Selection, like: Dataset, tolerance: float, made: dict[str, Any]) -> Dataset:
    """Label structures with the exact solver and write them as a data set of one shard; one that is there is kept.

    The solver's tolerance is relative; the unit of D* is that of `like`. `made` says what made them.
    """
    path = folder / "shard-00000.h5"
    if path.exists() and (folder / "dataset.json").exists():
        return open_dataset(folder)
    found = relabel(chosen, torch.arange(len(chosen.centers)), path, lambda *_: None, like=like,
                    tolerance=tolerance, mark=files.fingerprint(made))  # fmt: skip
    write_shard(path, found, seed=0, config=made)
    write_summary(folder, found)
    work.drop(path)
    return found


def named(names: list[str], centers: Tensor) -> Selection:
    """Return structures that no surrogate has scored as a selection, each with its name as family."""
    n = len(names)
    return Selection(
        family=np.array(names), centers=centers, predicted=torch.full((n,), torch.nan, dtype=torch.float64),
        chain=torch.arange(n), cycle=torch.zeros(n, dtype=torch.int64),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Made:
    """What makes a set of designs what it is."""

    data: str
    tolerance: float


def main() -> None:
    """Read the command line, build, label, print."""
    parser = Parser(prog="python -m gpuion.designs", description=__doc__)
    paths, labels = parser.add_argument_group("files"), parser.add_argument_group("labels")
    paths.add_argument("data", type=Path, help="the data set whose box, spheres and medium the designs share")
    paths.add_argument("--out", type=Path, required=True, help="folder of the data set to write")
    labels.add_argument("--tolerance", type=float, default=1e-3, help="relative error of the exact labels")
    given = parser.parse_args()
    data = open_dataset(given.data)
    made = _Made(data=data.fingerprint, tolerance=given.tolerance)
    with files.claim_folder(given.out, "designs", made):
        names, centers = build(data.centers.shape[1], data.box, data.diameter, touching(data) - DEEP)
        found = save(given.out, named(names, centers), data, given.tolerance, files.identity(made))
    for i in found.d_star.argsort(descending=True).tolist():
        axes = ", ".join(f"{D:.4f}" for D in found.diffusivity[i].tolist())
        print(f"{found.family[i]:<16} D* {float(found.d_star[i]):.4f}   D along x, y, z: {axes}")


if __name__ == "__main__":
    run_script(main)
