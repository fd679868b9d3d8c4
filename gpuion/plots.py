"""Figures of diffusivities, predictions and annealing; needs matplotlib, the extra `plot`.

Legend: n structures, C chains, T cycles. Diffusivities are in units of the bulk solvent's, D* in units of the
best of the original data. Each function returns a matplotlib Figure of its own; nothing is shown or shared.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpuion.render import PALETTE
from gpuion.slopes import AHEAD

BLUE, _, GREEN, _, _, RED, _ = PALETTE
UP, DOWN, TEST, GRAY = RED, BLUE, GREEN, "#5F6670"
Points = tuple[np.ndarray, np.ndarray, str]
"""Exact and predicted values, float [n], and a colour."""
_MANY = 1500  # points beyond which an SVG holds them as pixels
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "font.size": 10, "axes.titlesize": 10.5, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GRAY,
    "axes.labelcolor": "#22262B", "xtick.color": "#3C424A", "ytick.color": "#3C424A", "axes.grid": True,
    "grid.color": "#E6E8EB", "grid.linewidth": 0.8, "axes.axisbelow": True, "legend.frameon": False,
    "legend.fontsize": 9, "svg.hashsalt": "gpuion", "figure.dpi": 100, "lines.linewidth": 1.4,
}  # fmt: skip


def families(groups: Mapping[str, np.ndarray], *, best: float, worst: float) -> Any:
    """Return a strip per family of structures, with its median, over D; best and worst of the data as lines.

    Parameters
    ----------
    groups : mapping of str to float [n]
        Mean diffusivity of the structures of each family, top to bottom.
    best, worst : float
        The extremes of the original data.
    """
    with style():
        figure, axes = figure_of(7.4, 0.9 + 0.42 * len(groups))
        for row, (name, D) in enumerate(groups.items()):
            color = UP if name == "annealed-max" else DOWN if name == "annealed-min" else GRAY
            # A golden-ratio sequence spreads the points evenly without chance.
            height = row + 0.6 * ((np.arange(len(D)) * 0.6180339887) % 1 - 0.5)
            axes.plot(
                D, height, "o", color=color, ms=4, mew=0, alpha=_alpha(len(D)), rasterized=len(D) > _MANY
            )  # fmt: skip
            axes.plot([np.median(D)] * 2, [row - 0.38, row + 0.38], color="black", lw=2, solid_capstyle="butt")
        axes.axvline(best, color=UP, lw=1, ls="--", zorder=0)
        axes.axvline(worst, color=DOWN, lw=1, ls="--", zorder=0)
        axes.set_yticks(range(len(groups)), [f"{name} ({len(D)})" for name, D in groups.items()])
        axes.set_ylim(len(groups) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        _maybe_log(axes, np.concatenate(list(groups.values())))
        axes.set_xlabel("mean diffusivity D  (units of the bulk solvent's $D_{ref}$)")
        return figure


def parity(groups: Mapping[str, Points], *, title: str, limits: tuple[float, float]) -> Any:
    """Return predicted against exact D* with the diagonal.

    Parameters
    ----------
    groups : mapping of str to Points
        Exact and predicted D* under each legend text.
    title : str
    limits : (float, float)
        Of both axes, so that panels compare.
    """
    with style():
        figure, axes = figure_of(4.5, 4.4)
        axes.plot(limits, limits, color=GRAY, lw=1, zorder=1)
        for (name, (true, predicted, color)), marker in zip(groups.items(), "o^sDv", strict=False):
            axes.plot(
                true, predicted, marker, color=color, ms=4.5, mew=0, alpha=_alpha(len(true)), label=name,
                rasterized=len(true) > _MANY,
            )  # fmt: skip
        axes.set(title=title, xlabel="exact D*  (1 = best placed structure)", ylabel="predicted D*")
        axes.set_xlim(limits)
        axes.set_ylim(limits)
        axes.set_aspect("equal")
        legend(axes, loc="upper left")
        return figure


def trace(runs: Mapping[str, np.ndarray], *, title: str, label: str, marks: Mapping[str, float] | None = None) -> Any:
    """Return a quantity over the cycles of annealing, one line a chain.

    Parameters
    ----------
    runs : mapping of str to float [C, T]
        Under "max" the chains that go up, under "min" those that go down.
    title, label : str
        Of the figure and of the vertical axis.
    marks : mapping of str to float, optional
        Texts of horizontal lines and where they lie.
    """
    with style():
        figure, axes = figure_of(4.5, 3.5)
        names = {"max": ("maximising", UP), "min": ("minimising", DOWN)}
        for direction, values in runs.items():
            text, color = names[direction]
            cycle = np.arange(1, values.shape[1] + 1)
            for k, chain in enumerate(values):
                axes.plot(
                    cycle, chain, color=color, alpha=0.75, lw=1.1, label=f"{text} ({len(values)})" if not k else None
                )
        for text, value in (marks or {}).items():
            axes.axhline(value, color="black", lw=1, ls="--", zorder=1)  # above the grid
            axes.annotate(
                text, (1, value), xycoords=("axes fraction", "data"), xytext=(-2, 3), textcoords="offset points",
                ha="right", fontsize=8.5, color="#3C424A",
            )  # fmt: skip
        axes.set(title=title, xlabel="cycle", ylabel=label)
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        legend(axes, loc="best")
        return figure


def walks(exact: np.ndarray, walk: np.ndarray, error: np.ndarray, settled: np.ndarray, *, label: str) -> Any:
    """Return the random walk's D against the exact one, with the walk's error bars (one sigma).

    Parameters
    ----------
    exact, walk, error : float [n, 3]
        D_xx, D_yy, D_zz.
    settled : bool [n]
        Whether the walk says that it has converged; the others are drawn hollow.
    label : str
        Legend text of the settled ones.
    """
    with style():
        figure, axes = figure_of(4.5, 4.4)
        top = 1.05 * float(max(exact.max(), (walk + error).max()))
        axes.plot([0, top], [0, top], color=GRAY, lw=1, zorder=1)
        for chosen, face, text in ((settled, BLUE, label), (~settled, "white", "not settled")):
            if chosen.any():
                axes.errorbar(
                    exact[chosen].ravel(), walk[chosen].ravel(), error[chosen].ravel(), fmt="o", color=BLUE,
                    mfc=face, ms=4.5, elinewidth=1.2, capsize=2, alpha=0.8, label=text,
                )  # fmt: skip
        axes.set(title="Random walk against exact solve", xlabel="exact $D_{aa}$  (units of $D_{ref}$)")
        axes.set_ylabel("random walk $D_{aa}$  (units of $D_{ref}$)")
        axes.set_xlim(0, top)
        axes.set_ylim(min(0.0, float((walk - error).min())), top)
        legend(axes, loc="upper left")
        return figure


def plateau(
    lags: np.ndarray, slopes: np.ndarray, errors: np.ndarray, chosen: np.ndarray, *, exact: np.ndarray | None = None
) -> Any:
    """Return the slope of a structure's mean squared displacement over the lag, axis by axis, with the window chosen.

    A slope that falls along the whole axis has not settled. D, ringed, lies below the window chosen by what that has
    yet to fall (`gpuion.slopes`). The arguments are a structure's `lags`, `slopes`, `slope_errors` and `lag` of a
    `WalkResult`.

    Parameters
    ----------
    lags : float [J]
        The longer lag of each window, voxel² / D_ref.
    slopes, errors : float [J, 3]
        Slope of each window per axis, in units of D_ref, and its standard error (one sigma is drawn).
    chosen : float [3]
        The lag that each axis is read at.
    exact : float [3], optional
        What the exact solve says, as lines.
    """
    with style():
        figure, axes = figure_of(5.4, 4.0)
        for axis, color in enumerate((BLUE, RED, GREEN)):
            shift = 1.04 ** (axis - 1)  # side by side, so that error bars do not hide each other
            axes.errorbar(
                lags * shift, slopes[:, axis], errors[:, axis], fmt="o-", color=color, ms=4, lw=1, elinewidth=1.2,
                capsize=2, label=f"$D_{{{'xyz'[axis] * 2}}}$",
            )  # fmt: skip
            at = int(np.abs(lags - chosen[axis]).argmin())
            end = slopes[at, axis] - AHEAD * (slopes[at - 1, axis] - slopes[at, axis])
            axes.plot(
                lags[at] * shift, end, "o", ms=11, mfc="none", mec=color, mew=1.4,
                label="D read" if axis == 2 else None,
            )  # fmt: skip
            if exact is not None:
                axes.axhline(float(exact[axis]), color=color, lw=1, ls="--", label="exact" if axis == 2 else None)
        axes.set_xscale("log", base=2)
        axes.set_xticks(lags, [f"{lag:.3g}" for lag in lags])
        axes.xaxis.minorticks_off()
        axes.set(title="Slope of the mean squared displacement", xlabel="lag  (voxel² / $D_{ref}$)")
        axes.set_ylabel("½ d⟨r²⟩/dt per axis  (units of $D_{ref}$)")
        axes.set_ylim(bottom=min(0.0, float((slopes - errors).min())))
        legend(axes, loc="best")
        return figure


def svg(figure: Any) -> bytes:
    """Return a figure as SVG without a date, equal figures as equal bytes."""
    from matplotlib import rc_context

    stream = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context(_STYLE):
        figure.savefig(stream, format="svg", bbox_inches="tight", pad_inches=0.06, dpi=200, metadata=nothing)
    return stream.getvalue()


def pdf(figure: Any) -> bytes:
    """Return a figure as a vector PDF without a date, equal figures as equal bytes; its fonts are text."""
    from matplotlib import rc_context

    stream = io.BytesIO()
    with rc_context({**_STYLE, "pdf.fonttype": 42}):
        figure.savefig(stream, format="pdf", bbox_inches="tight", pad_inches=0.06, dpi=300,
                       metadata=dict.fromkeys(("CreationDate", "Creator", "Producer")))  # fmt: skip
    return stream.getvalue()


def spread(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return limits from zero, or below, to above all values, for `parity`."""
    joined = np.concatenate([np.ravel(v) for v in values])
    low, high = min(0.0, float(joined.min())), float(joined.max())
    return low - 0.03 * (high - low) * (low < 0), high + 0.05 * (high - low)


