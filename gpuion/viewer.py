"""The part of a report's page in which arrangements turn under the mouse, beside a table of them that can be sorted.

3Dmol.js, which draws them, lies in `web` with its licence (BSD-3-Clause) and is copied into the page.

Legend: N particles.
"""

import html
import json
from pathlib import Path
from typing import Any

import numpy as np

from gpuion.dataset import Dataset
from gpuion.descriptors import clusters, describe
from gpuion.errors import ConvergenceError
from gpuion.findings import Run
from gpuion.flux import currents
from gpuion.gallery import Arrangement
from gpuion.medium import electrolyte
from gpuion.render import cluster_colors, recenter
from gpuion.streamlines import streamlines
from gpuion.survey import touching

_WEB = Path(__file__).parent / "web"
_LINES = 48  # lines of current a structure and axis: some 20 kB in the page
_TOLERANCE = 1e-3  # relative, of D: lines go by directions
_ENDS = 12  # structures of highest and of lowest D in the table, of each set
HEAD = ("where", "family", "id", "D*", "D", "D along x", "D along y", "D along z", "clusters", "largest, %",
        "nearest")  # fmt: skip


def section(run: Run, shown: list[Arrangement]) -> str:
    """Return the section: canvas, buttons, table, data and scripts, with nothing to fetch."""
    chosen = [(title, data, i) for title, data, i, _ in shown]
    listed = [(name, data, i) for name, data in _sets(run) for i in _ends(data)]
    models = [_model(title, data, i) | {"lines": _lines(data, i)} for title, data, i in chosen]
    models += [_model(f"{name}, {data.family[i]} {int(data.id[i])}", data, i) for name, data, i in listed]
    content = {"box": run.data.box, "radius": run.data.diameter / 2, "touch": touching(run.data), "models": models}
    buttons = "".join(f'<button data-model="{k}">{html.escape(title)}</button>' for k, (title, *_) in enumerate(chosen))
    axes = "".join(f'<option value="{axis}">along {axis}</option>' for axis in "xyz")
    text = json.dumps(content, separators=(",", ":")).replace("</", "<\\/")
    scripts = (_WEB / "3Dmol-min.js").read_text(encoding="utf-8").replace("</script", "<\\/script")
    return (
        '<section><h2>Turn them</h2><p class="soft">Drag to turn, wheel or pinch to zoom. Sticks join spheres whose '
        "coronas touch; joined spheres share a colour, a grey one is alone. The current is the stationary one that a "
        "force along the axis drives, followed from where it flows, on one lattice site a voxel.</p>"
        f'<div class="bar" id="which">{buttons}<label>current <select id="flow"><option value="">none</option>{axes}'
        '</select></label></div><p id="title"></p><div id="stage" role="img" aria-label="arrangement of spheres">'
        '</div><p class="soft">A row of the table is shown above when chosen; a head sorts. D is in units of the bulk '
        "solvent's. Largest: spheres in the largest cluster; nearest: mean distance to the nearest sphere, voxels.</p>"
        f"{_table(listed, len(chosen))}"
        f'<script type="application/json" id="models">{text}</script>\n<script>{scripts}</script>\n'
        f"<script>{(_WEB / 'viewer.js').read_text(encoding='utf-8')}</script></section>\n"
    )


def _sets(run: Run) -> list[tuple[str, Dataset]]:
    return [("placed", run.data)] + ([("annealed", run.annealed)] if run.annealed is not None else [])


def _ends(data: Dataset) -> list[int]:
    """Return the positions of the structures of highest and of lowest D, highest first, none twice."""
    usable = np.flatnonzero(data.settled.numpy())
    order = usable[np.argsort(-data.mean_diffusivity.numpy()[usable], kind="stable")].tolist()
    return list(dict.fromkeys([*order[:_ENDS], *order[-_ENDS:]]))


def _model(title: str, data: Dataset, i: int) -> dict[str, Any]:
    """Return what the page draws of a structure: centres with their widest gaps at the box's faces, and colours."""
    centers = recenter(data.centers[i], data.box)
    color = cluster_colors(clusters(centers[None], box=data.box, cutoff=touching(data))[0].numpy())
    return {
        "title": f"{title}: D* = {float(data.d_star[i]):.3f}",
        "centers": centers.double().numpy().round(1).flatten().tolist(),
        "colors": ["#" + "".join(f"{round(255 * x):02x}" for x in rgb) for rgb in color],
    }


def _lines(data: Dataset, i: int) -> dict[str, list[list[float]]]:
    """Return lines of the current along each axis, x, y, z of point after point; none where the solve fails."""
    centers = recenter(data.centers[i], data.box).float()[None]
    medium = electrolyte(centers, box=data.box, diameter=data.diameter, sites_per_voxel=1, model=data.model)
    found = {}
    for axis, name in enumerate("xyz"):
        try:
            flow = currents(medium, axis, tolerance=_TOLERANCE)[0]
        except ConvergenceError:
            continue
        pieces = streamlines(flow, box=data.box, count=_LINES, length=0.8 * data.box)
        found[name] = [piece.round(1).astype(float).round(1).flatten().tolist() for piece in pieces]
    return found


def _table(listed: list[tuple[str, Dataset, int]], first: int) -> str:
    """Return the table, whose rows know which model they are, from `first` on."""
    rows = []
    for k, (name, data, i) in enumerate(listed, start=first):
        cutoff = min(touching(data), data.box / 2)
        near = describe(data.centers[i : i + 1], box=data.box, cutoff=cutoff)
        axes = [f"{x:.4g}" for x in data.diffusivity[i].tolist()]
        D = [f"{float(data.d_star[i]):.4f}", f"{float(data.mean_diffusivity[i]):.4g}"]
        shape = [str(int(near.clusters)), f"{100 * float(near.largest):.0f}", f"{float(near.nearest):.2f}"]
        cells = [name, str(data.family[i]), str(int(data.id[i])), *D, *axes, *shape]
        line = "".join(f"<td>{html.escape(x)}</td>" for x in cells)
        rows.append(f'<tr tabindex="0" data-model="{k}">{line}</tr>')
    head = "".join(f'<th scope="col"><button type="button">{html.escape(text)}</button></th>' for text in HEAD)
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="scroll tall"><table id="structures">{body}</table></div>'
