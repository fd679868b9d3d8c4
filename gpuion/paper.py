"""Draw every figure and table of the paper that gpuion follows, from what a run folder holds.

    python -m gpuion.paper runs/demo
    python -m gpuion.paper runs/paper --out docs --formats png

writes paper.md with all tables into the run folder, or into --out, and its pictures beside it into a folder `paper`. A
figure whose parts are not there is left out: networks come from folders of train.py (the first of a kind is the one
before retraining, the last the one after), annealings from round-1, round-2 …, transfers from phi-….
`make paper FROM=data` makes such a folder of the study that ships with gpuion.
"""

if __name__ == "__main__":  # before torch, which takes seconds to load: a stop meanwhile is one line, too
    from gpuion.errors import expect_stops

    expect_stops()

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpuion import files, findings, panels, paper_sections, plots, published
from gpuion.config import Parser
from gpuion.errors import run_script
from gpuion.markup import count
from gpuion.paper_sections import STAGES, Figures
from gpuion.study import Remembered, Study, load
from gpuion.survey import table

FORMATS = ("png", "pdf")


def main() -> None:
    """Read the command line, draw, write."""
    parser = Parser(prog="python -m gpuion.paper", description=__doc__)
    paths, page = parser.add_argument_group("files"), parser.add_argument_group("the page")
    paths.add_argument("run", type=Path, help="the run folder")
    paths.add_argument("--out", type=Path, help="folder for paper.md and paper/; the run folder if not given")
    page.add_argument("--note", default="", help="a word on the run; none if not given")
    page.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS, help="of the pictures")
    given = parser.parse_args()
    plots.require()
    write(findings.load(given.run), given.out, given.formats, given.note)


def write(
    run: findings.Run, out: Path | None = None, formats: Sequence[str] = FORMATS, note: str = ""
) -> tuple[list[published.Row], dict[str, tuple[bytes, str]]]:
    """Write paper.md into a folder, the run's own if none is given, and pictures and numbers into `paper` beside it.

    Returns
    -------
    list of Row, dict of str to (bytes, str)
        The paper's figures beside the run's, and each picture as PNG with what it shows.

    Raises
    ------
    CheckpointError
        If a network of the run is damaged or cannot take its cell.
    """
    out = out or run.path
    memory = Remembered(run.path / "paper" / "memory.pt")
    study = load(run, memory)
    numbers, figures = collect(study, memory)
    folder = out / "paper"
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {name: (panels.png(figure, 90, 256), text) for name, (figure, text) in figures.items()}
    for name, (figure, _) in figures.items():
        for kind in formats:
            with files.atomic(folder / f"{name}.{kind}") as partial:
                partial.write_bytes(pictures[name][0] if kind == "png" else plots.pdf(figure))
    files.write_json(folder / "numbers.json", findings.plain(numbers | files.provenance()))
    rows = published.rows(study, numbers)
    with files.atomic(out / "paper.md") as partial:
        partial.write_text(document(study, numbers, rows, {name: text for name, (_, text) in figures.items()}, note))
    print(f"{len(figures)} figures of the paper in {folder}, its tables in {out / 'paper.md'}")
    return rows, pictures


def collect(study: Study, memory: Remembered) -> tuple[dict[str, Any], Figures]:
    """Return the numbers of all sections, as JSON values, and their figures in the order of the page."""
    numbers: dict[str, Any] = {}
    figures: Figures = {}
    for found, drawn in (
        paper_sections.families(study), paper_sections.predictions(study, memory), paper_sections.annealing(study),
        paper_sections.snapshots(study), paper_sections.descriptors(study), paper_sections.two_point(study, memory),
        paper_sections.transfer(study, memory), paper_sections.cost(study),
    ):  # fmt: skip
        numbers |= found
        figures |= drawn
    return numbers, figures


TITLES = {
    "families": "The structures",
    "parity": "Predicted against exact",
    "errors": "Networks and descriptors",
    "traces": "Annealing",
    "snapshots": "The best and the worst over the cycles",
    "components": "g(r) and D",
    "two-point": "Other two-point functions",
    "transfer": "Fewer and more spheres",
    "cost": "What a diffusivity costs",
}
_ORDER = ("families", "parity", "errors", "traces", "acceptance", "snapshots", "components", "pairs", "two-point",
          "transfer", "cost")  # fmt: skip


