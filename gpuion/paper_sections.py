"""Each figure of the paper with its numbers, from a study: what `gpuion.paper` puts together.

Legend: n structures. Every function returns numbers as JSON values and figures by file name, both empty where the run
does not hold what they need.
"""

from typing import Any

import numpy as np
import torch

from gpuion import panels, paper_numbers, paper_panels, published
from gpuion.dataset import Dataset
from gpuion.findings import ORDER
from gpuion.markup import count, number
from gpuion.paper_numbers import components, everything, scores
from gpuion.radial import pair_distribution
from gpuion.render import recenter, render
from gpuion.study import PARTS, Pair, Remembered, Study, predict
from gpuion.survey import touching

Figures = dict[str, tuple[Any, str]]
"""By file name: a matplotlib Figure and what it shows, in Markdown."""
Section = tuple[dict[str, Any], Figures]
STAGES = ("before retraining", "after retraining")
BEST = "1 is the best structure of the data"
EDGE = "; what lies beyond the axes is drawn on their edge"


def families(study: Study) -> Section:
    """Return how many structures have which D*, by family."""
    data, met = study.run.data, study.run.annealed
    names = sorted(set(data.family), key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
    groups = {name: data.d_star[torch.from_numpy(data.family == name)].numpy() for name in names}
    numbers = {
        "families": {str(name): len(D) for name, D in groups.items()},
        "parts": {name: int((study.part == key).sum()) for key, name in PARTS.items()},
        "gain": None if met is None else gain(met, data),
        "gains": {name: gain(each.data, data) for name, each in {**study.run.rounds, **study.run.polished}.items()},
    }
    if met is not None:
        groups |= {name: met.d_star[torch.from_numpy(met.family == name)].numpy() for name in dict.fromkeys(met.family)}
    text = f"Structures by family and D* ({BEST}); dashed: the family's median."
    return numbers, {"families": (paper_panels.histograms(groups), text)}


def gain(found: Dataset, data: Dataset) -> float:
    """Return the best D of structures over the best of the data, of labels that settled."""
    return float(found.mean_diffusivity[found.settled].max() / data.mean_diffusivity[data.settled].max())


def predictions(study: Study, memory: Remembered) -> Section:
    """Return the errors of every network on every part, and predicted against exact D* of those that were retrained."""
    errors = {kind: [{part: scores(pair) for part, pair in stage.items()} for stage in stages]
              for kind, stages in study.predicted.items()}  # fmt: skip
    for kind, folders in study.nets.items():
        net = list(folders.values())[-1]
        for name, data in study.transfer.items():
            errors[kind][-1][name] = scores(predict(net, data.subset(data.settled), memory))
    figures: Figures = {}
    for kind, stages in study.predicted.items():
        if kind in (*published.CNN, "network"):
            rows = dict(zip(STAGES if len(stages) > 1 else ["not retrained"], stages, strict=False))
            texts = {(row, part): said(errors[kind][k][part]) for k, row in enumerate(rows) for part in stages[k]}
            text = f"Predicted against exact D* by `{kind}`: the parts of the dataset, and what annealing met{EDGE}."
            figures[f"parity-{kind}"] = (paper_panels.parity(rows, texts), text)
    last = {kind: {part: of for part, of in stages[-1].items() if part in {"training", "test"}}
            for kind, stages in errors.items()}  # fmt: skip
    if any(last.values()):
        text = (
            "MSE and MAPE of each network on the training and on the test part, after retraining where there was one."
        )
        figures["errors"] = (paper_panels.errors(last, published.ERRORS["test"]), text)
    return {"errors": errors}, figures


def said(of: dict[str, float]) -> str:
    """Return measures in three short lines."""
    return f"n {of['structures']}, R {of['r']:.4f}\nMSE {of['mse']:.2g}\nMAPE {number(of['mape'], 3)}%"


def transfer(study: Study, memory: Remembered) -> Section:
    """Return predicted against exact D* of structures with fewer and with more spheres."""
    rows: dict[str, dict[str, Pair]] = {}
    texts: dict[tuple[str, str], str] = {}
    for data in study.transfer.values():
        data_ = data.subset(data.settled)
        title = f"φ = {data.centers.shape[1] * np.pi * (data.diameter / data.box) ** 3 / 6:.3f}"
        rows[title] = {kind: predict(list(folders.values())[-1], data_, memory) for kind, folders in study.nets.items()}
        texts |= {(title, kind): said(scores(pair)) for kind, pair in rows[title].items()}
    if not any(rows.values()):
        return {}, {}
    text = (
        f"Predicted against exact D* of the same networks, untouched, on structures with fewer and more spheres{EDGE}."
    )
    return {}, {"transfer": (paper_panels.parity(rows, texts), text)}


def annealing(study: Study) -> Section:
    """Return D* and acceptance over the cycles, of all chains of all annealings."""
    rounds = {name: each.traces for name, each in study.annealings.items()}
    known = study.run.data.d_star[study.run.data.settled]
    ends = {"best of the data": float(known.max()), "worst of the data": float(known.min())}
    of = {key: {name: {way: np.array(x[key]) for way, x in traces.items()} for name, traces in rounds.items()}
          for key in ("trace", "acceptance")}  # fmt: skip
    first = of["acceptance"].get(next(iter(study.run.rounds), ""), {})
    numbers = {"acceptance": {way: [float(x[:, 0].mean()), float(x[:, -1].mean())]
                              for way, x in first.items() if way in {"max", "min"} and x.size}}  # fmt: skip
    if not numbers["acceptance"]:
        return numbers, {}
    exact = f", of {', '.join(study.run.polished)} exact" if study.run.polished else ""
    text = f"Predicted D* ({BEST}){exact}, at the end of each cycle of all annealings"
    labels = dict.fromkeys(study.run.polished, "exact D*")
    return numbers, {
        "traces": (
            paper_panels.chains(of["trace"], label="predicted D*", labels=labels, marks=ends),
            f"{text}; the temperature falls from cycle to cycle.",
        ),
        "acceptance": (
            paper_panels.chains(of["acceptance"], label="share of moves accepted", mean=True),
            "Acceptance probability over the cycles: moves accepted over moves proposed, overlapping ones among these.",
        ),
    }


def snapshots(study: Study) -> Section:
    """Return pictures of the best chain up and the best chain down, over the cycles."""
    data, rows = study.run.data, {}
    look: dict[str, Any] = {"box": data.box, "diameter": data.diameter, "reach": data.model.reach, "size": 300}
    for way, shots in paper_numbers.snapshots(study).items():
        rows[{"max": "maximising", "min": "minimising"}[way]] = [
            (f"cycle {cycle}\nD* {D:.3g} ({guess:.3g} predicted)", render(recenter(centers, data.box), **look))
            for cycle, centers, guess, D in shots
        ]
    if not rows:
        return {}, {}
    text = (
        "The chain of the first annealing that ends highest, and the one that ends lowest, at some of its cycles. "
        "Sticks join spheres whose coronas touch; joined spheres share a colour. D* is exact, in brackets what the "
        "network said."
    )
    return {}, {"snapshots": (paper_panels.snapshots(rows), text)}


def descriptors(study: Study) -> Section:
    """Return g(r) of the extremes of D and principal components of g(r), with and without gapped structures."""
    data = study.run.data
    centers, D, annealed = everything(study)
    g = pair_distribution(centers, box=data.box)
    order, tenth = np.argsort(D), max(1, len(D) // 10)
    placed = data.family[data.settled.numpy()]
    curves = {
        str(name): g[: len(placed)][torch.from_numpy(placed == name)].mean(0).numpy() for name in dict.fromkeys(placed)
    }
    curves |= {
        "lowest tenth of D": g[order[:tenth]].mean(0).numpy(),
        "highest tenth of D": g[order[-tenth:]].mean(0).numpy(),
    }
    numbers: dict[str, Any] = {"peak": int(curves["highest tenth of D"].argmax()), "components": None, "ungapped": None}
    text = f"g(r), averaged over families, and over the tenths of highest and lowest D of all {len(D)} structures."
    figures = {"pairs": (panels.pairs(np.arange(g.shape[1]), curves, touch=touching(data)), text)}
    ungapped = np.concatenate([placed != "gapped", np.ones(annealed.sum(), bool)])
    for key, kept in (("components", np.ones(len(D), bool)), ("ungapped", ungapped)):
        if key == "ungapped" and kept.all():
            continue
        found = components(g[torch.from_numpy(kept)], D[kept], annealed[kept])
        if found is None or found.found.scores.shape[1] < 2:
            continue
        numbers[key] = {"first": found.first(), "n": int(kept.sum()), "annealed": int(annealed.sum())}
        if key == "components":
            share, weights = found.found.share[:2].tolist(), found.found.components[:2].numpy()
            drawn = paper_panels.components(
                found.found.scores[:, :2].numpy(), D, annealed, share, weights, found.pearson[:2].tolist()
            )
            text = "Principal components of g(r) with exact D* as colour; D* over the first; their weights over r."
            figures["components"] = (drawn, text)
    return numbers, figures


def two_point(study: Study, memory: Remembered) -> Section:
    """Return g(r) and other two-point functions of the extremes of D, and what each tells of D."""
    found = paper_numbers.two_point(study, memory)
    rows = {name: {key: of[key] for key in ("share", "r", "test", "structures")} for name, of in found.items()}
    if not found:
        return {"two_point": {}}, {}
    text = (
        "Two-point functions of the structures of highest and lowest D: of the centres, of the spheres' volume (both "
        "ends of a segment in spheres), of straight ways that meet no sphere, and of the centres of spheres in one "
        "cluster of touching coronas. Above each: |R| of its first principal component with D, and how far a ridge "
        "regression of log D* on it is off on the test part (MAPE)."
    )
    return {"two_point": rows}, {"two-point": (paper_panels.two_point(found), text)}


def cost(study: Study) -> Section:
    """Return the processor time of one structure by each way to its D."""
    rows = paper_numbers.cost(study)
    sites = count(study.run.data.sites_per_voxel, "lattice site")
    text = (
        f"Processor time of one structure on {sites} a voxel, all cores added up, and what each way is off by: "
        "networks their MAPE on the test part, the exact solve its own bound, the walk its standard error. Other work "
        "may have run beside."
    )
    return {"cost": rows}, {"cost": (paper_panels.cost(rows), text)} if rows else {}
