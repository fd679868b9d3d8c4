"""What a data set is like: D by family and by range of chaining, g(r), what the lattice costs, walks against solves.

    python -m gpuion.survey data/study --finer data/study-2 data/study-3 --walks data/study-walks --out runs/survey

Writes a picture for each, and survey.md with the numbers. The finer sets and the walks hold some of the same
structures, by their ids.

Legend: n structures, K bins of r. Diffusivities in units of the bulk solvent's, lengths in voxels.
"""

if __name__ == "__main__":  # before torch, which takes seconds to load: a stop meanwhile is one line, too
    from gpuion.errors import expect_stops

    expect_stops()

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpuion import files, panels, plots
from gpuion.components import correlation, principal_components
from gpuion.config import Parser
from gpuion.dataset import Dataset, open_dataset
from gpuion.descriptors import describe
from gpuion.errors import DatasetError, run_script
from gpuion.findings import agreement, walks_settled
from gpuion.radial import pair_distribution

Row = Sequence[str]


def main() -> None:
    """Read the command line, draw, write."""
    parser = Parser(prog="python -m gpuion.survey", description=__doc__)
    paths = parser.add_argument_group("files")
    paths.add_argument("data", type=Path, help="the data set")
    paths.add_argument("--finer", type=Path, nargs="+", default=[], help="structures of it on finer lattices, if any")
    paths.add_argument("--walks", type=Path, help="structures of it with walks beside the exact labels, if any")
    paths.add_argument("--out", type=Path, required=True, help="folder for pictures and survey.md")
    given = parser.parse_args()
    plots.require()
    write(given.data, given.finer, given.walks, given.out)


def write(source: Path, finer: Sequence[Path], walks: Path | None, out: Path) -> None:
    """Write the pictures and the tables of a data set."""
    data = open_dataset(source)
    kinds, g = by_kind(data), pair_distribution(data.centers, box=data.box)
    D = data.mean_diffusivity.numpy()
    out.mkdir(parents=True, exist_ok=True)
    strips = {name: D[at.numpy()] for name, at in kinds.items()}
    figures = {
        "families": plots.families(strips, best=D.max(), worst=D.min()),
        "ranges": panels.ranges(_by_range(data)),
        "pairs": panels.pairs(*_pairs(data, g), touch=touching(data)),
    }
    parts = [table(["structures", "number", "lowest", "median", "mean", "highest D"], _spans(strips))]
    parts.append(table(("of a structure", "Pearson's R with D", "Spearman's"), _what_goes_with(data, g)))
    if finer:
        cells = [compare(data, open_dataset(path), path) for path in finer]
        figures["lattice"] = panels.lattice(cells)
        parts.append(table(LATTICE, [row for cell in cells for row in cell["rows"]]))
    if walks is not None:
        checked = open_dataset(walks)
        if checked.diffusivity_kmc is None or checked.standard_error_kmc is None:
            raise DatasetError(f"{walks}: expected walks beside exact labels, found none; make it with --method both")
        found = agreement(checked)
        figures["walks"] = plots.walks(
            checked.diffusivity.numpy(), checked.diffusivity_kmc.numpy(), checked.standard_error_kmc.numpy(),
            walks_settled(checked).numpy(), label="settled",
        )  # fmt: skip
        names = [name for name in found if name != "z"]
        parts.append(table(names, [["–" if found[name] is None else f"{found[name]:.3g}" for name in names]]))
    for name, figure in figures.items():
        with files.atomic(out / f"{name}.png") as partial:
            partial.write_bytes(panels.png(figure))
    with files.atomic(out / "survey.md") as partial:
        partial.write_text("\n\n".join(parts) + "\n")
    print(f"{len(figures)} pictures and survey.md in {out}")


def by_kind(data: Dataset) -> dict[str, Tensor]:
    """Return the positions, int64 [k], of each kind: family, range of chaining, number of axes with a slab."""
    names = [_kind(data, i) for i in range(len(data))]
    order = sorted(set(names))
    held = np.array([name for _, name in names])
    return {name: torch.from_numpy(np.flatnonzero(held == name)) for _, name in order}


def _kind(data: Dataset, i: int) -> tuple[tuple[Any, ...], str]:
    """Return a key to sort by and a name."""
    family, (low, high) = str(data.family[i]), data.distance[i].tolist()
    slabs = int(data.axes[i].sum())
    if family == "chained":
        return (1, low), f"chained, {low:.4g} to {high:.4g}"
    if family == "gapped":
        return (2, slabs, low == low), f"gapped on {slabs}, {'chained' if low == low else 'plain'}"  # noqa: PLR0124, NaN
    return (0 if family == "random" else 3, family), family


