"""What `gpuion.evaluate` found, as tables in Markdown."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from gpuion.survey import table

HEAD = ("model", "data", "structures", "MSE", "MAPE, %", "mean error, %", "worst, %", "R")
SURE = (
    *HEAD[:2],
    "family",
    "structures",
    "error of log D*, rms, %",
    "stated, rms, %",
    "within 68%, %",
    "within 95%, %",
)
MOVED = (*HEAD[:2], "shifts, rms, % of D*'s spread", "largest, %", "turns and mirrors, rms, %", "largest, %")
_FEW = 30  # structures or more, for shares of 68 and 95% to say something


def show(results: Sequence[dict[str, Any]]) -> str:
    """Return tables in Markdown: errors, also by family, how sure models are, their range over seeds, and the worst."""
    rows = [(found, row) for found in results for row in found["results"]]
    parts = [table(HEAD, [[_title(found), row["data"], *_cells(row)] for found, row in rows])]
    families = [
        [_title(found), row["data"], family, *_cells(of)]
        for found, row in rows
        for family, of in row["families"].items()
    ]
    parts.append(table((*HEAD[:2], "family", *HEAD[2:]), families))
    sure = [
        [_title(found), row["data"], family, *_doubts(of)]
        for found, row in rows if "spread" in row
        for family, of in {"all": row, **row["families"]}.items() if family == "all" or of["structures"] >= _FEW
    ]  # fmt: skip
    parts += [table(SURE, sure)] if sure else []
    moved = [[_title(found), row["data"], *_moves(row)] for found, row in rows if "turn_sensitivity" in row]
    parts += [table(MOVED, moved)] if moved else []
    parts += [_ranges(rows)] if len({_group(found) for found in results}) < len(results) else []
    for found, row in rows:
        lines = [
            [str(x["id"]), x["family"], f"{x['true']:.4g}", f"{x['predicted']:.4g}",
             f"{100 * (x['predicted'] / x['true'] - 1):+.3g}"]
            for x in row["worst"]
        ]  # fmt: skip
        if lines:
            head = ("id", "family", "D*", "predicted", "error, %")
            parts.append(f"{_title(found)} on {row['data']}, largest errors:\n\n{table(head, lines)}")
    for row in {row["data"]: row for _, row in rows}.values():
        parts.append(
            f"{row['data']}: the labels' own stated error is {row['label_error']:.2g}% of D on average, at most "
            f"{row['label_error_most']:.2g}%; {row['part']} of it, {row['sites_per_voxel']} site(s) a voxel"
        )
    others = {
        f"note: {found['checkpoint']} learnt labels of {found['sites_per_voxel']} site(s) a voxel, {row['data']} has "
        f"those of {row['sites_per_voxel']}: the lattice's error is part of what is shown"
        for found, row in rows if found["sites_per_voxel"] not in {None, row["sites_per_voxel"]}
    }  # fmt: skip
    return "\n\n".join(parts + sorted(others))


def _title(found: dict[str, Any]) -> str:
    """Return a model with what it was trained on and its seed, as far as that is known."""
    words = [f"{found['trained_on']} structures"] if found["trained_on"] else []
    words += [f"seed {found['config']['seed']}"] if found["config"]["seed"] is not None else []
    return found["model"] + (f" ({', '.join(words)})" if words else "")


def _group(found: dict[str, Any]) -> tuple[str, int]:
    return found["model"], found["trained_on"] or 0


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        str(row["structures"]), f"{row['mse']:.3g}", f"{row['mape']:.3g}", f"{row['mean_error']:+.2g}",
        f"{row['worst_error']:+.3g}", f"{row['r']:.4f}",
    ]  # fmt: skip


def _doubts(row: dict[str, Any]) -> list[str]:
    return [
        str(row["structures"]), f"{100 * row['error']:.2f}", f"{100 * row['spread']:.2f}",
        *(f"{100 * row[name]:.1f}" for name in ("coverage_68", "coverage_95")),
    ]  # fmt: skip


def _moves(row: dict[str, Any]) -> list[str]:
    names = (f"{of}_sensitivity{how}" for of in ("shift", "turn") for how in ("_rms", ""))
    return [f"{100 * row[name]:.2g}" for name in names]


def _ranges(rows: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """Return the lowest and highest of each measure over the checkpoints of a model trained on as many structures."""
    lines = []
    for group, source in dict.fromkeys((_group(found), row["data"]) for found, row in rows):
        same = [row for found, row in rows if (_group(found), row["data"]) == (group, source)]
        title = group[0] + (f" ({group[1]} structures)" if group[1] else "")
        ends = [
            f"{min(row[key] for row in same):{form}} to {max(row[key] for row in same):{form}}"
            for key, form in (("mse", ".3g"), ("mape", ".3g"), ("r", ".4f"))
        ]
        worst = max((row["worst_error"] for row in same), key=abs)
        errors = [np.divide(row["predicted"], row["true"]) - 1 for row in same]
        alike = f"{min(np.corrcoef(a, b)[0, 1] for a, b in combinations(errors, 2)):.2f}" if len(same) > 1 else "–"
        lines.append([title, source, str(len(same)), *ends, f"{worst:+.3g}", alike])
    return table(("model", "data", "seeds", "MSE", "MAPE, %", "R", "worst of all, %", "seeds err alike, R ≥"), lines)
