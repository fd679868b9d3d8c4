"""The data sets that come with gpuion: whole, and what the code makes today."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import gpuion
from gpuion import splits
from gpuion.config import read_preset
from gpuion.descriptors import nearest_distance
from gpuion.labeling import label

ROOT = Path(__file__).parent.parent
DATA = ROOT / "data"
OTHERS = {"study-2": 2, "study-3": 3, "study-5": 5, "study-walks": 1}
LOADED = {"phi-0.05": 46, "phi-0.15": 137}


@pytest.fixture(scope="module")
def study():
    return gpuion.open_dataset(DATA / "study")


@pytest.fixture(scope="module")
def design():
    """Return the design and the order of its structures, as simulate.py has them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        script = importlib.import_module("simulate")
        return script.plan(script.Config(**read_preset(ROOT, "study", "simulate", script.Config)))


def test_the_study_is_the_papers_design(study, design):
    structures, numbers = design
    assert study.id.tolist() == numbers
    assert sorted(numbers) == list(range(8192))
    count = {family: int((study.family == family).sum()) for family in set(study.family)}
    assert count == {"random": 722, "chained": 5304, "gapped": 2166}
    assert study.centers.shape == (8192, 91, 3)
    assert study.box == 75.0
    assert study.diameter == pytest.approx(9.6024, abs=5e-5)
    assert study.sites_per_voxel == 1
    assert study.method == "exact"
    assert bool(study.settled.all())
    # What 0.5% of D_aa is an error of; the solver stops below it.
    assert (study.standard_error <= 5e-3 * study.diffusivity).all()
    assert study.d_reference == float(study.mean_diffusivity.max())
    at = torch.tensor([7, 1000, 4095, 8191])
    for i in at.tolist():
        case = structures.case(numbers[i])
        assert case.family == study.family[i]
        assert case.axes == (tuple(study.axes[i].nonzero()[:, 0].tolist()) or None)


def test_some_structures_and_their_labels_are_made_again(study, design):
    structures, numbers = design
    firsts = [int(np.flatnonzero(study.family == family)[9]) for family in ("random", "chained", "gapped")]
    at = torch.tensor(firsts)
    again = structures.centers([numbers[i] for i in at.tolist()])
    assert torch.equal(again, study.centers[at])
    labels = label(again, box=75.0, diameter=study.diameter, tolerance=5e-3)
    # Both solves stop within their own estimates; on the machine that made the data they are equal.
    allowed = study.standard_error[at] + labels.standard_error
    assert ((labels.diffusivity - study.diffusivity[at]).abs() <= allowed).all()
    tight = label(again, box=75.0, diameter=study.diameter, tolerance=1e-4)
    assert ((tight.diffusivity - study.diffusivity[at]).abs() <= 5e-3 * tight.diffusivity).all()


def test_the_split_is_fixed(study):
    assert {part: int((study.part == part).sum()) for part in splits.PARTS} == {
        "train": 4916, "validation": 1638, "test": 1638,
    }  # fmt: skip
    assert (study.part == splits.named(gpuion.dataset.split(8192, 0))).all()


@pytest.mark.parametrize("name", OTHERS)
def test_the_others_hold_structures_of_the_study(study, name):
    found = gpuion.open_dataset(DATA / name)
    assert found.sites_per_voxel == OTHERS[name]
    assert len(found) == {"study-5": 12, "study-walks": 90}.get(name, 60)
    assert torch.equal(found.centers, study.centers[: len(found)])  # the first ones: families have their shares
    assert found.id.tolist() == study.id[: len(found)].tolist()
    assert bool(found.settled.all())
    if OTHERS[name] <= 2:  # the others are dear
        cell = {"box": 75.0, "diameter": study.diameter, "sites_per_voxel": OTHERS[name]}
        again = label(found.centers[1:2], **cell, tolerance=5e-3)
        allowed = found.standard_error[1:2] + again.standard_error
        assert ((again.diffusivity - found.diffusivity[1:2]).abs() <= allowed).all()
    if name == "study-walks":
        assert found.diffusivity_kmc is not None
        assert found.z_score is not None
        assert not (found.z_score.abs() > 4).any()
        assert torch.equal(found.diffusivity, study.diffusivity[:90])
        assert int(found.converged_kmc.sum()) >= 60


@pytest.mark.parametrize("name", LOADED)
def test_other_volume_fractions_come_of_the_test_structures(study, name):
    found, source = gpuion.open_dataset(DATA / name), study.subset(study.part == "test").subset(slice(400))
    assert found.id.tolist() == source.id.tolist()
    assert found.d_reference == study.d_reference
    assert bool(found.settled.all())
    cell = {"box": 75.0, "diameter": study.diameter}
    again = gpuion.change_loading(source.centers[:3], LOADED[name], **cell, seed=0, ids=source.id[:3])
    assert torch.equal(found.centers[:3], again)
    labels = label(again[:1], **cell, tolerance=5e-3)
    allowed = found.standard_error[:1] + labels.standard_error
    assert ((labels.diffusivity - found.diffusivity[:1]).abs() <= allowed).all()


def test_what_searches_found_is_whole_and_solved_again(study):
    found = gpuion.open_dataset(DATA / "annealed")
    assert len(found) == 424
    searched = {name: int((found.family == name).sum()) for name in ("annealed-max", "annealed-min")}
    searched |= {name: int((found.family == name).sum()) for name in ("climbed-max", "climbed-min")}
    # By docs/annealing.md: searches of 30, 30, 30, 60 and twice 100, ten climbs and fifteen polished; 49 built by hand.
    assert searched == {"annealed-max": 190, "annealed-min": 160, "climbed-max": 15, "climbed-min": 10}
    assert torch.equal(found.predicted.isfinite(), torch.from_numpy(np.char.startswith(found.family, "annealed")))
    for name in ("box", "diameter", "sites_per_voxel", "model", "d_reference"):
        assert getattr(found, name) == getattr(study, name)
    assert bool(found.settled.all())
    assert (found.standard_error <= 1e-3 * found.diffusivity).all()  # the tolerance of all these searches' labels
    # No two spheres overlap; a coordinate in float32 is off by 75 · 2⁻²⁴, a distance by less than four of that.
    assert float(nearest_distance(found.centers, box=75.0).min()) >= found.diameter - 2e-5
    by_network = found.d_star.where(torch.from_numpy(found.family == "annealed-max"), 0.0)
    at = torch.stack([found.d_star.argmax(), found.d_star.argmin(), by_network.argmax()])
    assert found.family[at].tolist() == ["climbed-max", "climbed-min", "annealed-max"]
    text = (ROOT / "docs" / "annealing.md").read_text()
    for i, row in zip(at.tolist(), ("polished-up", "polished-down", "paper-full-up"), strict=True):
        line = next(line for line in text.splitlines() if line.startswith(f"| {row} |"))
        assert f" {float(found.d_star[i]):.4f} " in line
    again = label(found.centers[at], box=75.0, diameter=found.diameter, tolerance=1e-5)
    allowed = found.standard_error[at] + again.standard_error
    assert ((again.diffusivity - found.diffusivity[at]).abs() <= allowed).all()


def test_the_data_are_small():
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) <= 12e6


@pytest.mark.parametrize("document", ["README.md", "docs/data.md"])
def test_examples_that_open_the_study_run(document, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    (example,) = [block for block in blocks if '"data/study"' in block]
    monkeypatch.chdir(ROOT)
    exec(compile(example, document, "exec"), {})  # noqa: S102, our own text
    assert " 1638 " in " " + capsys.readouterr().out.replace("\n", " ")
