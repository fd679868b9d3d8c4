"""Labels that did not settle teach, choose and test no network, and move no other structure to another part."""

import dataclasses
import json

import pytest
import torch
from test_train_script import script, write_folder

from gpuion import manage
from gpuion.dataset import open_dataset
from gpuion.errors import DatasetError
from gpuion.parts import divide


def test_labels_that_did_not_settle_take_no_part(tmp_path):
    data = open_dataset(write_folder(tmp_path / "a", 40))
    whole = divide(["a"], [data], 15)
    assert [len(whole[name]) for name in ("train", "validation", "test")] == [24, 8, 8]
    lost = torch.arange(40) % 4 == 0
    part = divide(["a"], [dataclasses.replace(data, converged=~lost)], 15)
    for name, samples in whole.items():
        kept = ~lost[samples.id]
        assert 0 < int(kept.sum()) < len(samples)
        assert torch.equal(part[name].id, samples.id[kept])
        assert torch.equal(part[name].target, samples.target[kept])
    with pytest.raises(DatasetError, match="a: expected settled labels in each part of its split, found none in train"):
        divide(["a"], [dataclasses.replace(data, converged=torch.zeros(40, dtype=torch.bool))], 15)


def test_the_script_says_how_many_are_left_out(tmp_path, capsys):
    more = write_folder(tmp_path / "b", 20, seed=1, converged=torch.arange(20) >= 3)
    data = write_folder(tmp_path / "a", 20)
    script("--data", data, more, "--out", tmp_path / "out", "--epochs", 1)
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "3 of 40 structures are left out: their labels did not settle"
    assert not {0, 1, 2} & set(json.loads((tmp_path / "out/predictions.json").read_text())["id"][4:])
    script("--data", data, "--out", tmp_path / "all", "--epochs", 1)
    assert "left out" not in capsys.readouterr().out
    row = json.loads((tmp_path / "all/timing.json").read_text())[0]
    assert (row["stage"], row["count"], row["unit"], row["processes"]) == ("train", 12, "samples", 1)


def test_a_split_of_the_folder_is_kept_to(tmp_path):
    folder = write_folder(tmp_path / "a", 40)
    usual = divide(["a"], [open_dataset(folder)], 15)
    manage.split(folder, 0, (0.6, 0.2, 0.2), "none")
    assert open_dataset(folder).part is not None
    for name, samples in divide(["a"], [open_dataset(folder)], 15).items():
        assert torch.equal(samples.id.sort().values, usual[name].id.sort().values)  # seed 0 is the usual one
    (folder / "split.json").unlink()
    manage.split(folder, 1, (0.5, 0.2, 0.3), "none")
    data = open_dataset(folder)
    found = divide(["a", "b"], [data, data.subset(slice(None))], 15)
    assert {name: len(samples) for name, samples in found.items()} == {
        "train": 40, "validation": 16, "test": 12, "test of b": 12,
    }  # fmt: skip
    assert set(found["test"].id.tolist()) == set(data.id[torch.from_numpy(data.part == "test")].tolist())
    assert set(found["test"].id.tolist()) != set(usual["test"].id.tolist())
