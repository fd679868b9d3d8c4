"""What the figures of a paper are drawn from: a run folder, its networks, and what these predict of all structures.

Legend: n structures.

Beside what `gpuion.findings` reads, every folder of train.py counts. Networks of one kind are in the order of their
folders' names: the first is the one before retraining, the last, of several, the one after. Folders phi-… hold the same
arrangements with fewer or more spheres.
"""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gpuion import evaluate, files, findings, splits, training
from gpuion.dataset import Dataset, open_dataset
from gpuion.errors import CheckpointError
from gpuion.findings import Run
from gpuion.models import Model

ORDER = ("nearest", "pairs", "ridge", "graph", "zero", "tiled", "periodic", "network")
PARTS = {"train": "training", "validation": "validation", "test": "test"}
Pair = tuple[np.ndarray, np.ndarray]
"""Exact and predicted D*, float64 [n]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """A run, its networks by kind and folder, and the sets they are tried on.

    Attributes
    ----------
    run : Run
    part : numpy array of str [n]
        train, validation or test, of the run's dataset.
    nets : dict of str to dict of str to Model
    predicted : dict of str to list of dict of str to Pair
        By kind, for each stage: of the parts of the dataset and of the structures that annealing met.
    transfer : dict of str to Dataset
        By name of the folder: the sets with fewer or more spheres.
    """

    run: Run
    part: np.ndarray
    nets: dict[str, dict[str, Model]]
    predicted: dict[str, list[dict[str, Pair]]]
    transfer: dict[str, Dataset]

    @property
    def annealings(self) -> dict[str, findings.Round]:
        """All rounds of annealing by a network, in their order, then those polished on the exact solver."""
        return {**self.run.rounds, **self.run.polished}


class Remembered:
    """Numbers that take minutes to compute, kept in a file under the fingerprint of what they are made of."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            held = dict(files.load_tensors(path))
        except (OSError, CheckpointError, ValueError, TypeError):
            held = {}
        self.held = {key: x for key, x in held.items() if isinstance(x, Tensor)}

    def get(self, key: str) -> Tensor | None:
        """Return what is known under a key."""
        return self.held.get(hashlib.sha256(key.encode()).hexdigest())

    def put(self, key: str, value: Tensor) -> Tensor:
        """Keep and return a tensor."""
        self.held[hashlib.sha256(key.encode()).hexdigest()] = value
        self.path.parent.mkdir(parents=True, exist_ok=True)
        files.save_tensors(self.path, self.held)
        return value


def load(run: Run, memory: Remembered) -> Study:
    """Return all that a run folder holds for figures, predictions included.

    Raises
    ------
    CheckpointError
        If a network is damaged, or cannot take the run's cell.
    """
    data = run.data
    part = splits.named(splits.split(len(data), splits.SEED)) if data.part is None else data.part
    nets = _networks(run)
    study = Study(
        run=run, part=part, nets=nets, predicted={},
        transfer={path.parent.name: open_dataset(path.parent) for path in sorted(run.path.glob("phi-*/dataset.json"))},
    )  # fmt: skip
    for kind, folders in nets.items():
        found = list(folders.values())
        stages = [found[0]] if len(found) == 1 else [found[0], found[-1]]
        study.predicted[kind] = [stage(study, net, k, memory) for k, net in enumerate(stages)]
        for net in found:
            net.to("cpu")
    return study


def _networks(run: Run) -> dict[str, dict[str, Model]]:
    """Return the networks of a run by kind and folder."""
    device, nets = "cuda" if torch.cuda.is_available() else "cpu", dict[str, dict[str, Model]]()
    for path in sorted(run.path.glob("*/surrogate.pt")):
        net = training.load_surrogate(path, device)
        evaluate.check(net, run.data, path, run.path / "dataset")
        if evaluate.name_of(net) == "tiled" and device == "cpu":
            print(f"{path} is left out: a tiled network takes two seconds a structure on a CPU")
            continue
        nets.setdefault(evaluate.name_of(net), {})[path.parent.name] = net
    return {kind: nets[kind] for kind in ORDER if kind in nets}


def stage(study: Study, net: Model, k: int, memory: Remembered) -> dict[str, Pair]:
    """Return what a network predicts of each part of the dataset, and of structures of annealing that are new to it.

    These are the first round's before retraining, k = 0, and the last one's after; where there is no second round,
    the first one's test part, which retraining leaves out.
    """
    data, part = study.run.data, study.part
    true, predicted = predict(net, data, memory)
    usable = data.settled.numpy()
    found = {name: (true[at], predicted[at]) for key, name in PARTS.items() if (at := usable & (part == key)).any()}
    rounds = list(study.run.rounds)
    if rounds:
        name = rounds[-1 if k else 0]
        met = study.run.rounds[name].data
        if k and len(rounds) == 1:
            met = met.subset(splits.split(len(met), splits.SEED)[2])
        met = met.subset(met.settled)
        if len(met):
            found["annealed"] = predict(net, met, memory)
    return found


def predict(net: Model, data: Dataset, memory: Remembered) -> Pair:
    """Return exact and predicted D*, float64 [n] each, in the unit of what the network was trained on."""
    true = (data.mean_diffusivity / float(net.meta["d_reference"])).numpy()
    key = f"predicted {training.fingerprint(net)} {data.fingerprint}"
    held = memory.get(key)
    if held is None:
        held = memory.put(key, evaluate.predict(net, data).predicted)
    return true, held.numpy()
