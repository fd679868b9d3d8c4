"""What several searches for the best and the worst conductor found, beside the data that they began with.

    python -m gpuion.compare data/study --runs runs/search/paper runs/search/designs --finer 2 3 --out docs/annealing

takes any folders of labelled structures: of anneal.py, gpuion.climb, gpuion.designs. It writes pictures and
compare.md, with D by the exact solver only; what a surrogate predicted counts nowhere but among its own errors. With
--finer the data's extremes and the searches' are solved on finer lattices, too.

Legend: n structures, C chains, K bins of r. D* is in units of the data's best D.
"""

if __name__ == "__main__":  # before torch, which takes seconds to load: a stop meanwhile is one line, too
    from gpuion.errors import expect_stops

    expect_stops()

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpuion import designs, files, panels, plots, search_panels
from gpuion.config import Parser
from gpuion.dataset import Dataset, open_dataset
from gpuion.descriptors import describe, nearest_distance, neighbors
from gpuion.errors import run_script
from gpuion.gallery import drawn
from gpuion.labeling import label
from gpuion.medium import Medium, electrolyte
from gpuion.radial import pair_distribution
from gpuion.relabel import with_prediction
from gpuion.survey import Row, table, touching
from gpuion.training import metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class Searched:
    """Structures of one folder, its traces by direction if it is of anneal.py, and its name."""

    name: str
    data: Dataset
    traces: dict[str, Any]


def main() -> None:
    """Read the command line, compare, write."""
    parser = Parser(prog="python -m gpuion.compare", description=__doc__)
    paths, labels = parser.add_argument_group("files"), parser.add_argument_group("labels")
    paths.add_argument("data", type=Path, help="the data set that the searches began with")
    paths.add_argument("--runs", type=Path, nargs="+", required=True, help="folders of labelled structures")
    paths.add_argument("--out", type=Path, required=True, help="folder for pictures and compare.md")
    labels.add_argument(
        "--finer", type=int, nargs="*", default=[],
        help="lattice sites along a voxel's edge to solve the extremes at, too; none if not given",
    )  # fmt: skip
    given = parser.parse_args()
    plots.require()
    data = open_dataset(given.data)
    runs = [load(path, data) for path in given.runs]
    given.out.mkdir(parents=True, exist_ok=True)
    text, figures = write(data, runs, given.finer)
    for name, figure in figures.items():
        with files.atomic(given.out / f"{name}.png") as partial:
            partial.write_bytes(panels.png(figure))
    with files.atomic(given.out / "compare.md") as partial:
        partial.write_text(text)
    print(text)


def load(path: Path, data: Dataset) -> Searched:
    """Read a folder of labelled structures in the data's unit of D*."""
    found = dataclasses.replace(open_dataset(path), d_reference=data.d_reference)
    traces = path / "traces.json"
    held = files.read_json(traces) if traces.exists() else {}
    return Searched(name=path.name, data=found, traces={d: t for d, t in held.items() if d in {"max", "min"}})


def write(data: Dataset, runs: Sequence[Searched], finer: Sequence[int]) -> tuple[str, dict[str, Any]]:
    """Return the tables in Markdown and the figures by name."""
    all_found = [Searched(name="data", data=data, traces={}), *runs]
    ends = extremes(all_found)
    families = dict.fromkeys(data.family.tolist())
    parted = [Searched(name=f"data, {name}", data=_of_family(data, name), traces={}) for name in families]
    parts = [table(REACHED, [reached(found) for found in [all_found[0], *parted, *runs]])]
    errors = [row for found in runs for row in missed(found)]
    if errors:
        parts.append(table(ERRORS, errors))
    shown = {**ends, **_best_of_runs(runs)}
    parts.append(table(SHAPE, [described(name, *end) for name, end in shown.items()]))
    parts.append(table(BOUNDS, [bounded(name, *end) for name, end in ends.items() if "lowest" not in name]))
    parts.append(table(CRYSTALS, filled(data)))
    if finer:
        parts.append(table(["structure", *(f"D at {k} (D over the data's best there)" for k in (1, *finer))],
                           on_lattices(ends, finer)))  # fmt: skip
    figures = {
        "searches": search_panels.searches({found.name: found.data.d_star.numpy() for found in all_found}),
        "winners": search_panels.pictures({name: drawn(*end) for name, end in ends.items()}),
        "pairs": search_panels.pairs(
            {name: pair_distribution(at(*end).centers, box=data.box)[0].numpy() for name, end in ends.items()},
            touch=touching(data),
        ),
    }
    traced = {found.name: found.traces for found in runs if found.traces}
    if traced:
        figures["chains"] = search_panels.chains(traced)
    known = {found.name: with_prediction(found.data) for found in runs}
    points = {
        name: (x.d_star.numpy(), x.predicted.numpy())
        for name, x in known.items()
        if x is not None and x.predicted is not None
    }
    if points:
        figures["predicted"] = search_panels.predicted(points)
    return "\n\n".join(parts) + "\n", figures


