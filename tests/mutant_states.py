"""Spoilt files that runs go on from: states of chains, batches of labels, kept start structures."""

import contextlib
import functools
import io
import tempfile
from pathlib import Path

import numpy as np
import torch
from mutant_tensors import CENTERS, SIGMA, archived, lying, repacked, saved
from mutants import damaged

import gpuion
from gpuion import chains, climb, starts, work
from gpuion.labeling import Labels


def score(centers):
    return centers.double().sum((1, 2))


@functools.cache
def chain():
    """Return the files of a state of two chains after two cycles, by name."""
    start = CENTERS.expand(2, -1, -1)
    with tempfile.TemporaryDirectory() as folder:
        state = gpuion.anneal(score, start, box=20.0, diameter=SIGMA, cycles=2, steps=4, samples=2)
        chains.save_state(Path(folder, "state.pt"), state)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def one_of(draw, folder, whole):
    """Write files, the content or bytes of one of them spoilt."""
    name = draw.choice(sorted(whole))
    for other, content in whole.items():
        (folder / other).write_bytes(content)
    way = draw.choices((damaged, repacked, lying, archived, saved), (3, 2, 1, 1, 5))[0]
    content = torch.load(io.BytesIO(whole[name]), weights_only=True) if way is saved else whole[name]
    new, recipe = way(draw, content)
    (folder / name).write_bytes(new)
    return f"{name}, {way.__name__}: {recipe}"


def make_state(draw, folder):
    return folder / "state.pt", one_of(draw, folder, chain())


def read_state(path):
    """Read a state and let its chains go on for a cycle, or refuse to."""
    state = chains.load_state(path)
    start = CENTERS.expand(2, -1, -1)
    with contextlib.suppress(ValueError):
        done = gpuion.anneal(score, start, box=20.0, diameter=SIGMA, cycles=3, steps=4, samples=2, state=state)
        return "" if done.cycles == 3 else "no third cycle"
    return ""


LABELS = Labels(
    diffusivity=torch.ones(2, 3, dtype=torch.float64), standard_error=torch.ones(2, 3, dtype=torch.float64),
    converged=torch.ones(2, dtype=torch.bool),
)  # fmt: skip


def make_batch(draw, folder):
    at = torch.arange(2)
    content = {"mark": "m", "at": at, "id": at, "centers": CENTERS.expand(2, -1, -1).clone()} | vars(LABELS)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return folder / "shard.h5", one_of(draw, folder, {".shard.h5.00000.batch": buffer.getvalue()})


def read_batch(path):
    """Label a shard of three structures of which two were labelled before: what is damaged is labelled again."""

    def solve(centers, _ids):
        at = torch.zeros(len(centers), dtype=torch.int64)
        return Labels(**{name: None if x is None else x[at] for name, x in vars(LABELS).items()})

    found = work.label_shard(
        path, CENTERS.expand(3, -1, -1), torch.arange(3), 8, solve, lambda *_: None, mark="m"
    )  # fmt: skip
    work.drop(path)
    whole = found.diffusivity.shape == (3, 3) and found.converged.dtype is torch.bool
    return "" if whole and bool(found.diffusivity.isfinite().all()) else "no label of a structure"


def make_start(draw, folder):
    buffer = io.BytesIO()
    content = {"centers": CENTERS, "ids": torch.arange(1), "trace": [1.0, 2.0], "seconds": 1.0}
    torch.save(content, buffer)
    return folder / "start.pt", one_of(draw, folder, {"start.pt": buffer.getvalue()})


class Data:
    centers, box = CENTERS, 20.0


def read_start(path):
    """Read kept start structures, and a kept climb."""
    with contextlib.suppress(gpuion.CheckpointError):
        climb.run(None, None, CENTERS[0], path)
    held = starts.starts_of(path, Data, torch.arange(1), "ascent", None, seed=0, net=None)
    return "" if held.shape == CENTERS.shape and bool(np.isfinite(held.numpy()).all()) else "other structures"


FEW = {"state": (make_state, read_state), "batch": (make_batch, read_batch), "start": (make_start, read_start)}