def document(
    study: Study,
    numbers: dict[str, Any],
    rows: Sequence[published.Row],
    texts: Mapping[str, str],
    note: str = "",
) -> str:
    """Return the page in Markdown: the paper's figures beside the run's, then each picture with its tables."""
    parts = [
        "# The paper's figures, remade",
        "Kadulkar, Howard, Truskett and Ganesan (J. Phys. Chem. B 2021) beside gpuion. " + _origin(study),
        *([note] if note else []),
        table(published.HEAD, rows),
    ]
    tables = {"errors": errors_table(numbers), "two-point": two_point_table(numbers), "cost": cost_table(numbers)}
    for key in _ORDER:
        names = [name for name in texts if name == key or (key == "parity" and name.startswith("parity"))]
        if names and key in TITLES:
            parts.append(f"## {TITLES[key]}")
        for name in names:
            alone = texts[name].split(". ")[0].rstrip(".:")
            parts += [f"![{alone}](paper/{name}.png)", texts[name], *([tables[key]] if tables.get(key) else [])]
    return "\n\n".join(parts).replace("D*", "D\\*") + "\n"


def _origin(study: Study) -> str:
    """Return what the page was made of."""
    data, run = study.run.data, study.run
    nets = "; ".join(f"`{kind}` of {', '.join(folders)}" for kind, folders in study.nets.items())
    N, sites = data.centers.shape[1], count(data.sites_per_voxel, "lattice site")
    cell = f"{N} spheres in {data.box:g} voxels, solved on {sites} a voxel"
    lines = [f"The run has {len(data)} structures of {cell}.", f"Networks: {nets}." if nets else "It has no networks."]
    for name, each in run.rounds.items():
        config = run.made.get(name, {}).get("config", {})
        ways = (("up", each.traces.get("max")), ("down", each.traces.get("min")))
        found = ", ".join(f"{len(of['trace'])} chains of {len(of['trace'][0])} cycles {way}" for way, of in ways if of)
        lines.append(
            f"{name}: {found}, {config.get('steps', '?')} steps a cycle, {len(each.data)} structures labelled."
        )
    return " ".join(lines) + " `python -m gpuion.paper RUN` draws all of this."


def errors_table(numbers: dict[str, Any]) -> str:
    """Return the errors of every network on every part."""
    rows = [
        [kind, STAGES[k] if len(stages) > 1 else "–", part, str(of["structures"]), f"{of['mse']:.3g}",
         f"{of['mape']:.3g}", f"{of['r']:.4f}"]
        for kind, stages in numbers["errors"].items() for k, stage in enumerate(stages) for part, of in stage.items()
    ]  # fmt: skip
    return table(("network", "stage", "structures", "number", "MSE", "MAPE, %", "R"), rows) if rows else ""


def two_point_table(numbers: dict[str, Any]) -> str:
    """Return what each two-point function tells of D."""
    rows = [
        [name, *(f"{100 * share:.0f}%, {r:.2f}" for share, r in zip(of["share"], of["r"], strict=True)),
         f"{of['test']['mape']:.1f}", f"{of['test']['r']:.3f}", str(of["structures"])]
        for name, of in numbers["two_point"].items()
    ]  # fmt: skip
    head = ("function", "PC1: share, R with D", "PC2", "regression's test MAPE, %", "its R", "structures")
    return table(head, rows) if rows else ""


def cost_table(numbers: dict[str, Any]) -> str:
    """Return what one structure costs by each way, and against the exact solve."""
    seconds = {row["what"]: row["seconds"] for row in numbers["cost"]}
    solve = seconds.get("exact solve")
    rows = [
        [row["what"], f"{row['seconds']:.3g}", f"{row['seconds'] / solve:.3g}" if solve else "–",
         "–" if row["error"] is None else f"{row['error']:.2g}"]
        for row in numbers["cost"]
    ]  # fmt: skip
    return table(("way", "processor time, s", "times the exact solve", "off by, %"), rows) if rows else ""


if __name__ == "__main__":
    run_script(main)
