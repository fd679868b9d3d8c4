"""Merging and describing data sets from the command line."""

import dataclasses
import sys
import unittest.mock

import numpy as np
import pytest
import torch

import gpuion
from gpuion import dataset, files, manage, shards, splits


def write(folder, n, family, d_reference=0.2, box=20.0):
    """Write a small data set of made-up labels."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(n)
    data = gpuion.Dataset(
        centers=torch.rand(n, 3, 3, generator=generator) * box,
        diffusivity=torch.rand(n, 3, generator=generator, dtype=torch.float64),
        standard_error=torch.zeros(n, 3, dtype=torch.float64), id=torch.arange(n), family=np.array([family] * n),
        distance=torch.full((n, 2), torch.nan, dtype=torch.float64), gap=torch.full((n,), torch.nan).double(),
        axes=torch.zeros(n, 3, dtype=torch.bool), box=box, diameter=5.0, sites_per_voxel=1, method="exact",
        d_reference=d_reference,
    )  # fmt: skip
    dataset.write_shard(folder / "shard-00000.h5", data, seed=0)
    dataset.write_summary(folder, data)
    return data


def call(*arguments):
    with unittest.mock.patch.object(sys, "argv", ["gpuion.dataset", *map(str, arguments)]):
        manage.main()


def test_merge_keeps_every_structure_and_the_first_reference(tmp_path, capsys):
    first = write(tmp_path / "a", 4, "annealed-max", d_reference=0.2)
    second = write(tmp_path / "b", 3, "annealed-min", d_reference=0.3)
    for _ in range(2):  # the second time goes over the first
        call("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "c")
    merged = gpuion.open_dataset(tmp_path / "c")
    assert torch.equal(merged.centers, torch.cat([first.centers, second.centers]))
    assert merged.d_reference == 0.2
    assert (tmp_path / "c/shard-00001.h5").read_bytes() == (tmp_path / "b/shard-00000.h5").read_bytes()
    assert "7 structures" in capsys.readouterr().out


def test_merge_refuses_other_cells_and_other_folders(tmp_path):
    write(tmp_path / "a", 2, "random")
    write(tmp_path / "b", 2, "random", box=25.0)
    with pytest.raises(gpuion.DatasetError, match="box"):
        call("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "c")
    assert not (tmp_path / "c").exists()
    with pytest.raises(gpuion.ConfigError, match="choose another --out"):
        call("merge", tmp_path / "a", "--out", tmp_path / "b")
    assert len(gpuion.open_dataset(tmp_path / "b")) == 2


def test_merge_takes_no_structure_twice(tmp_path):
    first, second = write(tmp_path / "a", 4, "random"), write(tmp_path / "b", 3, "random")
    for sources in (("a", "a"), ("a", "b", "a")):
        with pytest.raises(gpuion.DatasetError, match=r"found 4 of them twice or more: 0, 1, 2, 3 …; give each source"):
            call("merge", *(tmp_path / name for name in sources), "--out", tmp_path / "c")
    second.centers[1] = first.centers[1]  # one that was labelled before, in another way
    dataset.write_shard(tmp_path / "b" / "shard-00000.h5", second, seed=0)
    with pytest.raises(gpuion.DatasetError, match="found 1 of them twice or more: 1 …"):
        call("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_rounds_may_meet_the_same_arrangement(tmp_path):
    first = write(tmp_path / "a", 4, "annealed-max")
    for name, predicted in (("a", torch.ones(4)), ("b", torch.full((4,), torch.nan))):
        (tmp_path / name).mkdir(exist_ok=True)
        data = dataclasses.replace(first, predicted=predicted.double())
        dataset.write_shard(tmp_path / name / "shard-00000.h5", data, seed=0)
        dataset.write_summary(tmp_path / name, data)
    call("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "c")
    assert len(gpuion.open_dataset(tmp_path / "c")) == 8


@pytest.mark.parametrize(
    ("n", "flags", "message"),
    [
        (2, [], "of 2 structures none would be for validation and test; split a larger set, or choose other"),
        (9, ["--fractions", "1", "0", "0"], "of 9 structures none would be for validation and test"),
        (9, ["--fractions", "0", "0.5", "0.5", "--stratify", "family"], "none would be for train"),
        (9, ["--fractions", "nan", "0.5", "0.5"], "the fractions add up to 1"),
        (9, ["--seed", "-1"], "seed must be a whole number, 0 or more, got -1"),
        (9, ["--seed", str(2**64)], "seed must lie in"),
    ],
)
def test_a_split_that_is_none_is_refused(tmp_path, n, flags, message):
    write(tmp_path / "a", n, "random")
    with pytest.raises(ValueError, match=message):
        call("split", tmp_path / "a", *flags)
    assert not (tmp_path / "a" / "split.json").exists()


def test_info_says_what_is_there(tmp_path, capsys):
    write(tmp_path / "a", 5, "gapped")
    call("info", tmp_path / "a")
    shown = capsys.readouterr().out
    assert "5 structures of 3 spheres" in shown
    assert "gapped" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["info", "/nowhere"], 1, "error: /nowhere: expected a folder of shards or a shard, found nothing there"),
        (["info", "/dev/null"], 1, "error: /dev/null: expected a readable HDF5 file"),
        (["merge", "/nowhere", "--out", "x"], 1, "error: /nowhere: expected a folder"),
        (["merge", "a", "--out", "x", "--uot", "y"], 2, "error: unknown flag --uot; did you mean --out?"),
        (["merge", "a"], 2, "error: the following arguments are required: --out"),
        (["merge", "a", "--ou", "x"], 2, "error: unknown flag --ou; did you mean --out?"),
        (["inof", "a"], 2, "error: argument command: invalid choice: 'inof'"),
        ([], 2, "error: the following arguments are required: command"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, monkeypatch, capsys, arguments, code, line):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpuion.dataset", *arguments])
    with pytest.raises(SystemExit) as left:
        manage.command_line()
    assert left.value.code == code
    err = capsys.readouterr().err
    assert err.startswith(line)
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_info_tells_parameters_labels_and_origin(tmp_path, capsys):
    n = 6
    data = write(tmp_path / "a", n, "random")
    gapped = torch.tensor([False, True, True, False, False, False])
    chained = torch.tensor([False, False, True, True, True, False])
    data = dataclasses.replace(
        data, family=np.array(["random", "gapped", "gapped", "chained", "chained", "random"]), method="both",
        gap=torch.where(gapped, torch.arange(n).double() + 3, torch.nan),
        axes=gapped[:, None] & torch.tensor([[True, False, True]]),
        distance=torch.where(chained[:, None], torch.arange(n).double()[:, None] + torch.tensor([6, 8]), torch.nan),
        z_score=torch.tensor([[0.0, 1.0, -5.0]] + [[0.0, 1.0, 2.0]] * 4 + [[torch.nan] * 3], dtype=torch.float64),
        converged=torch.arange(n) > 0,
    )  # fmt: skip
    config = {"method": "both", "tolerance": 0.005, "walkers": 300, "time": "auto", "rtol": 0.02}
    dataset.write_shard(tmp_path / "a" / "shard-00000.h5", data, seed=5, config=config)
    call("info", tmp_path / "a")
    shown = capsys.readouterr().out
    for line in (
        "1 labels did not settle",
        "walk and exact solve more than 4σ apart: 1 of 5 settled (chance: 0.00095)",
        "parts: not fixed; train.py takes 60/20/20 of a folder with seed 0",
        "; slabs of 4 to 5, on 1, 2, 3 axes: [0, 2, 0]",
        "; distances 9 to 12 in 2 ranges",
        "; distances 8 to 10 in 1 range; slabs",
        "tolerance: 0.005; walkers: 300; time: auto; rtol: 0.02",
        "seed: 5\n",
        f"machine: {files.provenance()['machine']}\n",
        f"commit: {files.provenance()['commit']}\n",
    ):
        assert line in shown, line


def two_shards(folder, **changes):
    """Write 20 structures of two families in two shards, with a unit of D* of their own."""
    folder.mkdir()
    data = write(folder / "made", 20, "random", d_reference=0.3)
    data = dataclasses.replace(data, family=np.array(["random", "gapped"] * 10), **changes)
    for k in range(2):
        some = data.subset(slice(10 * k, 10 * k + 10))
        dataset.write_shard(folder / f"shard-{k:05d}.h5", some, seed=7, config={"tolerance": 0.005})
    dataset.write_summary(folder, data)
    return data


def test_a_subset_keeps_parts_order_unit_and_origin(tmp_path, capsys):
    data = two_shards(tmp_path / "a")
    part = splits.parts_of(gpuion.open_dataset(tmp_path / "a"))
    for _ in range(2):  # the second time goes over the first
        call("subset", tmp_path / "a", "--train", 5, "--validation", 2, "--out", tmp_path / "b")
    assert "train 5, validation 2, test 4 in" in capsys.readouterr().out
    found = gpuion.open_dataset(tmp_path / "b")
    wanted = {name: np.flatnonzero(part == name)[:count] for name, count in zip(splits.PARTS, (5, 2, 4), strict=True)}
    at = np.sort(np.concatenate(list(wanted.values())))
    assert found.id.tolist() == at.tolist()
    assert torch.equal(found.centers, data.centers[at])
    assert found.part.tolist() == part[at].tolist()
    assert found.d_reference == 0.3
    _, attributes = shards.read(max((tmp_path / "b").glob("shard-*.h5")))
    assert (attributes["seed"], attributes["config"]) == (7, '{"tolerance": 0.005}')
    call("split", tmp_path / "a")  # now the whole names its parts, as they were
    call("subset", tmp_path / "a", "--train", 0, "--family", "gapped", "--out", tmp_path / "c")
    gapped = gpuion.open_dataset(tmp_path / "c")
    assert set(gapped.family) == {"gapped"}
    assert gapped.id.tolist() == np.flatnonzero((part != "train") & (data.family == "gapped")).tolist()


def test_a_subset_that_cannot_be_is_refused_before_anything_is_written(tmp_path):
    two_shards(tmp_path / "a")
    for words, message in (
        (("--train", 13), "train must lie in 0 … 12"),
        (("--family", "chained"), "no structures of family chained; it has gapped, random"),
        (("--train", 0, "--validation", 0, "--test", 0), "nothing is left"),
    ):
        with pytest.raises(gpuion.ConfigError, match=message):
            call("subset", tmp_path / "a", *words, "--out", tmp_path / "b")
        assert not (tmp_path / "b").exists()
    with pytest.raises(gpuion.DatasetError, match="a subset is of a folder"):
        call("subset", tmp_path / "a" / "shard-00000.h5", "--out", tmp_path / "b")
    call("subset", tmp_path / "a", "--train", 3, "--out", tmp_path / "b")
    with pytest.raises(gpuion.ConfigError, match="choose another --out"):
        call("subset", tmp_path / "a", "--train", 4, "--out", tmp_path / "b")
