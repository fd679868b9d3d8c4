"""Write what a run found into its folder: report.html, one page that needs nothing else, its pictures of arrangements
side by side as arrangements.png, summary.json, and by `gpuion.paper` every figure and table of the paper.

    python -m gpuion.report runs/demo

`gpuion.findings` says what the folder holds; every number of the page is computed from its files. The exit code is 3
if annealing found nothing beyond the best placed structure, or nothing beyond the worst; the page says so, too.
"""

if __name__ == "__main__":  # before torch, which takes seconds to load: a stop meanwhile is one line, too
    from gpuion.errors import expect_stops

    expect_stops()

import datetime as dt
import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpuion import files, findings, paper, plots, timing
from gpuion.config import Parser
from gpuion.dataset import Dataset
from gpuion.errors import GpuionError, codes, fail, run_script
from gpuion.findings import Run
from gpuion.gallery import Arrangement, arrangements, pictures
from gpuion.headlines import headlines
from gpuion.markup import count, document, image, number, table
from gpuion.published import HEAD, Row
from gpuion.relabel import with_prediction
from gpuion.render import png
from gpuion.training import metrics
from gpuion.viewer import section


def main() -> None:
    """Read, compute, write."""
    told = codes("written, but annealing found nothing beyond what was placed")
    parser = Parser(prog="python -m gpuion.report", description=__doc__, epilog=told)
    parser.add_argument_group("files").add_argument("run", type=Path, help="the run folder")
    given = parser.parse_args()
    try:
        summary = write(given.run)
    except ImportError as error:
        raise GpuionError(str(error)) from None
    if summary["missed"]:
        ends = " and none beyond the ".join(summary["missed"])
        fail(f"annealing found none beyond the {ends} placed structure, errors considered; the page says so", 3)


def write(path: str | Path) -> dict[str, Any]:
    """Write report.html, arrangements.png and summary.json into a run folder and return the summary.

    Parameters
    ----------
    path : path
        The run folder.

    Raises
    ------
    DatasetError
        If dataset/ is missing, or any part of the run is damaged or of other structures.
    ImportError
        Without matplotlib.
    """
    plots.require()
    run = findings.load(Path(path))
    summary = findings.summarize(run)
    shown = arrangements(run)
    text = page(run, summary, shown, *paper.write(run))
    with files.atomic(run.path / "arrangements.png") as partial:
        partial.write_bytes(png(np.concatenate([picture for *_, picture in shown], 1)))
    files.write_json(run.path / "summary.json", summary)
    with files.atomic(run.path / "report.html") as partial:
        partial.write_text(text, encoding="utf-8")
    print(f"{run.path / 'report.html'} ({len(text) / 1e6:.1f} MB) and {run.path / 'summary.json'}")
    return summary


def page(
    run: Run, summary: dict[str, Any], shown: list[Arrangement], rows: Sequence[Row] = (),
    drawn: Mapping[str, tuple[bytes, str]] | None = None,
) -> str:  # fmt: skip
    """Return the whole page of a run, its summary and its pictures; what `paper.write` returned of it comes along."""
    parts = [
        _head(run, summary), pictures(run, shown), section(run, shown), _families(run, summary), _predictions(run),
        _annealing(run), _check(run, summary), _figures(summary), _paper(rows, drawn or {}), _making(run, summary),
    ]  # fmt: skip
    return document(f"gpuion: {run.path.resolve().name}", "".join(parts))


def _head(run: Run, summary: dict[str, Any]) -> str:
    data = run.data
    n = data.centers.shape[1]
    share = n * math.pi * (data.diameter / data.box) ** 3 / 6
    items = "".join(f"<li>{html.escape(line)}</li>" for line in headlines(summary))
    return (
        "<section><h1>Which arrangement of spheres lets ions through?</h1>"
        f'<p class="soft">{n} spheres of diameter {data.diameter:.4g} in a periodic box of {data.box:g} voxels '
        f"({100 * share:.3g}% by volume), {count(data.sites_per_voxel, 'lattice site')} per voxel.</p>"
        f'<ul class="lead">{items}</ul></section>\n'
    )


def _families(run: Run, summary: dict[str, Any]) -> str:
    members = findings.groups(run.data) | (findings.groups(run.annealed) if run.annealed is not None else {})
    values = {name: part.mean_diffusivity.numpy() for name, part in members.items()}
    ends = {end: summary["dataset"][end]["D"] for end in ("best", "worst")}
    figure = _figure(plots.families(values, **ends), "diffusivity by family", "wide")
    return (
        f"<section><h2>Diffusivity by family</h2>{figure}<p class='soft'>A point is a structure, a bar its family's "
        "median. Chained: each sphere placed within this distance (voxels) of an earlier one. Gapped: slabs without "
        "spheres across so many axes. Dashed: best and worst placed structure.</p></section>\n"
    )


