"""What came of an annealing: its traces, the numbers of its summary, and a few lines.

Legend: C chains, G groups of them, R replicas of a group, n structures.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gpuion import files, ladders
from gpuion.chains import AnnealResult
from gpuion.dataset import Dataset, open_dataset, write_summary
from gpuion.objectives import Objective, attained
from gpuion.relabel import beyond, compare, winners, with_prediction
from gpuion.training import metrics

_TRACES = ("ids", "trace", "best_trace", "acceptance")


def report(
    folder: Path, results: Mapping[str, AnnealResult], goals: Mapping[str, Objective], known: Mapping[str, float],
) -> None:  # fmt: skip
    """Write dataset.json, traces.json and summary.json of a folder whose shards are whole; print what was found.

    Parameters
    ----------
    folder : Path
        With `ladder-<direction>.json` where groups of chains exchanged temperatures.
    results, goals, known
        What each direction's chains found, what it was after, and the best of the original data.
    """
    found = open_dataset(sorted(folder.glob("shard-*.h5")))
    write_summary(folder, found)
    temperatures = {d: ladders.read(folder / f"ladder-{d}.json") for d in goals}
    replicas = {d: max(1, len(heat)) for d, heat in temperatures.items()}
    traces = {d: {name: getattr(result, name).tolist() for name in _TRACES} for d, result in results.items()}
    for d, heat in temperatures.items():
        if heat:
            traces[d] |= {name: getattr(results[d], name).tolist() for name in ("rung", "swaps")}
            traces[d]["temperatures"] = heat
    files.write_json(folder / "traces.json", traces)
    summary = summarize(found, results, goals, known, replicas)
    files.write_json(folder / "summary.json", summary)
    _tell(summary)
    if found.converged is not None and not bool(found.converged.all()):
        print(f"{int((~found.converged).sum())} exact solves did not settle; see `converged` in the shards")


def swap_rates(result: AnnealResult, replicas: int) -> list[float]:
    """Return how often temperatures r and r + 1 changed hands when they met, for r = 0 … R − 2."""
    by_pair: list[float] = result.swaps.view(-1, replicas, result.cycles).mean((0, 2))[:-1].tolist()
    return by_pair


def summarize(
    found: Dataset, results: Mapping[str, AnnealResult], goals: Mapping[str, Objective], known: Mapping[str, float],
    replicas: Mapping[str, int],
) -> dict[str, Any]:  # fmt: skip
    """Return the numbers of summary.json, of labelled structures in the order in which they were selected."""
    summary: dict[str, Any] = {"all": {"structures": len(found), **errors(found)}}
    for d, goal in goals.items():
        part = found.subset(torch.from_numpy(found.family == f"annealed-{goal.family}"))
        if goal.name == "mean":
            numbers: dict[str, Any] = compare(part, known[d], maximize=goal.maximize)
        else:
            numbers = {"objective": goal.name, **_compare(part, results[d], goal, known[d], replicas[d])}
        if goal.name == "target":
            numbers["target"] = goal.target
        if replicas[d] > 1:
            numbers["swap_rates"] = swap_rates(results[d], replicas[d])
        numbers["visited_beyond"], numbers["visited"] = beyond(results[d], known[d], maximize=goal.maximize)
        summary[d] = {**numbers, "structures": len(part), **errors(part)}
    return summary


def _compare(part: Dataset, result: AnnealResult, goal: Objective, known: float, replicas: int) -> dict[str, float]:
    """Return the best objective foreseen, its exact value, the best exact one and that of the data."""
    values = attained(goal, part)
    best = {"best": float(values.max() if goal.maximize else values.min()), "data": known}
    if with_prediction(part) is None:
        return {"exact": best["best"], **best}
    foreseen = result.best_score[winners(result, replicas, maximize=goal.maximize)]
    top = int(foreseen.argmax() if goal.maximize else foreseen.argmin())
    return {"predicted": float(foreseen[top]), "exact": float(values[top]), **best}


def _tell(summary: dict[str, Any]) -> None:
    """Print what a summary says."""
    for d, numbers in summary.items():
        if d == "all":
            continue
        if "objective" not in numbers:
            line = "best predicted D* {predicted:.4f}, exact {exact:.4f}; " if "predicted" in numbers else ""
            print(f"{d}: {line}best exact D* {{best:.4f}}, {{ratio:.3f}} of the data's {{data:.4f}}".format(**numbers))
        else:
            line = "best predicted {predicted:.4g}, exact {exact:.4g}; " if "predicted" in numbers else ""
            print(f"{d} of {{objective}}: {line}best exact {{best:.4g}}, the data's {{data:.4g}}".format(**numbers))
        print(f"{d}: {{visited_beyond}} of {{visited}} visited structures lie beyond the data".format(**numbers))
        if "swap_rates" in numbers:
            print(f"{d}: neighbours exchanged temperatures at " + ", ".join(f"{p:.0%}" for p in numbers["swap_rates"]))
    whole = summary["all"]
    if "mape" in whole:
        ways = ", ".join(f"{d} {numbers['r']:.4f}" for d, numbers in summary.items() if d != "all")
        print("{structures} annealed structures: MAPE {mape:.2f}%, R {r:.4f}".format(**whole) + f" ({ways})")
    else:
        print(f"{whole['structures']} annealed structures, by the exact solver")


def errors(found: Dataset) -> dict[str, float]:
    """Return MSE, MAPE and R of what the surrogate predicted, nothing if it predicted nothing."""
    foreseen = with_prediction(found)
    if foreseen is None or foreseen.predicted is None:
        return {}
    return metrics(foreseen.predicted, foreseen.d_star)