def require() -> None:
    """Raise ImportError if there is no matplotlib, and say how to get it."""
    try:
        import matplotlib as mpl  # noqa: F401
    except ImportError:
        raise ImportError("figures need matplotlib; install it with: pip install gpuion[plot]") from None


def style() -> Any:
    require()
    from matplotlib import rc_context

    return rc_context(_STYLE)


def figure_of(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _alpha(count: int) -> float:
    return float(np.clip(30 / max(count, 1) ** 0.5, 0.25, 0.75))


def legend(axes: Any, loc: str) -> None:
    """Add a legend on a light ground, so that points behind it do not hide it."""
    axes.legend(loc=loc, frameon=True, framealpha=0.85, edgecolor="none", handletextpad=0.4)


def _maybe_log(axes: Any, values: np.ndarray) -> None:
    """Turn to a logarithmic axis where the values span a factor of eight or more, and label it with plain numbers."""
    if not (values.min() > 0 and values.max() > 8 * values.min()):
        return
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    axes.set_xscale("log")
    ticks = np.outer(10.0 ** np.arange(-9, 4), (1, 2, 5)).ravel()
    axes.xaxis.set_major_locator(FixedLocator(ticks.tolist()))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(values.min() / 1.15, values.max() * 1.15)


__all__ = [
    "DOWN",
    "TEST",
    "UP",
    "Points",
    "families",
    "parity",
    "pdf",
    "plateau",
    "require",
    "spread",
    "svg",
    "trace",
    "walks",
]