def _predictions(run: Run) -> str:
    panels: list[tuple[str, dict[str, plots.Points]]] = []
    if run.models:
        name, model = list(run.models.items())[-1]
        rows = model.predictions
        inside = np.array(rows["split"]) == "test"
        true, predicted = (np.array(rows[key], dtype=float)[inside] for key in ("true", "predicted"))
        if len(true):
            panels.append((f"Test set, {name}", {_scores("not seen", true, predicted): (true, predicted, plots.TEST)}))
    names = list(run.rounds)
    for name in dict.fromkeys([*names[:1], *names[-1:]]):
        word = "before retraining" if name == names[0] else "after retraining"
        panels.append((f"Annealed, {word} ({name})", _round_panel(run.rounds[name].data)))
    if not panels:
        return ""
    limits = plots.spread([np.concatenate(points[:2]) for _, panel in panels for points in panel.values()])
    images = "".join(
        _figure(plots.parity(panel, title=title, limits=limits), title, "narrow") for title, panel in panels
    )
    return (
        f'<section><h2>Predicted against exact</h2><div class="grid">{images}</div><p class="soft">The network of '
        "round k has seen none of the structures that round k found. MAPE is the mean of |predicted − exact| / exact; "
        "R is Pearson's correlation.</p></section>\n"
    )


def _round_panel(data: Dataset) -> dict[str, plots.Points]:
    panel = {}
    directions = (("maximised", "annealed-max", plots.UP), ("minimised", "annealed-min", plots.DOWN))
    for word, family, color in directions:
        part = with_prediction(data.subset(torch.from_numpy(data.family == family)))
        if part is not None and part.predicted is not None:
            true, predicted = part.d_star.numpy(), part.predicted.numpy()
            panel[_scores(word, true, predicted)] = (true, predicted, color)
    return panel


def _scores(name: str, true: np.ndarray, predicted: np.ndarray) -> str:
    found = metrics(torch.from_numpy(predicted), torch.from_numpy(true))
    return f"{name} ({len(true)}): MAPE {found['mape']:.3g}%, R {number(found['r'])}"


def _annealing(run: Run) -> str:
    images = ""
    for name, each in {**run.rounds, **run.polished}.items():
        what = "exact D*" if name in run.polished else "predicted D*"
        runs = {key: {d: np.array(t[key]) for d, t in each.traces.items()} for key in ("trace", "acceptance")}
        ends = {"best placed": 1.0, "worst placed": float(run.data.d_star.min())}
        figure = plots.trace(runs["trace"], title=f"{name}: the chains", label=what, marks=ends)
        images += _figure(figure, f"{what} in {name}", "narrow")
        figure = plots.trace(runs["acceptance"], title=f"{name}: moves accepted", label="share of proposals")
        images += _figure(figure, f"acceptance in {name}", "narrow")
    if not images:
        return ""
    exact = ", ".join(run.polished)
    last = f" In {exact} the chains went by the exact solver, not by the network." if exact else ""
    return (
        f'<section><h2>Annealing</h2><div class="pairs">{images}</div><p class="soft">One line a chain, at the end of '
        f"each cycle. The temperature falls from cycle to cycle.{last}</p></section>\n"
    )


def _check(run: Run, summary: dict[str, Any]) -> str:
    check, found = run.check, summary["kmc"]
    if check is None or check.diffusivity_kmc is None or check.standard_error_kmc is None:
        return ""
    exact, walk, error = (x.numpy() for x in (check.diffusivity, check.diffusivity_kmc, check.standard_error_kmc))
    label = f"settled ({found['settled']} of {found['structures']}), ±1 σ"
    figure = plots.walks(exact, walk, error, findings.walks_settled(check).numpy(), label=label)
    text = "No walk settled, so none is compared."
    if found["components"]:
        text = (
            f"Of {found['components']} components from walks that settled, {found['within_2']} lie within two standard "
            f"errors of the exact solution and {found['beyond_4']} beyond four; mean z = {found['z_mean']:+.2f}, rms "
            f"{found['z_rms']:.2f}, largest {found['z_max']:.2f}, where z = (walk − exact) / standard error."
        )
    drawn = _figure(figure, "random walk against exact solve", "narrow")
    return f"<section><h2>Two ways to the same number</h2>{drawn}<p>{text}</p></section>\n"


