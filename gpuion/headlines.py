"""What a run found, in sentences."""

from typing import Any

from gpuion.markup import number


def headlines(summary: dict[str, Any]) -> list[str]:
    """Return what was found, a sentence each."""
    data, annealed = summary["dataset"], summary["annealed"]
    low, high = data["worst"]["D"], data["best"]["D"]
    line = (
        f"Of {data['structures']} placed arrangements of equal spheres, the best lets ions diffuse {high / low:.3g} "
        f"times as fast as the worst: D = {high:.4g} and {low:.4g} of the bulk solvent's."
    )
    lines = [line]
    if annealed:
        lines += [_gain(summary, "best", "best", "fastest"), _gain(summary, "worst", "worst", "slowest")]
    models = list(summary["models"].values())
    if models and "test" in models[-1]:
        test = models[-1]["test"]
        line = (
            f"On placed structures that it has not seen, the network's D is {number(test['mape'], 3)}% off on average"
        )
        line += f" (R {number(test['r'], 4)})"
        before, after = summary["before_retraining"], summary["after_retraining"]
        if before and after:
            errors = f"{number(before['mape'], 3)}% before retraining and {number(after['mape'], 3)}% after"
            line += f"; on those that annealing finds, {errors}"
        lines.append(line + ".")
    check = summary["kmc"]
    if check and check["components"]:
        lines.append(
            f"Random walks agree with exact solutions to two standard errors in {check['within_2']} of "
            f"{check['components']} components of D; the rms deviation is {check['z_rms']:.2f} standard errors, the "
            f"largest {check['z_max']:.2f} ({check['settled']} of {check['structures']} walks settled)."
        )
    return lines


def _gain(summary: dict[str, Any], end: str, word: str, adverb: str) -> str:
    """Return how the extreme of the annealed structures compares to that of the placed ones."""
    found, known = summary["annealed"][end], summary["dataset"][end]
    change = 100 * (summary["ratios"][f"{end}_annealed_over_{end}_dataset"] - 1)
    numbers = f"exact D = {found['D']:.4g} against {known['D']:.4g}, {change:+.1f}%".replace("-", "−")
    if summary["beats_dataset"][end]:
        what = "lets ions through faster" if end == "best" else "holds ions back more"
        where = f" (in {found['stage']})" if found["stage"] else ""
        return f"Annealing found an arrangement{where} that {what} than the {word} placed one: {numbers}."
    return f"Annealing found nothing beyond the {adverb} placed arrangement: {numbers}."
