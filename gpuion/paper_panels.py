"""Figures of a paper: families, predictions, annealing, g(r) and its components, errors, cost; needs matplotlib.

Legend: n structures, C chains, T cycles, K bins of r. Each function returns a matplotlib Figure of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpuion.markup import number
from gpuion.model_panels import MARKS, plain
from gpuion.panels import COLORS
from gpuion.plots import BLUE, DOWN, GRAY, UP, figure_of, legend, style
from gpuion.render import PALETTE

FAMILIES = {**COLORS, "annealed-max": UP, "annealed-min": PALETTE[3]}
NAMES = {"nearest": "nearest distance", "pairs": "g(r)", "periodic": "CNN, periodic", "tiled": "CNN, tiled",
         "zero": "CNN, zero padding", "network": "network of resistors"}  # fmt: skip
_UNIT = "exact D*  (D over the best of the data)"
_MANY = 800  # points beyond which a PDF holds them as pixels


def grid(rows: int, columns: int, width: float, height: float, **shared: Any) -> tuple[Any, Any]:
    """Return a figure of panels and the panels, [rows, columns]; `width` and `height` are of one, inches."""
    figure, _ = figure_of(width * columns, height * rows)
    figure.clear()
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def histograms(groups: Mapping[str, np.ndarray]) -> Any:
    """Return how many structures of each family have which D*, a panel a family, on one axis.

    Parameters
    ----------
    groups : mapping of str to float [n]
        D* by family.
    """
    with style():
        figure, panels = grid(len(groups), 1, 6.4, 1.15, sharex=True)
        edges = np.linspace(0, 1.02 * max(D.max() for D in groups.values()), 61)
        for axes, (name, D) in zip(panels[:, 0], groups.items(), strict=True):
            axes.hist(D, edges, color=FAMILIES.get(name, GRAY))
            axes.axvline(np.median(D), color="black", lw=1.2, ls="--")
            axes.set_title(f"{name} ({len(D)})", fontsize=9, fontweight="normal", pad=2)
            axes.yaxis.get_major_locator().set_params(integer=True, nbins=3)
        panels[-1, 0].set_xlabel(_UNIT)
        figure.supylabel("structures in a bin", fontsize=10)
        figure.tight_layout(h_pad=0.3)
        return figure


def parity(
    rows: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]], texts: Mapping[tuple[str, str], str]
) -> Any:
    """Return predicted over exact D*, a panel for each row and column, on the same logarithmic axes.

    Parameters
    ----------
    rows : mapping of str to mapping of str to (float [n], float [n])
        By row and column, exact and predicted D*.
    texts : mapping of (str, str) to str
        What to write into a panel.
    """
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    true = np.concatenate([pair[0] for row in rows.values() for pair in row.values()])
    low, high = true.min() / 1.5, true.max() * 1.5
    with style():
        figure, panels = grid(len(rows), len(columns), 2.5, 2.5, sharex=True, sharey=True)
        for line, (row, of) in zip(panels, rows.items(), strict=True):
            for axes, column in zip(line, columns, strict=True):
                if column not in of:
                    axes.set_axis_off()
                    continue
                _against(axes, *of[column], (low, high), texts.get((row, column), ""))
                axes.set_title(f"{NAMES.get(column, column)}\n{row}", fontsize=9)
        figure.supxlabel(_UNIT, fontsize=10)
        figure.supylabel("predicted D*", fontsize=10)
        figure.tight_layout()
        return figure


def _against(axes: Any, exact: np.ndarray, found: np.ndarray, limits: tuple[float, float], text: str) -> None:
    """Draw predicted over exact values, those beyond the limits at these, and a text in the lower corner."""
    axes.plot(limits, limits, color=GRAY, lw=1, zorder=1)
    axes.plot(exact, np.clip(found, *limits), "o", color=BLUE, ms=2.4, mew=0, alpha=0.45, rasterized=len(exact) > _MANY)
    axes.annotate(
        text, (0.97, 0.03), xycoords="axes fraction", ha="right", fontsize=7.5,
        bbox={"fc": "white", "alpha": 0.7, "lw": 0, "pad": 1},
    )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits)
    axes.tick_params(labelsize=8.5)
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        plain(axis, (1, 3))


def chains(
    rows: Mapping[str, Mapping[str, np.ndarray]], *, label: str, labels: Mapping[str, str] | None = None,
    marks: Mapping[str, float] | None = None, mean: bool = False,
) -> Any:  # fmt: skip
    """Return a quantity over the cycles, a line a chain: a row of panels for each annealing, up beside down.

    Parameters
    ----------
    rows : mapping of str to mapping of str to float [C, T]
        By name of the annealing and direction, "max" or "min".
    label : str
        Of the vertical axes.
    labels : mapping of str to str, optional
        By name of the annealing, of those whose axes have another.
    marks : mapping of str to float, optional
        Texts of horizontal lines and where they lie.
    mean : bool
        Whether the chains' mean is drawn, too.
    """
    ways = {"max": ("maximising", UP), "min": ("minimising", BLUE)}
    with style():
        figure, panels = grid(len(rows), 2, 4.2, 2.9)
        for line, (name, of) in zip(panels, rows.items(), strict=True):
            for axes, (way, (text, color)) in zip(line, ways.items(), strict=True):
                values = of.get(way)
                if values is None or not values.size:
                    axes.set_axis_off()
                    continue
                cycle = np.arange(1, values.shape[1] + 1)
                axes.plot(cycle, values.T, color=color, lw=0.9, alpha=0.65)
                if mean:
                    axes.plot(cycle, values.mean(0), color="black", lw=1.8, label=f"mean of {len(values)} chains")
                    legend(axes, "best")
                top = float(values.max())
                for said, value in (marks or {}).items():
                    if way == "max" or value <= 1.15 * values.max():  # what is to be beaten is in sight
                        top = max(top, value)
                        axes.axhline(value, color="black", lw=1, ls="--", zorder=1)
                        axes.annotate(said, (0.99, value), xycoords=("axes fraction", "data"), xytext=(0, 3),
                                      textcoords="offset points", ha="right", fontsize=8.5)  # fmt: skip
                axes.set(title=f"{name}: {text}, {len(values)} chains", xlabel="cycle",
                         ylabel=(labels or {}).get(name, label))  # fmt: skip
                axes.set_ylim(0, 1.13 * top)
                axes.xaxis.get_major_locator().set_params(integer=True)
        figure.tight_layout()
        return figure


def snapshots(rows: Mapping[str, Sequence[tuple[str, np.ndarray]]]) -> Any:
    """Return pictures, uint8 [height, width, 3], under their texts, a line for each row."""
    with style():
        figure, panels = grid(len(rows), max(map(len, rows.values())), 2.3, 2.65)
        for line, (name, shown) in zip(panels, rows.items(), strict=True):
            for axes in line:
                axes.set_axis_off()
            for axes, (text, picture) in zip(line, shown, strict=False):
                axes.imshow(picture, interpolation="antialiased")
                axes.set_title(text, fontsize=9, loc="center", fontweight="normal")
            line[0].annotate(name, (-0.06, 0.5), xycoords="axes fraction", rotation=90, va="center", ha="center")
        figure.tight_layout(pad=0.3)
        return figure


def components(
    scores: np.ndarray, d_star: np.ndarray, annealed: np.ndarray, share: Sequence[float], weights: np.ndarray,
    pearson: Sequence[float],
) -> Any:  # fmt: skip
    """Return the first two principal components of g(r) with D* as colour, D* over the first, and their weights over r.

    Parameters
    ----------
    scores : float [n, 2]
    d_star : float [n]
    annealed : bool [n]
        Those that annealing met have another marker.
    share, pearson : float [2]
        Of the variance, and R with D*.
    weights : float [2, K]
    """
    with style():
        figure, panels = grid(1, 3, 3.9, 3.4)
        first, second, third = panels[0]
        names = [f"PC{k + 1}  ({100 * share[k]:.0f}% of the variance)" for k in range(2)]
        drawn = None
        for some, mark, size, text in ((~annealed, "o", 6, "placed"), (annealed, "^", 16, "annealed")):
            if some.any():
                drawn = first.scatter(
                    scores[some, 0], scores[some, 1], c=d_star[some], marker=mark, s=size, lw=0, cmap="viridis", vmin=0,
                    vmax=d_star.max(), rasterized=some.sum() > _MANY, label=text,
                )  # fmt: skip
                second.plot(scores[some, 0], d_star[some], mark, color=GRAY if mark == "o" else UP, ms=size**0.5, mew=0,
                            alpha=0.5, rasterized=some.sum() > _MANY, label=text)  # fmt: skip
        figure.colorbar(drawn, ax=first, label="exact D*", fraction=0.05, pad=0.02)
        first.set(xlabel=names[0], ylabel=names[1])
        second.set(xlabel=names[0], ylabel=_UNIT, title=f"R with D*: PC1 {pearson[0]:+.2f}, PC2 {pearson[1]:+.2f}")
        legend(second, "best")
        for k, (color, line) in enumerate(((BLUE, "-"), (PALETTE[1], "--"))):
            third.plot(np.arange(weights.shape[1]), weights[k], line, marker="o", ms=3, color=color, label=f"PC{k + 1}")
        third.axhline(0, color="black", lw=0.8, zorder=0)
        third.set(xlabel="r  (voxels)", ylabel="weight of g(r)")
        legend(third, "best")
        figure.tight_layout(w_pad=3)  # the colour bar's label is no part of the panel beside it
        return figure


def errors(rows: Mapping[str, Mapping[str, Mapping[str, float]]], paper: Mapping[str, float]) -> Any:
    """Return MSE and MAPE of each network on the training and on the test part, the paper's CNN as lines.

    Parameters
    ----------
    rows : mapping of str to mapping of str to measures
        By network and part, "training" and "test".
    paper : mapping of str to float
        The paper's test errors under "mse" and "mape".
    """
    with style():
        figure, panels = grid(1, 2, 4.4, 1.2 + 0.42 * len(rows), sharey=True)
        for axes, (key, text) in zip(panels[0], (("mse", "MSE of D*"), ("mape", "MAPE of D*  (%)")), strict=True):
            for part, mark, color in (("training", "s", PALETTE[1]), ("test", "o", BLUE)):
                found = [(of[part][key], k) for k, of in enumerate(rows.values()) if part in of]
                axes.plot(*zip(*found, strict=True), mark, color=color, ms=7, mew=0, label=part)
            axes.axvline(paper[key], color=GRAY, ls=":", lw=1.4, label="the paper's CNN, test", zorder=0)
            axes.set(xscale="log", xlabel=text)
            axes.set_yticks(range(len(rows)), [NAMES.get(name, name) for name in rows])
            axes.set_ylim(len(rows) - 0.5, -0.5)
        plain(panels[0, 1].xaxis)
        panels[0, 1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        figure.tight_layout()
        return figure


def two_point(found: Mapping[str, Mapping[str, Any]]) -> Any:
    """Return two-point functions, the mean over the structures of highest and lowest D, a panel each.

    Parameters
    ----------
    found : mapping of str to mapping
        By function, as `paper_numbers.two_point` gives them.
    """
    with style():
        columns = min(2, len(found))
        figure, panels = grid(-(-len(found) // columns), columns, 4.3, 2.9)
        for axes, (name, of) in zip(panels.flat, found.items(), strict=False):
            for key, color, line, text in (
                ("high", UP, "-", "highest tenth of D"),
                ("low", DOWN, "--", "lowest tenth"),
            ):
                axes.plot(np.arange(len(of[key])), of[key], line, marker="o", ms=3, color=color, label=text)
            axes.set(xlabel="r  (voxels)", ylabel=name)
            axes.set_title(f"|R| of PC1 {of['r'][0]:.2f}; regression {of['test']['mape']:.0f}% off", fontsize=9.5)
        for axes in list(panels.flat)[len(found) :]:
            axes.set_axis_off()
        legend(panels.flat[0], "best")
        figure.tight_layout()
        return figure


def cost(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return the processor time of one structure by each way to its D, with what that is off by.

    Parameters
    ----------
    rows : sequence of mapping
        As `paper_numbers.cost` gives them.
    """
    with style():
        figure, axes = figure_of(6.6, 0.9 + 0.42 * len(rows))
        for k, row in enumerate(rows):
            color, _ = MARKS.get(row["what"], ("black", ""))
            axes.barh(k, row["seconds"], 0.62, color=color, left=0)
            said = "" if row["error"] is None else f", {number(row['error'], 2)}% off"
            axes.annotate(f" {row['seconds']:.2g} s{said}", (row["seconds"], k), va="center", fontsize=9)
        low, high = min(row["seconds"] for row in rows), max(row["seconds"] for row in rows)
        axes.set(xscale="log", xlim=(low / 2, high * 60), xlabel="processor time of one structure  (s)")
        axes.set_yticks(range(len(rows)), [NAMES.get(row["what"], row["what"]) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        plain(axes.xaxis, (1,))
        return figure
