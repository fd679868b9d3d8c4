"""What a trained network is worth: its errors on each part, and whether its own estimate of them is right."""

from torch import Tensor

from gpuion.doubt import reach
from gpuion.predictor import logarithm
from gpuion.training import Samples, metrics

COVERAGES = {"coverage_68": 0.68, "coverage_95": 0.95}


def measured(samples: Samples, found: Tensor, spread: Tensor, quantiles: Tensor) -> dict[str, float]:
    """Return MSE, MAPE and R of D* [n], and where its spread [n] is known how often it is right.

    `coverage_68` and `coverage_95` are the shares of structures within the intervals of 68 and 95%, `spread` is the
    root of the mean square of the standard deviations of log D*, `error` that of log D*'s errors.
    """
    row = metrics(found, samples.target)
    if bool(spread.isnan().any()):
        return row
    error = (logarithm(found) - logarithm(samples.target.double())).abs()
    for name, share in COVERAGES.items():
        row[name] = float((error <= reach(quantiles, share) * spread).double().mean())
    return row | {"spread": rms(spread), "error": rms(error)}


def rms(x: Tensor) -> float:
    """Return the root of the mean square."""
    return float(x.square().mean().sqrt())


def table(rows: dict[str, dict[str, float]], counts: dict[str, int]) -> str:
    """Return measures as lines of text, one a part."""
    known = any("spread" in row for row in rows.values())
    head = f"{'part':<24}{'count':>7}{'MSE':>11}{'MAPE/%':>9}{'R':>8}"
    lines = [head + (f"{'error/%':>9}{'spread/%':>10}{'in 68%':>8}{'in 95%':>8}" if known else "")]
    for name, row in rows.items():
        line = f"{name:<24}{counts[name]:>7}{row['mse']:>11.3e}{row['mape']:>9.2f}{row['r']:>8.4f}"
        if known:
            line += f"{100 * row['error']:>9.2f}{100 * row['spread']:>10.2f}"
            line += f"{row['coverage_68']:>8.1%}{row['coverage_95']:>8.1%}"
        lines.append(line)
    return "\n".join(lines)