def _of_family(data: Dataset, name: str) -> Dataset:
    return data.subset(torch.from_numpy(data.family == name))


def at(data: Dataset, i: int) -> Dataset:
    """Return structure i as a set of one."""
    return data.subset(slice(i, i + 1))


def extremes(runs: Sequence[Searched]) -> dict[str, tuple[Dataset, int]]:
    """Return the highest and the lowest D of the first set and of all others, each as a set and a position in it."""
    first, others = runs[0], runs[1:]
    chosen = {"data, highest": _end([first], up=True), "found, highest": _end(others, up=True)}
    return chosen | {"data, lowest": _end([first], up=False), "found, lowest": _end(others, up=False)}


def _end(runs: Sequence[Searched], *, up: bool) -> tuple[Dataset, int]:
    """Return the set and the position of the most extreme D that settled."""
    ends = []
    for found in runs:
        D = torch.where(found.data.settled, found.data.d_star, torch.nan)
        i = int(torch.nan_to_num(D, nan=-torch.inf).argmax() if up else torch.nan_to_num(D, nan=torch.inf).argmin())
        ends.append((float(D[i]), found.data, i))
    _, data, i = (max if up else min)(ends, key=lambda end: end[0])
    return data, i


def _best_of_runs(runs: Sequence[Searched]) -> dict[str, tuple[Dataset, int]]:
    """Return the structure of each run that is furthest out the way it went: its highest, or its lowest D."""
    return {
        f"{found.name}, {'highest' if up else 'lowest'}": _end([found], up=up)
        for found in runs
        for up in (True, False)
        if bool((found.data.d_star > 1).any() if up else (found.data.d_star < 0.5).any())
    }


REACHED = ("search", "structures", "highest D*", "of each chain", "lowest D*", "of each chain")


def reached(found: Searched) -> Row:
    """Return the highest and the lowest exact D* of a search, and those of each of its chains."""
    cells = []
    for way, most in (("max", torch.max), ("min", torch.min)):
        held = torch.from_numpy(np.char.endswith(found.data.family.astype(str), way)) & found.data.settled
        some = found.data.subset(held)
        if some.chain is None or not len(some):
            some, chains = found.data.subset(found.data.settled), list[float]()
        else:
            chains = sorted(float(most(some.d_star[some.chain == c])) for c in some.chain.unique())
        other = not chains and bool(np.char.find(found.data.family.astype(str), "-m").max() >= 0)
        cells += ["–" if other else f"{float(most(some.d_star)):.4f}", ", ".join(f"{D:.4f}" for D in chains) or "–"]
    return [found.name, str(len(found.data)), *cells]


ERRORS = ("search", "way", "structures", "MAPE, %", "R", "highest or lowest predicted", "its exact D*")


def missed(found: Searched) -> list[Row]:
    """Return the errors of what a surrogate predicted, both ways together and each way."""
    known = with_prediction(found.data)
    if known is None or known.predicted is None:
        return []
    rows: list[Row] = []
    for way in ("", "max", "min"):
        some = known.subset(torch.from_numpy(np.char.endswith(known.family.astype(str), way)))
        if len(some) < 2 or some.predicted is None:
            continue
        error = metrics(some.predicted, some.d_star)
        top = int(some.predicted.argmin() if way == "min" else some.predicted.argmax())
        end = [f"{float(some.predicted[top]):.4f}", f"{float(some.d_star[top]):.4f}"] if way else ["", ""]
        rows.append([found.name, way or "both", str(len(some)), f"{error['mape']:.2f}", f"{error['r']:.4f}", *end])
    return rows


SHAPE = ("structure", "D*", "D along x, y, z", "clusters", "largest", "percolating axes", "nearest, mean",
         "neighbours nearer than touch", "their mean distance", "first peak of g(r)")  # fmt: skip


def described(name: str, data: Dataset, i: int) -> Row:
    """Return who is near whom in a structure: clusters of touching coronas, neighbours, the first peak of g(r)."""
    one, touch = at(data, i), touching(data)
    near = describe(one.centers, box=data.box, cutoff=touch)
    adjacent, vector = neighbors(one.centers, box=data.box, cutoff=touch)
    lengths = vector[adjacent].norm(dim=-1)
    g = pair_distribution(one.centers, box=data.box)[0]
    mean = f"{float(lengths.mean()):.2f}" if len(lengths) else "–"
    axes = "".join(axis for axis, wraps in zip("xyz", near.percolates[0].tolist(), strict=True) if wraps)
    return [
        name, f"{float(one.d_star):.4f}", ", ".join(f"{D:.4f}" for D in one.diffusivity[0].tolist()),
        str(int(near.clusters)), f"{float(near.largest):.2f}", axes or "none", f"{float(near.nearest):.2f}",
        f"{len(lengths) / one.centers.shape[1]:.2f}", mean, str(int(g[: round(touch) + 3].argmax())),
    ]  # fmt: skip


