"""The command line that writes structures for OVITO, ASE and ParaView."""

import dataclasses
import re
import subprocess
import sys
import unittest.mock
from pathlib import Path

import numpy as np
import pytest
import torch
from test_dataset import make
from test_vtkhdf import read
from test_xyz import parse

import gpuion
from gpuion import dataset, export


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set of three small structures with ids 4, 5 and 9, and a second with id 9 once more."""
    home = tmp_path_factory.mktemp("data")
    centers = gpuion.place("random", n_structures=3, n_particles=2, box=8.0, diameter=3.0, seed=1)
    data = gpuion.Dataset(
        centers=centers, diffusivity=torch.rand(3, 3).double(), standard_error=torch.zeros(3, 3).double(),
        id=torch.tensor([4, 5, 9]), family=np.array(["random"] * 3), distance=torch.full((3, 2), torch.nan).double(),
        gap=torch.full((3,), torch.nan).double(), axes=torch.zeros(3, 3, dtype=torch.bool), box=8.0, diameter=3.0,
        sites_per_voxel=1, method="exact", model=gpuion.TransportModel(affinity=3.0),
    )  # fmt: skip
    for name, part in (("a", data), ("b", data.subset([2]))):
        (home / name).mkdir()
        dataset.write_shard(home / name / "shard-00000.h5", part, seed=0)
        dataset.write_summary(home / name, part)
    return home


def call(*arguments):
    with unittest.mock.patch.object(sys, "argv", ["gpuion.export", *map(str, arguments)]):
        export.main()


def test_all_or_some_arrangements(folder, tmp_path, capsys):
    data = gpuion.open_dataset(folder / "a")
    call(folder / "a", "--xyz", tmp_path / "all.xyz")
    assert [int(pairs["id"]) for pairs, _ in parse(tmp_path / "all.xyz")] == [4, 5, 9]
    call(folder / "a", "--ids", 9, 4, "--xyz", tmp_path / "some.xyz")
    frames = parse(tmp_path / "some.xyz")
    assert [int(pairs["id"]) for pairs, _ in frames] == [9, 4]
    assert np.array_equal(frames[0][1][:, :3].astype(np.float32), data.centers[2].numpy())
    call(folder / "a", folder / "b", "--ids", 9, "--xyz", tmp_path / "both.xyz")
    assert len(parse(tmp_path / "both.xyz")) == 2
    assert capsys.readouterr().out.splitlines()[1] == f"2 structures in {tmp_path / 'some.xyz'}"


def test_all_that_a_frame_says_is_documented(tmp_path):
    text = (Path(__file__).parent.parent / "docs" / "export.md").read_text()
    table = text[text.index("| name |") : text.index("Positions have")]
    told = [name for row in table.splitlines()[2:] for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    gpuion.write_xyz(tmp_path / "all.xyz", dataclasses.replace(make(), d_reference=2.0))
    held = {key for pairs, _ in parse(tmp_path / "all.xyz") for key in pairs}
    assert sorted(told) == sorted(held - {"Lattice", "pbc", "Properties"})


def test_the_medium_of_one_structure_and_its_current(folder, tmp_path, capsys):
    data = gpuion.open_dataset(folder / "a")
    call(folder / "a", "--id", 5, "--vtkhdf", tmp_path / "a.vtkhdf", "--device", "cpu")
    expected = gpuion.electrolyte(data.centers[1:2], box=8.0, diameter=3.0, model=data.model)
    assert np.array_equal(read(tmp_path / "a.vtkhdf")[1]["label"], expected.labels[0].numpy())
    assert f"structure 5 on 8³ sites in {tmp_path / 'a.vtkhdf'}" in capsys.readouterr().out
    call(folder / "a", "--id", 5, "--vtkhdf", tmp_path / "b.vtkhdf", "--sites-per-voxel", 2, "--axis", 1)
    attributes, found = read(tmp_path / "b.vtkhdf")
    assert attributes["Spacing"].tolist() == [0.5] * 3
    assert found["label"].shape == (16, 16, 16)
    inside = (data.centers[1] / 0.5).long().numpy()  # the sites that hold the spheres' centres, of both files
    assert (found["label"][tuple(inside.T)] == 255).all()
    fine = gpuion.electrolyte(data.centers[1:2], box=8.0, diameter=3.0, sites_per_voxel=2, model=data.model)
    J = gpuion.currents(fine, 1)[0].mean((1, 2, 3))
    # float32 of each site: 2⁻²⁴ of currents up to some 10 D.
    np.testing.assert_allclose(found["current"].mean((0, 1, 2), dtype=np.float64), J, rtol=0, atol=1e-6 * float(J[1]))


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["DATA"], 2, "error: nothing to write: give --xyz or --vtkhdf"),
        (["DATA", "--xyz", "x.xyz", "--id", "4"], 2, "error: --id is of --vtkhdf"),
        (["DATA", "--xyz", "x.xyz", "--axis", "0"], 2, "error: --axis is of --vtkhdf"),
        (["DATA", "--xyz", "x.xyz", "--sites-per-voxel", "0"], 2, "error: --sites-per-voxel is of --vtkhdf"),
        (["DATA", "--vtkhdf", "x.vtkhdf"], 2, "error: --vtkhdf needs --id"),
        (["DATA", "--vtkhdf", "x.vtkhdf", "--id", "4", "--ids", "5"], 2, "error: --ids are of --xyz"),
        (["DATA", "--vtkhdf", "x.vtkhdf", "--id", "4", "--axis", "3"], 2, "error: argument --axis: invalid choice"),
        (["DATA", "--xyz", "no/x.xyz"], 2, "error: no/x.xyz cannot be written: there is no folder no"),
        (["DATA", "--xyz", "x.xyz", "--axiz", "0"], 2, "error: unknown flag --axiz; did you mean --axis?"),
        (
            ["DATA", "--xyz", "x.xyz", "--ids", "4", "6"],
            1,
            "error: id: expected some of the 3 structures, 4 … 9, found [6]",
        ),
        (["DATA", "--vtkhdf", "x.vtkhdf", "--id", "6"], 1, "error: id: expected some of the 3 structures"),
        (["DATA", "MORE", "--vtkhdf", "x.vtkhdf", "--id", "9"], 1, "error: id: expected one structure 9, found 2"),
        (
            ["DATA", "--vtkhdf", "x.vtkhdf", "--id", "4", "--sites-per-voxel", "0"],
            1,
            "error: sites per voxel must be a",
        ),
        (["DATA", "--xyz", "x.xyz", "--device", "tpu"], 2, "error: device 'tpu' is unknown"),
        (["/nowhere", "--xyz", "x.xyz"], 1, "error: /nowhere: expected a folder of shards"),
        (["DATA", "--xyz", "."], 1, "error: "),
    ],
)
def test_what_is_wrong_is_one_line(folder, tmp_path, monkeypatch, capsys, arguments, code, line):
    homes = {"DATA": str(folder / "a"), "MORE": str(folder / "b")}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpuion.export", *(homes.get(word, word) for word in arguments)])
    with pytest.raises(SystemExit) as left:
        export.command_line()
    assert left.value.code == code
    err = capsys.readouterr().err
    assert err.startswith(line)
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_it_runs_as_a_module(folder, tmp_path):
    command = [sys.executable, "-m", "gpuion.export", folder / "a", "--xyz", tmp_path / "a.xyz"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(parse(tmp_path / "a.xyz")) == 3
