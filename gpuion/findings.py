"""What a run found: its folder's content, and the figures that sum it up.

Legend: n structures.

A run folder holds dataset/ (of simulate.py, placed structures only) and, as far as they are there, check/ (made
with --method both), model-1/, model-2/ … (of train.py), round-1/, round-2/ … (of anneal.py, round k by model k),
folders of any name made by anneal.py --score exact, annealed/ (the structures of all rounds and of these; taken from
them if missing). Each part may have a timing.json (`gpuion.timing`).

Structures whose label did not settle count, but are never the best or the worst.
"""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpuion import files, timing
from gpuion.dataset import Dataset, open_dataset
from gpuion.errors import DatasetError
from gpuion.files import read_json
from gpuion.relabel import with_prediction
from gpuion.training import metrics

DIRECTIONS = {"max": "annealed-max", "min": "annealed-min"}
ORDER = ("random", "chained", "gapped", *DIRECTIONS.values())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """What train.py says of a network: metrics and, of its test parts, predictions {split, id, true, predicted}."""

    metrics: dict[str, dict[str, float]]
    predictions: dict[str, list[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round:
    """Structures of one annealing with exact and predicted D*, and its traces by direction."""

    data: Dataset
    traces: dict[str, dict[str, list[list[float]]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder's content; `made` holds the run.json of each part, `timing` its timing.json.

    `rounds` are the annealings by a network, `polished` those on the exact solver.
    """

    path: Path
    data: Dataset
    annealed: Dataset | None
    check: Dataset | None
    models: dict[str, Trained]
    rounds: dict[str, Round]
    polished: dict[str, Round]
    made: dict[str, dict[str, Any]]
    timing: dict[str, list[dict[str, Any]]]


def load(path: Path) -> Run:
    """Read a run folder; DatasetError names what is missing or damaged."""
    if not (path / "dataset").is_dir():
        raise DatasetError(f"{path} has no folder dataset; give the folder of a whole run, as `make demo` leaves it")
    data = open_dataset(path / "dataset")
    models = {
        folder.name: Trained(
            metrics=read_json(folder / "metrics.json"), predictions=read_json(folder / "predictions.json")
        )
        for folder in _numbered(path, "model", "predictions.json")
    }
    parts = [folder for folder in sorted(path.iterdir()) if (folder / "run.json").is_file()]
    made = {folder.name: read_json(folder / "run.json") for folder in parts}
    exact = [folder for folder in parts if _on_exact(made[folder.name]) and (folder / "summary.json").is_file()]
    by_network = [folder for folder in _numbered(path, "round", "summary.json") if folder not in exact]
    rounds, polished = (
        {home.name: Round(data=_like(data, home), traces=read_json(home / "traces.json")) for home in folders}
        for folders in (by_network, exact)
    )
    return Run(
        path=path, data=data, models=models, rounds=rounds, polished=polished,
        annealed=_annealed(path, data, [*rounds, *polished]),
        check=open_dataset(path / "check") if (path / "check" / "dataset.json").is_file() else None,
        made=made,
        timing={
            folder.name: read_json(folder / timing.NAME, list)
            for folder in parts
            if (folder / timing.NAME).is_file()
        },
    )  # fmt: skip


def summarize(run: Run) -> dict[str, Any]:
    """Return all figures of the report as JSON values; NaN becomes null.

    Ratios are exact D over exact D. An annealed structure beats the data if it goes beyond the data's extreme by
    more than the estimated errors of the two labels together. `missed` names the ends for which it was tried in vain.
    Wherever errors are of annealed structures, those of each direction stand beside them: R of two far-apart clouds
    tells little but that they lie apart.
    """
    summary: dict[str, Any] = {
        "dataset": {
            "structures": len(run.data), "d_reference": run.data.d_reference, **_extremes(run.data),
            "families": {name: _distribution(part.mean_diffusivity) for name, part in groups(run.data).items()},
        },
        "annealed": None, "ratios": None, "beats_dataset": None, "missed": [],
        "models": {name: {**model.metrics, **_of_annealed(run, model)} for name, model in run.models.items()},
        "annealed_predictions": {name: _by_direction(each.data) for name, each in run.rounds.items()},
        "kmc": None if run.check is None else agreement(run.check),
        "timing": run.timing,
        "made_by": files.provenance(),
    }  # fmt: skip
    names = list(summary["annealed_predictions"])
    summary["before_retraining"], summary["after_retraining"] = (
        {"round": name, **(rows := dict(summary["annealed_predictions"][name])).pop("all"), **rows} if ready else None
        for name, ready in ((names[0] if names else "", names), (names[-1] if names else "", names[1:]))
    )
    if run.annealed is not None:
        found, known = _extremes(run.annealed), summary["dataset"]
        for end in ("best", "worst"):
            found[end]["stage"] = stage(run, run.annealed.centers[found[end]["index"]])
            if found[end]["stage"] in run.polished:
                found[end].pop("predicted", None)
        summary["annealed"] = {"structures": len(run.annealed), **found}
        summary["ratios"] = {
            f"{end}_annealed_over_{end}_dataset": found[end]["D"] / known[end]["D"] for end in ("best", "worst")
        }
        gain = {"best": found["best"]["D"] - known["best"]["D"], "worst": known["worst"]["D"] - found["worst"]["D"]}
        beats = {end: gain[end] > found[end]["error"] + known[end]["error"] for end in gain}
        tried = {"best": DIRECTIONS["max"], "worst": DIRECTIONS["min"]}
        summary["beats_dataset"] = beats
        summary["missed"] = [end for end in beats if not beats[end] and tried[end] in run.annealed.family]
    return plain(summary)


def groups(data: Dataset) -> dict[str, Dataset]:
    """Return the data by family: chained ones by range, gapped ones by the number of axes."""
    members: dict[tuple[int, float, int, str], list[int]] = {}
    columns = (data.family.tolist(), data.distance.tolist(), data.axes.sum(-1).tolist())
    for i, (family, (low, high), axes) in enumerate(zip(*columns, strict=True)):
        rank = ORDER.index(family) if family in ORDER else len(ORDER)
        key = (rank, 0.0, 0, family)
        if family == "chained":
            key = (rank, low, 0, f"chained {low:.3g}–{high:.3g}")
        elif family == "gapped":
            key = (rank, 0.0, axes, f"gapped, {axes} {'axis' if axes == 1 else 'axes'}")
        members.setdefault(key, []).append(i)
    return {key[-1]: data.subset(torch.tensor(members[key])) for key in sorted(members)}


def position(data: Dataset, *, best: bool) -> int:
    """Return the position of the structure of highest or lowest D among those whose label settled."""
    sign = 1.0 if best else -1.0
    usable = data.settled
    if not bool(usable.any()):
        raise DatasetError("none of the labels settled, so there is no best or worst structure; solve them again")
    return int(torch.where(usable, sign * data.mean_diffusivity, -math.inf).argmax())


def stage(run: Run, centers: Tensor) -> str | None:
    """Return the folder of the annealing that first met a structure, centers float32 [N, 3]; None if none did."""
    for name, each in {**run.rounds, **run.polished}.items():
        if bool((each.data.centers == centers).flatten(1).all(1).any()):
            return name
    return None


def agreement(check: Dataset) -> dict[str, Any]:
    """Return how far the walk's D_aa lie from the exact ones, z = (walk − exact) / s, with both errors in s.

    Only walks that say they settled, with s > 0, count for z.
    """
    if check.diffusivity_kmc is None or check.standard_error_kmc is None:
        raise DatasetError("check/ holds no walks beside the exact labels; make it with simulate.py --method both")
    sure = walks_settled(check)
    s = check.standard_error_kmc[sure].hypot(check.standard_error[sure])
    z = ((check.diffusivity_kmc[sure] - check.diffusivity[sure]) / s)[s > 0]
    some = len(z) > 0
    return {
        "structures": len(check), "settled": int(sure.sum()), "components": len(z),
        "z_mean": float(z.mean()) if some else None,
        "z_rms": float(z.square().mean().sqrt()) if some else None,
        "z_max": float(z.abs().max()) if some else None,
        "within_2": int((z.abs() <= 2).sum()), "beyond_4": int((z.abs() > 4).sum()),
        "z": z.tolist(),
    }  # fmt: skip


def walks_settled(check: Dataset) -> Tensor:
    """Return which structures have both a settled walk and a settled exact label, bool [n]."""
    walks = torch.ones(len(check), dtype=torch.bool) if check.converged_kmc is None else check.converged_kmc.bool()
    return walks & check.settled


def _numbered(path: Path, kind: str, needed: str) -> list[Path]:
    """Return the folders kind-1, kind-2 … that are complete, in the order of their numbers."""
    found = [folder for folder in path.glob(f"{kind}-*") if re.fullmatch(rf"{kind}-\d+", folder.name)]
    return sorted((f for f in found if (f / needed).is_file()), key=lambda folder: int(folder.name.split("-")[1]))


def _on_exact(made: dict[str, Any]) -> bool:
    """Return whether a run.json is of an annealing on the exact solver."""
    return made.get("script") == "anneal" and made.get("config", {}).get("score") == "exact"


def _like(data: Dataset, folder: Path) -> Dataset:
    """Return annealed structures in the data's unit of D*, or say that they are of another run."""
    found = open_dataset(folder)
    if not math.isclose(found.d_reference, data.d_reference, rel_tol=1e-6):
        raise DatasetError(
            f"{folder}: d_reference: expected {data.d_reference:.7g} as in dataset/, found {found.d_reference:.7g}; "
            "it belongs to another run"
        )
    return found


def _annealed(path: Path, data: Dataset, rounds: list[str]) -> Dataset | None:
    """Return all annealed structures: of annealed/, else of the rounds' folders, else none."""
    if (path / "annealed").is_dir():
        return _like(data, path / "annealed")
    return open_dataset([path / name for name in rounds]) if rounds else None


def _extremes(data: Dataset) -> dict[str, Any]:
    """Return the best and the worst structure; `index` is the position in the order of the shards."""
    ends = {}
    for name in ("best", "worst"):
        i = position(data, best=name == "best")
        ends[name] = {
            "id": int(data.id[i]), "index": i, "family": str(data.family[i]),
            "D": float(data.mean_diffusivity[i]), "D_star": float(data.d_star[i]),
            "error": float(data.standard_error[i].mean()), "D_axes": data.diffusivity[i].tolist(),
        }  # fmt: skip
        for key in ("predicted", "chain", "cycle"):
            column = getattr(data, key)
            if column is not None:
                ends[name][key] = column[i].item()
    return {**ends, "unsettled": int((~data.settled).sum())}


def _distribution(D: Tensor) -> dict[str, float]:
    return {
        "structures": len(D), "min": float(D.min()), "median": float(D.quantile(0.5)),
        "mean": float(D.mean()), "max": float(D.max()),
    }  # fmt: skip


def _by_direction(data: Dataset) -> dict[str, Any]:
    """Return MSE, MAPE and R of the predictions that a network made while annealing, of structures new to it."""
    known = with_prediction(data)
    if known is None or known.predicted is None:
        raise DatasetError("a round's shards hold no predictions; make them with anneal.py --score surrogate")
    return _each_way(known.family, known.predicted, known.d_star)


def _each_way(family: np.ndarray, predicted: Tensor, exact: Tensor) -> dict[str, Any]:
    """Return how many annealed structures there are, MSE, MAPE and R: of all, of those that went up, and down."""
    rows = {}
    for name, only in {"all": None, **DIRECTIONS}.items():
        part = torch.from_numpy((family == only) | (only is None))
        if bool(part.any()):
            rows[name] = {"structures": int(part.sum()), **metrics(predicted[part], exact[part])}
    return rows


def _of_annealed(run: Run, model: Trained) -> dict[str, Any]:
    """Return the errors by direction of what train.py tested on annealed structures: {"test of round-1, max": …}."""
    rows: dict[str, Any] = {}
    columns = {key: np.array(value) for key, value in model.predictions.items()}
    for part in dict.fromkeys(model.predictions["split"]):
        each = {**run.rounds, **run.polished}.get(part.rstrip("/").split("/")[-1])
        if each is None or not part.startswith("test of "):
            continue
        inside = columns["split"] == part
        families = dict(zip(each.data.id.tolist(), each.data.family.tolist(), strict=True))
        family = np.array([families.get(i, "") for i in columns["id"][inside].tolist()])
        predicted, exact = (torch.from_numpy(columns[key][inside].astype(float)) for key in ("predicted", "true"))
        found = _each_way(family, predicted, exact)
        rows |= {f"{part}, {d}": found[d] for d in DIRECTIONS if d in found}
    return rows


def plain(value: Any) -> Any:
    """Return JSON values with null for what is no number."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
