"""Folders of shards: order, unit of D*, completeness, merging."""

import dataclasses

import pytest
import torch
from test_dataset import make

import gpuion
from gpuion.dataset import open_dataset, write_shard, write_summary
from gpuion.errors import DatasetError


def folder(path, n_shards=3, **changes):
    path.mkdir()
    for k in range(n_shards):
        write_shard(path / f"shard-{k:05d}.h5", make(first=5 * k, **changes), seed=0)
    return path


def test_a_folder_is_read_in_order_and_its_reference_kept(tmp_path):
    home = folder(tmp_path / "a")
    data = open_dataset(home)
    assert data.id.tolist() == list(range(15))
    assert len(data) == 15
    assert data.settled.tolist() == [True, False] * 2 + [True] + ([True, False] * 2 + [True]) * 2
    assert data.d_reference == float(data.mean_diffusivity[data.converged].max())
    assert data.d_reference < float(data.mean_diffusivity.max())
    assert data.d_star[data.settled].max() == 1
    write_summary(home, dataclasses.replace(data, d_reference=3.0))
    data = open_dataset(home)
    assert data.d_reference == 3.0
    torch.testing.assert_close(data.d_star, data.diffusivity.mean(1) / 3, rtol=0, atol=0)
    assert open_dataset(home / "shard-00001.h5").d_reference == 3.0
    (home / "shard-00001.h5").unlink()
    with pytest.raises(DatasetError, match="n_structures: expected 15 in the shards, found 10"):
        open_dataset(home)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected a JSON file"),
        ("[]", "expected JSON that is a dict, found a list"),
        ('{"schema": "gpuion-dataset", "version": 9, "d_reference": 1, "n_structures": 5}', "version 2, found .*9"),
        ('{"schema": "gpuion-dataset", "version": 2, "d_reference": -1, "n_structures": 5}', "d_reference: expected"),
    ],
)
def test_damaged_summary(tmp_path, text, message):
    write_shard(tmp_path / "shard-00000.h5", make(), seed=3)
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DatasetError, match=rf"dataset\.json.*{message}"):
        open_dataset(tmp_path)


def test_merging(tmp_path):
    a, b = folder(tmp_path / "a"), folder(tmp_path / "b", 2, extra=False, method="kmc", d_reference=9.0)
    both = open_dataset([a, b / "shard-00001.h5"])
    assert both.id.tolist() == [*range(15), *range(5, 10)]
    assert both.predicted is None
    assert both.converged is None
    assert both.method == "mixed"
    assert both.d_reference == open_dataset(a).d_reference
    assert open_dataset([b, a]).d_reference == 9.0
    assert open_dataset(a).chain is not None


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("N", {"N": 4}), ("box", {"box": 21.0}), ("diameter", {"diameter": 4.6}),
        ("sites_per_voxel", {"sites_per_voxel": 1}),
        ("model", {"model": gpuion.TransportModel(affinity=7.0)}),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_not_merged(tmp_path, name, changes):
    a, b = folder(tmp_path / "a"), folder(tmp_path / "b", **changes)
    with pytest.raises(DatasetError, match=rf"b.shard-00000.h5: {name}: expected .* as in .*a.shard-00000.h5, found"):
        open_dataset([a, b])


def test_without_settled_labels_the_largest_of_all_is_the_unit(tmp_path):
    home = folder(tmp_path / "a", converged=torch.zeros(5, dtype=torch.bool))
    data = open_dataset(home)
    assert data.d_reference == float(data.mean_diffusivity.max())
    write_summary(home, dataclasses.replace(data, d_reference=torch.nan))
    assert open_dataset(home).d_reference == data.d_reference
    plain = make(extra=False)
    assert plain.settled.all()


def test_a_fingerprint_tells_labels_structures_and_unit():
    data = make()
    changes = [{}, {"diffusivity": data.diffusivity * 1.01}, {"centers": data.centers.flip(0)}, {"d_reference": 2.0}]
    changes += [{"family": data.family[::-1]}, {"converged": None}, {"model": gpuion.TransportModel(affinity=7.0)}]
    assert len({dataclasses.replace(data, **change).fingerprint for change in changes}) == len(changes)
    assert make().fingerprint == data.fingerprint
