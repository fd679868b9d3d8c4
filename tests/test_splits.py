"""Splits: shares of each stratum, the file that fixes them, merging, the command."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_dataset import make
from test_folders import folder
from test_manage import call

from gpuion import manage, splits
from gpuion.dataset import open_dataset, write_summary
from gpuion.errors import ConfigError, DatasetError

FRACTIONS = (0.6, 0.2, 0.2)


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    weights=st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)).filter(any),
)
def test_every_stratum_has_its_share_of_each_part_to_within_one(sizes, weights):
    strata = np.repeat(np.arange(len(sizes)), sizes)
    fractions = tuple(w / sum(weights) for w in weights)
    part = splits.stratified(strata, 0, fractions)
    for name, fraction in zip(splits.PARTS, fractions, strict=True):
        assert abs((part == name).sum() - len(part) * fraction) <= 1 + 1e-6
        for number, size in enumerate(sizes):
            assert abs((part[strata == number] == name).sum() - size * fraction) <= 1 + 1e-6


def test_the_papers_numbers_and_a_random_choice_within():
    strata = np.repeat(["random", "chained", "gapped"], (722, 5304, 2166))
    part = splits.stratified(strata, 0)
    assert [(part == name).sum() for name in splits.PARTS] == [4916, 1638, 1638]
    assert not np.array_equal(part, splits.stratified(strata, 1))
    # Positions of the 144 tested of 722 random ones: mean 360.5, σ = 722/√(12·144)·√0.8 = 15.5, four σ of a fixed seed.
    assert abs(np.flatnonzero(part[:722] == "test").mean() - 360.5) < 4 * 15.5


def test_fifths_of_the_diffusivity_within_each_family():
    g = torch.Generator().manual_seed(0)
    data = make(n=200, extra=False, diffusivity=torch.rand(200, 3, generator=g, dtype=torch.float64) + 0.1)
    part = splits.assign(data, 0, FRACTIONS, "diffusivity")
    D = data.mean_diffusivity.numpy()
    for family in set(data.family):
        mine = np.flatnonzero(data.family == family)  # 40: fifths of 8, of which 4.8, 1.6 and 1.6
        for fifth in mine[np.argsort(D[mine])].reshape(5, 8):
            assert 1 <= (part[fifth] == "test").sum() <= 2
            assert 4 <= (part[fifth] == "train").sum() <= 5
    by_family = splits.assign(data, 0, FRACTIONS, "family")
    assert all((by_family[data.family == family] == "test").sum() == 8 for family in set(data.family))
    plain = splits.split(200, 0)
    assert np.array_equal(splits.assign(data, 0, FRACTIONS, "none"), splits.named(plain))
    assert all(
        torch.equal(a, b.sort().values) for a, b in zip(splits.positions(splits.named(plain)), plain, strict=True)
    )
    with pytest.raises(ValueError, match="stratify must be one of none, family, diffusivity, got 'size'"):
        splits.assign(data, 0, FRACTIONS, "size")


@pytest.fixture
def home(tmp_path):
    path = folder(tmp_path / "a")
    write_summary(path, dataclasses.replace(open_dataset(path), d_reference=2.0))
    return path


def test_a_split_is_written_once_read_and_carried_by_subsets(home, capsys):
    before = open_dataset(home)
    assert before.part is None
    for _ in range(2):  # the same again is no change
        call("split", home, "--stratify", "family", "--seed", 3)
    assert capsys.readouterr().out.splitlines()[1] == f"train 9, validation 3, test 3 in {home}"
    data = open_dataset(home)
    assert data.fingerprint != before.fingerprint  # a network of another split is another run
    assert [(data.part == name).sum() for name in splits.PARTS] == [9, 3, 3]
    assert np.array_equal(data.part, splits.assign(before, 3, FRACTIONS, "family"))
    assert data.subset([4, 2]).part.tolist() == data.part[[4, 2]].tolist()
    assert (data.subset(torch.from_numpy(data.part == "test")).part == "test").all()
    assert open_dataset(home / "shard-00001.h5").part is None
    with pytest.raises(ConfigError, match=r"split\.json holds another split; remove it to give up that test set"):
        call("split", home)
    capsys.readouterr()
    call("info", home)
    assert "parts: train 9, validation 3, test 3 (seed 3, fractions [0.6, 0.2, 0.2], stratify family)" in (
        capsys.readouterr().out
    )


def change(**changes):
    def apply(path):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_text("{"), "expected a JSON file, found: JSONDecodeError"),
        (lambda path: path.write_text("[]"), "expected JSON that is a dict, found a list"),
        (change(test=["1"]), "expected a split, found: TypeError"),
        (change(test=[1.5]), "expected a split, found: TypeError"),
        (change(version=2), "schema: expected gpuion-split version 1, found \\('gpuion-split', 2\\)"),
        (change(sha256="0"), "structures: expected those of its folder, found a split of others"),
        (change(test=[0, 0, 1]), "expected each position once, from 0 to 14, found others"),
        (change(test=[15]), "expected each position once"),
        (change(test=[-1]), "expected each position once"),
    ],
)
def test_a_split_that_is_damaged_or_of_others_is_refused(home, damage, message):
    manage.split(home, 0, FRACTIONS, "none")
    damage(home / "split.json")
    with pytest.raises(DatasetError, match=rf"split\.json: {message}"):
        open_dataset(home)


def test_a_split_is_of_structures_not_of_labels(home, tmp_path):
    manage.split(home, 0, FRACTIONS, "none")
    other = folder(tmp_path / "b", diffusivity=torch.ones(5, 3, dtype=torch.float64))
    (other / "split.json").write_bytes((home / "split.json").read_bytes())
    assert np.array_equal(open_dataset(other).part, open_dataset(home).part)
    (other / "shard-00002.h5").unlink()
    with pytest.raises(DatasetError, match="found a split of others"):
        open_dataset(other)


def test_merged_splits_are_one_or_none(home, tmp_path, capsys):
    more = folder(tmp_path / "b", 2, predicted=torch.arange(5).double())  # other annealings met the same
    manage.split(home, 0, FRACTIONS, "none")
    call("merge", home, more, "--out", tmp_path / "c")
    assert "their splits are left behind" in capsys.readouterr().out
    assert open_dataset(tmp_path / "c").part is None
    manage.split(more, 1, FRACTIONS, "none")
    call("merge", home, more, "--out", tmp_path / "c")
    assert "left behind" not in capsys.readouterr().out
    joined = np.concatenate([open_dataset(home).part, open_dataset(more).part])
    assert np.array_equal(open_dataset(tmp_path / "c").part, joined)
    assert np.array_equal(open_dataset([home, more]).part, joined)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--fractions", "0.6", "0.2", "0.3"], "add up to 1"),
        (["--fractions", "1.2", "-0.1", "-0.1"], "must be ≥ 0"),
    ],
)
def test_impossible_fractions(home, flags, message):
    with pytest.raises(ValueError, match=message):
        call("split", home, *flags)
    with pytest.raises(DatasetError, match="expected a folder of shards, found none"):
        call("split", home / "shard-00000.h5")
    assert not (home / "split.json").exists()
