"""Figures of several searches beside each other; needs matplotlib.

Legend: n structures, C chains, T cycles, K bins of r. Each function returns a matplotlib Figure of its own.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from gpuion.plots import BLUE, DOWN, GRAY, GREEN, UP, figure_of, legend, spread, style

_LINES = {
    "data, highest": (UP, "--"),
    "found, highest": (UP, "-"),
    "data, lowest": (DOWN, "--"),
    "found, lowest": (DOWN, "-"),
}


_COLORS = (UP, BLUE, GREEN, GRAY, "#E69F00", "#CC79A7", "#56B4E9")


def searches(groups: Mapping[str, np.ndarray]) -> Any:
    """Return a strip of exact D* a search, on a logarithmic axis, with the first one's extremes as lines.

    Parameters
    ----------
    groups : mapping of str to float [n]
        The data first.
    """
    with style():
        figure, axes = figure_of(7.6, 1.0 + 0.42 * len(groups))
        first = next(iter(groups.values()))
        for row, D in enumerate(groups.values()):
            height = row + 0.6 * ((np.arange(len(D)) * 0.6180339887) % 1 - 0.5)
            beyond, below = first.max() < D, first.min() > D
            for some, color in ((beyond, UP), (below, DOWN), (~(beyond | below), GRAY)):
                axes.plot(D[some], height[some], "o", color=color, ms=4, mew=0, alpha=0.6, rasterized=len(D) > 1500)
        for end in (first.max(), first.min()):
            axes.axvline(end, color="black", lw=1, ls="--", zorder=0)
        axes.axvline(1.413, color=GREEN, lw=1.4, ls=":", zorder=0)
        axes.annotate("paper's best", (1.413, -0.72), ha="center", fontsize=8.5, color=GREEN,
                      annotation_clip=False)  # fmt: skip
        axes.set_xscale("log")
        axes.set_yticks(range(len(groups)), [f"{name} ({len(D)})" for name, D in groups.items()])
        axes.set_ylim(len(groups) - 0.4, -0.9)
        axes.grid(visible=False, axis="y")
        ticks = (0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 1.4, 2.0)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.xaxis.minorticks_off()
        axes.set_xlabel("exact D*  (1 = best of the data)")
        return figure


def chains(runs: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Any:
    """Return D* of the current structures and the acceptance over the cycles of annealing, a colour a search.

    Parameters
    ----------
    runs : mapping of str to mapping of "max", "min" to traces
        As in traces.json of anneal.py: `trace` and `acceptance`, [C, T].
    """
    with style():
        figure, _ = figure_of(10.6, 3.6)
        figure.clear()
        for number, (name, text) in enumerate(
            (("trace", "D*, as scored"), ("acceptance", "share of proposals accepted"))
        ):
            axes = figure.add_subplot(1, 2, number + 1)
            for (run, ways), color in zip(runs.items(), itertools.cycle(_COLORS), strict=False):
                for way, traces in ways.items():
                    values = np.array(traces[name])
                    for k, chain in enumerate(values):
                        axes.plot(
                            np.arange(1, len(chain) + 1), chain, color=color, alpha=0.75, lw=1.1,
                            ls="-" if way == "max" else "--",
                            label=f"{run}, {'up' if way == 'max' else 'down'}" if not k else None,
                        )  # fmt: skip
            axes.set(xlabel="cycle", ylabel=text)
            axes.set_ylim(bottom=0)
            axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0))
        figure.tight_layout()
        return figure


def predicted(points: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Any:
    """Return exact and predicted D* of the structures that each search labelled, float [n] each, with the diagonal."""
    limits = spread([values for both in points.values() for values in both])
    with style():
        figure, axes = figure_of(4.9, 4.8)
        axes.plot(limits, limits, color=GRAY, lw=1, zorder=1)
        for (name, (true, guess)), color in zip(points.items(), itertools.cycle(_COLORS), strict=False):
            axes.plot(true, guess, "o", color=color, ms=4.5, mew=0, alpha=0.6, label=name)
        axes.set(xlabel="exact D*  (1 = best of the data)", ylabel="predicted D*", xlim=limits, ylim=limits)
        axes.set_aspect("equal")
        legend(axes, loc="upper left")
        return figure


def pairs(curves: Mapping[str, np.ndarray], *, touch: float) -> Any:
    """Return g(r) of single structures, float [K], r = 0, 1, …, with a line where two coronas touch."""
    with style():
        figure, axes = figure_of(6.4, 3.8)
        for name, g in curves.items():
            color, line = _LINES.get(name, (GRAY, "-"))
            axes.plot(np.arange(len(g)), g, "o", ms=3, color=color, ls=line, label=name)
        axes.axvline(touch, color="black", lw=1, ls=":", zorder=0, label="coronas touch")
        axes.set(xlabel="r  (voxels)", ylabel="g(r)")
        axes.set_ylim(bottom=0)
        legend(axes, loc="best")
        return figure


def pictures(shown: Mapping[str, np.ndarray]) -> Any:
    """Return pictures, uint8 [height, width, 3], side by side under their names."""
    with style():
        figure, _ = figure_of(3.2 * len(shown), 3.4)
        figure.clear()
        for number, (name, image) in enumerate(shown.items()):
            axes = figure.add_subplot(1, len(shown), number + 1)
            axes.imshow(image, interpolation="antialiased")
            axes.set_title(name)
            axes.set_axis_off()
        figure.tight_layout()
        return figure