BOUNDS = ("structure", "D", "share of D's upper bound: Voigt", "Hashin and Shtrikman", "weight in coronas")


def bounded(name: str, data: Dataset, i: int) -> Row:
    """Return D and its share of two upper bounds that hold for the structure's own medium."""
    one = at(data, i)
    medium = electrolyte(one.centers, box=data.box, diameter=data.diameter, sites_per_voxel=data.sites_per_voxel,
                         model=data.model)  # fmt: skip
    D = float(one.mean_diffusivity)
    voigt, shtrikman, share = bounds(medium)
    return [
        name,
        f"{D:.4f}",
        f"{D / voigt:.3f} of {voigt:.3f}",
        f"{D / shtrikman:.3f} of {shtrikman:.3f}",
        f"{share:.4f}",
    ]


def bounds(medium: Medium) -> tuple[float, float, float]:
    """Return two upper bounds of a medium's mean D, and the share of its weight π where U < −1 kT.

    Voigt's is ⟨g⟩ h² / ⟨π⟩ with the bonds' conductances g, exact on the lattice. That of Hashin and Shtrikman is of
    isotropic media of phases σ = D π in volume fractions f: (Σ f / (σ + 2 σ_max))⁻¹ − 2 σ_max, over ⟨π⟩; it is of the
    continuum, so on a lattice it is a guide.
    """
    U, D = medium.potential[medium.labels[0].long()], medium.diffusivity[medium.labels[0].long()]
    weight = (-U).exp()
    s = (D * weight).sqrt()
    voigt = torch.stack([(s * s.roll(1, axis)).mean() for axis in range(3)]).mean() / weight.mean()
    top = (s * s).max()
    shtrikman = (1 / (1 / (s * s + 2 * top)).mean() - 2 * top) / weight.mean()
    return float(voigt), float(shtrikman), float(weight[U < -1].sum() / weight.sum())


CRYSTALS = ("crystal that fills the box", "spheres", "nearest", "D", "D · 2 / (3 − share of its spheres)")


def filled(data: Dataset, tolerance: float = 2e-3) -> list[Row]:
    """Return D of crystals of touching coronas that fill the box with more spheres than the data have.

    A share f of a crystal, in walls that the other 1 − f parts, conducts at most f D · 2 / (3 − f) along the mean of
    the axes if it is isotropic (Hashin and Shtrikman, the rest insulating), which over a share f of the weight is
    D · 2 / (3 − f). It is a guide: a piece of crystal has other ends than the whole.
    """
    rows: list[Row] = []
    for kind in designs.CELLS:
        sites = designs.filling(kind, data.box, touching(data) - designs.DEEP).float()[None]
        count, near = sites.shape[1], float(nearest_distance(sites, box=data.box).mean())
        if near < data.diameter or count < data.centers.shape[1]:
            continue
        D = solved(sites, data, data.sites_per_voxel, tolerance)
        share = data.centers.shape[1] / count
        rows.append([kind, str(count), f"{near:.2f}", f"{D:.4f}", f"{D * 2 / (3 - share):.4f}"])
    return rows


def on_lattices(shown: dict[str, tuple[Dataset, int]], finer: Sequence[int], tolerance: float = 2e-3) -> list[Row]:
    """Return D of structures on several lattices, and its ratio to that of the first structure on the same one."""
    rows: list[Row] = []
    best: dict[int, float] = {}
    for name, (data, i) in shown.items():
        cells = [name]
        for sites in (data.sites_per_voxel, *finer):
            D = (
                float(data.mean_diffusivity[i])
                if sites == data.sites_per_voxel
                else solved(at(data, i).centers, data, sites, tolerance)
            )
            best.setdefault(sites, D)
            cells.append(f"{D:.5f} ({D / best[sites]:.3f})")
        rows.append(cells)
    return rows


def solved(centers: Tensor, data: Dataset, sites: int, tolerance: float) -> float:
    """Return the mean D of a structure [1, N, 3] in the data's cell, on a lattice of `sites` a voxel."""
    found = label(centers, box=data.box, diameter=data.diameter, sites_per_voxel=sites,
                  model=data.model, tolerance=tolerance)  # fmt: skip
    return float(found.diffusivity.mean())


if __name__ == "__main__":
    run_script(main)
