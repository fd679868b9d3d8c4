"""Figures of a data set: D by range of chaining, pair distributions, what the lattice costs; needs matplotlib.

Legend: n structures, K bins of r. Each function returns a matplotlib Figure of its own.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpuion.plots import BLUE, DOWN, GRAY, GREEN, RED, UP, figure_of, legend, style

COLORS = {"random": GRAY, "chained": GREEN, "gapped": BLUE, "lowest tenth of D": DOWN, "highest tenth of D": UP}


def ranges(groups: Mapping[tuple[float, float], np.ndarray]) -> Any:
    """Return D of chained structures over the range of distances they were chained in, and of random ones as a band.

    Parameters
    ----------
    groups : mapping of (lo, hi) to float [n]
        Mean diffusivities; those of random structures under (0, 0).
    """
    with style():
        figure, axes = figure_of(6.4, 3.8)
        plain = groups.get((0.0, 0.0))
        if plain is not None:
            axes.axhspan(*np.quantile(plain, (0.1, 0.9)), color=GRAY, alpha=0.18, lw=0, label="random, middle 80%")
        for k, ((low, high), D) in enumerate((pair, D) for pair, D in groups.items() if pair != (0.0, 0.0)):
            least, lower, middle, upper, most = np.quantile(D, (0.0, 0.1, 0.5, 0.9, 1.0))
            center, first = (low + high) / 2, not k
            axes.plot([center] * 2, [least, most], color=GREEN, lw=1, label="all" if first else None)
            axes.fill_between(
                [low, high], lower, upper, color=GREEN, alpha=0.35, lw=0, label="middle 80%" if first else None
            )
            axes.plot([low, high], [middle] * 2, color=GREEN, lw=2.4, label="median" if first else None)
        axes.set(xlabel="range of a sphere's distance to its parent  (voxels, centre to centre)")
        axes.set_ylabel("mean diffusivity D  (units of $D_{ref}$)")
        axes.set_ylim(bottom=0)
        legend(axes, loc="best")
        return figure


def pairs(radius: np.ndarray, curves: Mapping[str, np.ndarray], *, touch: float) -> Any:
    """Return pair distributions g(r), by family and for the extremes of D, on two axes side by side.

    Parameters
    ----------
    radius : float [K]
        Voxels.
    curves : mapping of str to float [K]
    touch : float
        Where two coronas touch, voxels.
    """
    with style():
        figure, _ = figure_of(9.0, 3.6)
        figure.clear()
        families = {name: g for name, g in curves.items() if "tenth" not in name}
        extremes = {name: g for name, g in curves.items() if "tenth" in name}
        for number, (title, some) in enumerate((("By family", families), ("By diffusivity", extremes))):
            axes = figure.add_subplot(1, 2, number + 1)
            for name, g in some.items():
                axes.plot(radius, g, "o-", ms=3, color=COLORS.get(name, RED), label=name)
            axes.axhline(1.0, color="black", lw=0.8, zorder=0)
            axes.axvline(touch, color="black", lw=1, ls="--", zorder=0, label="coronas touch")
            axes.set(title=title, xlabel="r  (voxels)", ylabel="g(r)")
            axes.set_ylim(bottom=0)
            legend(axes, loc="best")
        figure.tight_layout()
        return figure


def lattice(cells: Sequence[Mapping[str, Any]]) -> Any:
    """Return the change of D with the resolution over D at one site a voxel, by family.

    Parameters
    ----------
    cells : sequence of what `survey.compare` returns
    """
    with style():
        figure, _ = figure_of(3.4 * len(cells), 3.6)
        figure.clear()
        first = None
        for number, cell in enumerate(cells):
            axes = figure.add_subplot(1, len(cells), number + 1, sharey=first)
            first = first or axes
            for family in sorted(set(cell["family"])):
                of = cell["family"] == family
                axes.plot(
                    cell["before"][of], cell["change"][of], "o", ms=5, mew=0, alpha=0.75,
                    color=COLORS.get(family, RED), label=family,
                )  # fmt: skip
            axes.axhline(0.0, color="black", lw=0.8, zorder=0)
            axes.set(title=f"{cell['sites']} sites a voxel against 1", xlabel="D at 1 site a voxel")
            if not number:
                axes.set_ylabel("change of D  (%)")
                legend(axes, loc="best")
        figure.tight_layout()
        return figure


def png(figure: Any, dpi: int = 110, colors: int = 0) -> bytes:
    """Return a figure as PNG without a date, equal figures as equal bytes; of so many colours, if given."""
    stream = io.BytesIO()
    with style():
        figure.savefig(stream, format="png", bbox_inches="tight", pad_inches=0.06, dpi=dpi, metadata={"Software": None})
    if not colors:
        return stream.getvalue()
    from PIL import Image  # matplotlib needs it, too

    few = io.BytesIO()
    Image.open(stream).convert("RGB").quantize(colors).save(few, format="png", optimize=True)
    return few.getvalue()
