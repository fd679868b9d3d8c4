"""Figures of models: error by training-set size and by family, predictions, loss curves, gradients; needs matplotlib.

Legend: n structures, N spheres. Each function but `write` returns a matplotlib Figure of its own.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpuion import files
from gpuion.errors import DatasetError
from gpuion.panels import png
from gpuion.plots import GRAY, figure_of, legend, style
from gpuion.render import PALETTE

BLUE, ORANGE, GREEN, PINK, SKY, RED, _ = PALETTE
MARKS = {
    "network": (RED, "o"), "graph": (ORANGE, "s"), "ridge": (SKY, "^"), "pairs": (BLUE, "v"), "nearest": (GRAY, "X"),
    "periodic": (GREEN, "D"), "tiled": (PINK, "P"), "zero": ("#22262B", "*"),
}  # fmt: skip


def write(folder: Path, results: Sequence[dict[str, Any]], homes: Sequence[Path]) -> None:
    """Write pictures of what `gpuion.evaluate` found of some checkpoints on the first of their data sets.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    results : sequence of dict
        What evaluate's JSON file holds under "results".
    homes : sequence of Path
        The folder of each checkpoint, where train.py left history.jsonl.
    """
    folder.mkdir(parents=True, exist_ok=True)
    whole = largest(results)
    most = max(result["trained_on"] or 0 for result in results)
    found = {
        name if (n := rows[0]["trained_on"] or most) == most else f"{name} ({n})": [row["results"][0] for row in rows]
        for name, rows in whole.items()
    }
    figures = {
        "families": families({name: [row["families"] for row in rows] for name, rows in found.items()}),
        "parity": parity({name: (rows[0]["true"], rows[0]["predicted"]) for name, rows in found.items()}),
    }
    sizes: dict[str, dict[int, list[float]]] = {}
    for result in results:
        if result["trained_on"]:
            of = sizes.setdefault(result["model"], {})
            of.setdefault(result["trained_on"], []).append(result["results"][0]["mape"])
    if any(len(of) > 1 for of in sizes.values()):
        figures["learning"] = learning({name: of for name, of in sizes.items() if len(of) > 1})
    kept = [result for rows in whole.values() for result in rows]
    histories = [(x["model"], _history(home)) for x, home in zip(results, homes, strict=True) if x in kept]
    if any(len(rows) > 1 for _, rows in histories):
        figures["losses"] = losses([(name, rows) for name, rows in histories if len(rows) > 1])
    for name, figure in figures.items():
        with files.atomic(folder / f"{name}.png") as partial:
            partial.write_bytes(png(figure))


def largest(results: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return by model the results of the checkpoints that were trained on the most structures."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in dict.fromkeys(result["model"] for result in results):
        same = [result for result in results if result["model"] == name]
        most = max(result["trained_on"] or 0 for result in same)
        found[name] = [result for result in same if (result["trained_on"] or 0) == most]
    return found


def _mark(name: str) -> tuple[str, str]:
    """Return colour and marker of a model; behind its name may stand how many structures it was trained on."""
    return MARKS.get(name.split(" ", maxsplit=1)[0], ("black", "."))


def _history(home: Path) -> list[dict[str, Any]]:
    path = home / "history.jsonl"
    try:
        return [dict(json.loads(line)) for line in files.read_text(path).splitlines()] if path.exists() else []
    except (ValueError, TypeError, RecursionError) as error:
        raise DatasetError(f"{path}: expected a JSON object a line, found: {error}") from None


def learning(sizes: Mapping[str, Mapping[int, Sequence[float]]]) -> Any:
    """Return MAPE over the number of training structures, a point for each seed, a line through their means.

    Parameters
    ----------
    sizes : mapping of str to mapping of int to floats
        By model and number of training structures, MAPE in per cent.
    """
    with style():
        figure, axes = figure_of(5.6, 4.2)
        for name, of in sizes.items():
            color, mark = _mark(name)
            n = np.array(sorted(of))
            axes.plot(n, [np.mean(of[k]) for k in n], "-", color=color, lw=1.4)
            points = np.array([(k, value) for k in n for value in of[k]])
            axes.plot(points[:, 0], points[:, 1], mark, color=color, ms=6, mew=0, alpha=0.8, label=name)
        axes.set_xscale("log")
        axes.set_yscale("log")
        ticks = sorted({k for of in sizes.values() for k in of})
        axes.set_xticks(ticks, [str(k) for k in ticks])
        axes.xaxis.minorticks_off()
        plain(axes.yaxis)
        axes.set(xlabel="training structures", ylabel="MAPE of D* on the test part  (%)")
        legend(axes, loc="best")
        return figure


def families(errors: Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]]) -> Any:
    """Return the MAPE of each model in each family, a point for each seed.

    Parameters
    ----------
    errors : mapping of str to sequence of mapping
        By model, for each checkpoint, the measures of each family.
    """
    with style():
        names = sorted({family for rows in errors.values() for row in rows for family in row})
        figure, axes = figure_of(6.4, 0.9 + 0.55 * len(names))
        for k, (name, rows) in enumerate(errors.items()):
            color, mark = _mark(name)
            for row in rows:
                height = [names.index(family) + 0.5 * (k / max(1, len(errors) - 1) - 0.5) for family in row]
                axes.plot(
                    [of["mape"] for of in row.values()], height, mark, color=color, ms=6, mew=0, alpha=0.8,
                    label=name if row is rows[0] else None,
                )  # fmt: skip
        axes.set_xscale("log")
        plain(axes.xaxis)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel("MAPE of D*  (%)")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        return figure


def parity(found: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Any:
    """Return predicted over exact D* of each model, side by side on the same logarithmic axes.

    Parameters
    ----------
    found : mapping of str to (floats [n], floats [n])
        By model, exact and predicted D*.
    """
    with style():
        columns = min(3, len(found))
        lines = -(-len(found) // columns)
        figure, _ = figure_of(2.9 * columns, 2.8 * lines)
        figure.clear()
        exact = np.concatenate([true for true, _ in found.values()])
        low, high = exact.min() / 1.4, exact.max() * 1.4
        first = None
        for number, (name, (true, predicted)) in enumerate(found.items()):
            axes = figure.add_subplot(lines, columns, number + 1, sharex=first, sharey=first)
            first = first or axes
            axes.plot([low, high], [low, high], color=GRAY, lw=1, zorder=1)
            shown = np.clip(predicted, low, high)
            axes.plot(true, shown, "o", color=_mark(name)[0], ms=2.5, mew=0, alpha=0.5)
            axes.set(title=name, xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
            axes.set_aspect("equal")
            axes.label_outer()
            axes.tick_params(labelbottom=number + columns >= len(found))  # nothing stands below it
            for axis in (axes.xaxis, axes.yaxis):
                plain(axis)
        figure.supxlabel("exact D*  (1 = best structure of the data)", fontsize=10)
        figure.supylabel("predicted D*", fontsize=10)
        figure.tight_layout()
        return figure


def losses(histories: Sequence[tuple[str, Sequence[Mapping[str, float]]]]) -> Any:
    """Return mean squared error over epochs: of training batches as they were met, dashed, and on the validation part.

    Parameters
    ----------
    histories : sequence of (str, sequence of mapping)
        Model, and the lines of its history.jsonl; one entry for each seed.
    """
    with style():
        figure, axes = figure_of(6.4, 4.2)
        seen = set()
        for name, rows in histories:
            color, _ = _mark(name)
            epoch = [row["epoch"] + 1 for row in rows]
            label = None if name in seen else name
            seen.add(name)
            axes.plot(epoch, [row["mse"] for row in rows], "-", color=color, lw=1.5, label=label)
            axes.plot(epoch, [row["loss"] for row in rows], "--", color=color, lw=0.9)
        axes.set_yscale("log")
        axes.set(xlabel="epoch", ylabel="MSE of D*  (validation: solid, training: dashed)")
        legend(axes, loc="best")
        return figure


def arrows(
    centers: np.ndarray, gradients: Mapping[str, np.ndarray], *, box: float, diameter: float,
    saliency: np.ndarray | None = None,
) -> Any:  # fmt: skip
    """Return the spheres of a structure from above with gradients as arrows, a panel for each, and a map of voxels.

    Parameters
    ----------
    centers : float [N, 3]
        Voxels.
    gradients : mapping of str to float [N, 3]
        Of ln D in the centres; each panel's arrows are scaled to its own root mean square.
    box, diameter : float
        Voxels.
    saliency : float [V, V, V], optional
        Gradient of ln D in the voxels of the image; its mean over z is shown.
    """
    from matplotlib.patches import Circle

    with style():
        columns = min(3, panels := len(gradients) + (saliency is not None))
        lines = -(-panels // columns)
        figure, _ = figure_of(4.1 * columns, 4.2 * lines)
        figure.clear()
        for number, (title, of) in enumerate(gradients.items()):
            axes = figure.add_subplot(lines, columns, number + 1)
            for x, y in centers[:, :2]:
                axes.add_patch(Circle((x, y), diameter / 2, color=GRAY, alpha=0.15, lw=0))
            scale = 4.0 / np.sqrt(np.square(of).sum(1).mean())
            axes.quiver(
                centers[:, 0], centers[:, 1], of[:, 0] * scale, of[:, 1] * scale, angles="xy", scale_units="xy",
                scale=1, width=0.006, color=_mark(title)[0],
            )  # fmt: skip
            axes.set(title=title, xlabel="x  (voxels)", ylabel="y  (voxels)", xlim=(0, box), ylim=(0, box))
            axes.set_aspect("equal")
        if saliency is not None:
            axes, mean = figure.add_subplot(lines, columns, panels), saliency.mean(2).T
            top, extent = np.abs(mean).max(), (0.0, box, 0.0, box)
            drawn = axes.imshow(mean, origin="lower", extent=extent, cmap="PuOr", vmin=-top, vmax=top)
            axes.set(title="voxels of the image, mean over z", xlabel="x  (voxels)", ylabel="y  (voxels)")
            axes.grid(visible=False)
            figure.colorbar(drawn, ax=axes, fraction=0.046, pad=0.03, label="∂ ln D* / ∂ voxel")
        figure.tight_layout()
        return figure


def plain(axis: Any, digits: Sequence[int] = (1, 2, 5)) -> None:
    """Label a logarithmic axis with plain numbers that begin with these digits."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    axis.set_major_locator(FixedLocator(np.outer(10.0 ** np.arange(-9, 5), digits).ravel().tolist()))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