def _figures(summary: dict[str, Any]) -> str:
    """Return the numbers of summary.json as tables."""
    rows = []
    for where in ("dataset", "annealed"):
        for end in ("best", "worst"):
            if summary[where]:
                x = summary[where][end]
                rows.append([
                    f"{end} of {where}", x.get("stage") or "", x["family"], x["id"], x.get("chain", ""),
                    x.get("cycle", ""), f"{x['D']:.5g}", f"{x['error']:.1g}", f"{x['D_star']:.4f}",
                    number(x.get("predicted")),
                ])  # fmt: skip
    text = table(["", "found in", "family", "id", "chain", "cycle", "exact D", "± error", "D*", "predicted D*"], rows)
    if summary["ratios"]:
        text += table(
            ["", "ratio", "beyond the errors"],
            [
                [f"{end} annealed / {end} placed", f"{ratio:.4f}", "yes" if summary["beats_dataset"][end] else "no"]
                for end, ratio in zip(("best", "worst"), summary["ratios"].values(), strict=True)
            ],
        )
    rows = [[m, _short(part), number(x["mse"]), number(x["mape"]), number(x["r"])]
            for m, parts in summary["models"].items() for part, x in parts.items()]  # fmt: skip
    rows += [[name, f"annealing, {part} ({x['structures']})", number(x["mse"]), number(x["mape"]), number(x["r"])]
             for name, parts in summary["annealed_predictions"].items() for part, x in parts.items()]  # fmt: skip
    text += table(["network or round", "structures", "MSE", "MAPE / %", "R"], rows)
    if summary["annealed_predictions"]:
        text += (
            '<p class="soft">R of all annealed structures mostly says that those which went up and those which went '
            "down lie far apart; within a direction it says how well the network orders them.</p>"
        )
    rows = [[name, x["structures"], *(f"{x[key]:.4g}" for key in ("min", "median", "mean", "max"))]
            for name, x in summary["dataset"]["families"].items()]  # fmt: skip
    text += table(["placed family", "structures", "min D", "median", "mean", "max"], rows)
    lost = summary["dataset"]["unsettled"] + (summary["annealed"] or {"unsettled": 0})["unsettled"]
    text += f'<p class="soft">Labels that did not settle: {lost}.</p>'
    return f"<section><h2>The figures</h2>{text}</section>\n"


def _paper(rows: Sequence[Row], drawn: Mapping[str, tuple[bytes, str]]) -> str:
    """Return the paper's figures beside the run's, and the pictures of both."""
    if not rows:
        return ""
    images = "".join(
        f'<figure class="wide">{image(content, "png", name)}<figcaption>{html.escape(text)}</figcaption></figure>'
        for name, (content, text) in drawn.items()
    )
    text = (
        "What Kadulkar, Howard, Truskett and Ganesan report (J. Phys. Chem. B 2021) beside this run; paper.md has it "
        "with all tables, the folder paper the pictures as PDF."
    )
    return (
        f'<section><h2>The paper, and this run</h2><p class="soft">{text}</p>'
        f'<div class="wrap">{table([_spoken(x) for x in HEAD], [[_spoken(x) for x in row] for row in rows])}</div>'
        f"<details><summary>the paper's {len(drawn)} figures, from this run</summary>{images}</details></section>\n"
    )


def _spoken(text: str) -> str:
    """Return a text without the marks of code that Markdown has."""
    return text.replace("`", "")


def _making(run: Run, summary: dict[str, Any]) -> str:
    rows: list[list[Any]] = []
    details = ""
    for name, made in run.made.items():
        rows.append(
            [name, f"{made.get('script')}.py", *(made.get(k, "") for k in ("gpuion", "torch", "numpy", "commit"))]
        )
        config = html.escape(json.dumps(made.get("config"), indent=1))
        details += f"<details><summary>{html.escape(name)}: configuration</summary><pre>{config}</pre></details>"
    if run.timing:
        details += table(timing.HEADER, timing.rows(run.timing))
        details += (
            '<p class="soft">A row is one start of a script that came to its end; stopped ones are not timed.</p>'
        )
    model = html.escape(", ".join(f"{key} = {value}" for key, value in vars(run.data.model).items()))
    mine = summary["made_by"]
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        "<section><h2>How it was made</h2>"
        f"{table(['folder', 'made by', 'gpuion', 'torch', 'numpy', 'commit'], rows)}{details}"
        f"<details><summary>transport model</summary><pre>{model}</pre></details>"
        f'<p class="soft">Page of gpuion {mine["gpuion"]}, commit {html.escape(mine["commit"])}, {now}.</p></section>\n'
    )


def _figure(figure: Any, name: str, width: str) -> str:
    return f'<figure class="{width}">{image(plots.svg(figure), "svg+xml", name)}</figure>'


def _short(part: str) -> str:
    """Return the name of a part of a training's data without the path of its folder."""
    return "test of " + part.rstrip("/").split("/")[-1] if part.startswith("test of ") else part


if __name__ == "__main__":
    run_script(main)