def _by_range(data: Dataset) -> dict[tuple[float, float], np.ndarray]:
    """Return D of the chained structures by their range, and under (0, 0) that of the random ones."""
    D, found = data.mean_diffusivity, {}
    random = torch.from_numpy(data.family == "random")
    chained = torch.from_numpy(data.family == "chained")
    if bool(random.any()):
        found[0.0, 0.0] = D[random].numpy()
    for low, high in sorted(set(map(tuple, data.distance[chained].tolist()))):
        found[low, high] = D[
            chained & (data.distance == torch.tensor([low, high], dtype=torch.float64)).all(-1)
        ].numpy()
    return found


def _pairs(data: Dataset, g: Tensor) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the radii r [K] and g(r) [K], averaged over families and over the extremes of D."""
    order = data.mean_diffusivity.argsort()
    tenth = max(1, len(data) // 10)
    chosen = {"lowest tenth of D": order[:tenth], "highest tenth of D": order[-tenth:]}
    families = {name: torch.from_numpy(np.flatnonzero(data.family == name)) for name in sorted(set(data.family))}
    return np.arange(g.shape[1]), {name: g[at].mean(0).numpy() for name, at in (families | chosen).items()}


def _what_goes_with(data: Dataset, g: Tensor) -> list[Row]:
    """Return how descriptors of the arrangement go with D, the principal components of g(r) among them."""
    near = describe(data.centers, box=data.box, cutoff=touching(data))
    found = principal_components(g)
    columns = {
        "mean nearest distance": near.nearest,
        "number of clusters": near.clusters,
        "largest cluster's share": near.largest,
        "axes along which a cluster percolates": near.axes,
    }
    for k, share in enumerate(found.share[:3].tolist()):
        columns[f"principal component {k + 1} of g(r), {share:.1%} of its variance"] = found.scores[:, k]
    table = torch.stack([column.double() for column in columns.values()], 1)
    pearson, spearman = (correlation(table, data.mean_diffusivity, ranks=ranks) for ranks in (False, True))
    return [[name, f"{a:+.3f}", f"{b:+.3f}"] for name, a, b in zip(columns, pearson, spearman, strict=True)]


def touching(data: Dataset) -> float:
    """Return the distance of two spheres at which their coronas touch."""
    return data.diameter + 2 * data.model.reach


LATTICE = ("sites a voxel", "family", "structures", "mean", "lowest", "highest D against 1 site, %", "rank correlation")


def compare(coarse: Dataset, fine: Dataset, path: Path) -> dict[str, Any]:
    """Return D of the same structures on two lattices, by family, with the change in per cent and rank correlation.

    Raises
    ------
    DatasetError
        If the second set, of that path, has structures that the first has not.
    """
    at = {number: i for i, number in enumerate(coarse.id.tolist())}
    index = torch.tensor([at.get(number, 0) for number in fine.id.tolist()])
    same = (
        (coarse.centers[index] == fine.centers).flatten(1).all(1)
        if coarse.box == fine.box
        else torch.zeros(len(fine)) > 0
    )
    if not bool(same.all()):
        others = fine.id[~same].tolist()
        raise DatasetError(f"{path}: expected structures of the first data set, found others at ids {others[:5]}")
    before, after = coarse.mean_diffusivity[index], fine.mean_diffusivity
    change, rows = 100 * (after / before - 1), []
    for family in ("all", *sorted(set(fine.family))):
        of = torch.from_numpy((fine.family == family) | (family == "all"))
        some = change[of]
        rank = correlation(before[of], after[of], ranks=True) if int(of.sum()) > 2 else torch.tensor(torch.nan)
        numbers = f"{float(some.mean()):+.1f}", f"{float(some.min()):+.1f}", f"{float(some.max()):+.1f}"
        rows.append([str(fine.sites_per_voxel), family, str(len(some)), *numbers, f"{float(rank):.4f}"])
    return {
        "sites": fine.sites_per_voxel, "before": before.numpy(), "change": change.numpy(), "family": fine.family,
        "rows": rows,
    }  # fmt: skip


def _spans(groups: dict[str, np.ndarray]) -> list[Row]:
    return [
        [name, str(len(D)), *(f"{value:.4f}" for value in (D.min(), np.median(D), D.mean(), D.max()))]
        for name, D in groups.items()
    ]


def table(head: Row, rows: Sequence[Row]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    run_script(main)
