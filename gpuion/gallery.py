"""The arrangements that a report shows: the best conductor, the worst, and what chance makes."""

import numpy as np
import torch

from gpuion import findings
from gpuion.dataset import Dataset
from gpuion.descriptors import clusters, nearest_distance, percolates
from gpuion.findings import Run
from gpuion.markup import count, image
from gpuion.render import png, recenter, render

Arrangement = tuple[str, Dataset, int, np.ndarray]
"""A title, a set and a position in it, and the picture, uint8 [height, width, 3]."""


def arrangements(run: Run) -> list[Arrangement]:
    """Return the best conductor, a typical random arrangement, if there is one, and the worst, with their pictures."""
    sets = [run.data] + ([run.annealed] if run.annealed is not None else [])
    chosen = []
    for best, title in ((True, "Conducts best"), (False, "Conducts worst")):
        ends = [(data, findings.position(data, best=best)) for data in sets]
        D = [float(data.mean_diffusivity[i]) for data, i in ends]
        chosen.append((title, *ends[(np.argmax if best else np.argmin)(D)]))
    random = np.flatnonzero((run.data.family == "random") & run.data.settled.numpy())
    if len(random):
        order = run.data.mean_diffusivity[torch.from_numpy(random)].argsort(stable=True)
        chosen.insert(1, ("Typical at random", run.data, int(random[order[(len(order) - 1) // 2]])))
    return [(*each, drawn(*each[1:])) for each in chosen]


def drawn(data: Dataset, i: int) -> np.ndarray:
    """Return a picture of one structure of a set, uint8 [height, width, 3], its widest gaps at the box's faces."""
    centers = recenter(data.centers[i], data.box)
    return render(centers, box=data.box, diameter=data.diameter, reach=data.model.reach)


def pictures(run: Run, shown: list[Arrangement]) -> str:
    """Return the page's section of pictures."""
    figures = "".join(_picture(*each) for each in shown)
    touch = run.data.diameter + 2 * run.data.model.reach
    return (
        f'<section><h2>The arrangements</h2><div class="grid">{figures}</div><p class="soft">Sticks join spheres whose '
        f"ligand coronas (the haze) touch: closer than {touch:.3g} voxels, centre to centre. Joined spheres share a "
        "colour; a grey one is alone. A stick that ends at the box goes on at the other side. The periodic box is laid "
        "so that its faces lie in the widest gaps.</p></section>\n"
    )


def _picture(title: str, data: Dataset, i: int, picture: np.ndarray) -> str:
    centers = data.centers[i : i + 1]
    touch = data.diameter + 2 * data.model.reach
    label = clusters(centers, box=data.box, cutoff=touch)[0]
    sizes = label.bincount()
    text = f"{count(int((sizes > 0).sum()), 'cluster')}, the largest of {count(int(sizes.max()), 'sphere')}"
    if touch <= data.box / 2:
        wraps = percolates(centers, box=data.box, cutoff=touch)[0].tolist()
        axes = ", ".join(axis for axis, wrap in zip("xyz", wraps, strict=True) if wrap)
        text += f", connected through the box along {axes or 'no axis'}"
    near = float(nearest_distance(centers, box=data.box).mean())
    D = f"D = {float(data.mean_diffusivity[i]):.4g} ± {float(data.standard_error[i].mean()):.1g}"
    return (
        f"<figure>{image(png(picture), 'png', title)}<figcaption><b>{title}</b>{D}, D* = {float(data.d_star[i]):.3f}; "
        f"{data.family[i]}, number {int(data.id[i])}; {text}; nearest neighbour at {near:.3g} voxels on average."
        "</figcaption></figure>"
    )
