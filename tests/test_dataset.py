import json
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import torch

import gpuion
from gpuion import dataset, files, shards
from gpuion.dataset import Dataset, open_dataset, read_shard, split, write_shard
from gpuion.errors import DatasetError


def make(n=5, N=3, first=0, extra=True, **changes):
    g = torch.Generator().manual_seed(first + 1)
    fields = {
        "centers": torch.rand(n, N, 3, generator=g) * 20,
        "diffusivity": torch.rand(n, 3, generator=g, dtype=torch.float64) + 0.1,
        "standard_error": torch.rand(n, 3, generator=g, dtype=torch.float64) / 100,
        "id": torch.arange(first, first + n),
        "family": np.array(["random", "chained", "gapped", "annealed-max", "annealed-min"] * n)[:n],
        "distance": torch.tensor([[float("nan")] * 2, [5.0, 6.0]] * n, dtype=torch.float64)[:n],
        "gap": torch.tensor([float("nan"), 4.0] * n, dtype=torch.float64)[:n],
        "axes": torch.tensor([[False, True, False]] * n),
        "box": 20.0, "diameter": 4.5, "sites_per_voxel": 2, "method": "exact",
    }  # fmt: skip
    if extra:
        fields |= {
            "converged": torch.arange(n) % 2 == 0, "diffusivity_kmc": fields["diffusivity"] * 1.01,
            "standard_error_kmc": fields["standard_error"], "converged_kmc": torch.arange(n) % 3 == 0,
            "z_score": torch.tensor([[-1.5, 0.0, 2.0], [torch.nan] * 3] * n, dtype=torch.float64)[:n],
            "predicted": torch.rand(n, generator=g, dtype=torch.float64), "chain": torch.arange(n),
            "cycle": 7 * torch.arange(n),
        }  # fmt: skip
    return Dataset(**(fields | changes))


def assert_same(a, b):
    for name in shards.FIELDS:
        x, y = getattr(a, name), getattr(b, name)
        if x is None or y is None:
            assert x is y
        elif name == "family":
            assert x.tolist() == y.tolist()
        else:
            assert x.dtype == y.dtype
            torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)
    for name in ("box", "diameter", "sites_per_voxel", "method", "model"):
        assert getattr(a, name) == getattr(b, name)


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "shard-00000.h5"
    write_shard(path, make(), seed=3, config={"a": 1})
    return path


@pytest.mark.parametrize("extra", [True, False])
def test_what_is_written_is_read(tmp_path, extra):
    model = gpuion.TransportModel(reach=1.5)
    data = make(extra=extra, model=model)
    write_shard(tmp_path / "a.h5", data, seed=2**64 - 1)
    assert_same(read_shard(tmp_path / "a.h5"), data)
    assert read_shard(tmp_path / "a.h5").axes.dtype is torch.bool


def test_plain_h5py_reads_fields_units_and_attributes(shard):
    with h5py.File(shard) as file:
        assert file["centers"].shape == (5, 3, 3)
        assert file["centers"].attrs["unit"] == b"voxel"
        assert all("unit" in field.attrs and field.fletcher32 and field.chunks for field in file.values())
        assert file["family"].asstr()[...].tolist() == ["random", "chained", "gapped", "annealed-max", "annealed-min"]
        assert file.attrs["schema"] == b"gpuion-dataset"
        assert file.attrs["version"] == 2
        assert file.attrs["seed"] == 3
        assert json.loads(file.attrs["config"]) == {"a": 1}
        assert json.loads(file.attrs["model"])["reach"] == gpuion.TransportModel().reach
        assert "torch" in json.loads(file.attrs["versions"])
        assert file.attrs["machine"].decode() == files.provenance()["machine"]
        assert file.attrs["machine"].decode().startswith(files.processor())
        assert "d_reference" not in file.attrs
        texts = [(node, key) for node in (file, *file.values()) for key in node.attrs]
        assert all(h5py.check_vlen_dtype(node.attrs.get_id(key).dtype) is None for node, key in texts)


def test_equal_content_gives_equal_bytes(tmp_path, shard):
    time.sleep(1.1)  # HDF5's time stamps have a resolution of one second
    write_shard(tmp_path / "b.h5", make(), seed=3, config={"a": 1})
    assert (tmp_path / "b.h5").read_bytes() == shard.read_bytes()
    write_shard(tmp_path / "b.h5", make(gap=torch.zeros(5, dtype=torch.float64)), seed=3, config={"a": 1})
    assert (tmp_path / "b.h5").read_bytes() != shard.read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated(shard, share):
    whole = shard.read_bytes()
    shard.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DatasetError, match=r"shard-00000\.h5: expected a readable HDF5 file"):
        open_dataset(shard)


def edit(change):
    def apply(path):
        with h5py.File(path, "r+") as file:
            change(file)

    return apply


def replaced(name, value):
    def change(file):
        del file[name]
        file[name] = value

    return edit(change)


def poison(name):
    def change(file):
        file[name][1] = np.nan

    return edit(change)


DAMAGE = {
    "no schema": (
        edit(lambda f: f.attrs.__delitem__("schema")),
        "attribute schema: expected 'gpuion-dataset', found None",
    ),
    "other version": (
        edit(lambda f: f.attrs.modify("version", 3)),
        "attribute version: expected 2, found .*3",
    ),
    "no box": (
        edit(lambda f: f.attrs.__delitem__("box")),
        "attribute box: expected a positive number, found None",
    ),
    "text for a number": (edit(lambda f: f.attrs.__setitem__("box", "20")), "attribute box"),
    "text of any length": (
        edit(lambda f: f.attrs.__setitem__("method", "exact")),
        "attribute method: expected a number or text of fixed length",
    ),
    "zero sites": (edit(lambda f: f.attrs.modify("sites_per_voxel", 0)), "attribute sites_per_voxel"),
    "other method": (
        edit(lambda f: f.attrs.__setitem__("method", np.bytes_("guess"))),
        "method: expected one of exact, kmc, both",
    ),
    "other model": (
        edit(lambda f: f.attrs.__setitem__("model", np.bytes_('{"x": 1}'))),
        "attribute model: expected a transport model",
    ),
    "no field": (edit(lambda f: f.__delitem__("gap")), "gap: expected a dataset of that name, found none"),
    "a group": (edit(lambda f: (f.__delitem__("gap"), f.create_group("gap"))), "gap: expected a dataset"),
    "a link": (replaced("gap", h5py.ExternalLink("other.h5", "gap")), "gap: expected a dataset"),
    "other type": (replaced("gap", np.zeros(5, "f4")), "gap: expected type <f8, found <f4"),
    "other length": (replaced("gap", np.zeros(4)), r"gap: expected shape \[5\], found \[4\]"),
    "other particles": (
        replaced("centers", np.zeros((5, 3, 2), "f4")),
        r"centers: expected shape \[5, N, 3\], found \[5, 3, 2\]",
    ),
    "nothing": (
        replaced("centers", np.zeros((0, 3, 3), "f4")),
        r"centers: expected shape \[n ≥ 1, N, 3\], found \[0, 3, 3\]",
    ),
    "flat": (replaced("centers", np.zeros(5, "f4")), "centers: expected shape"),
    "NaN": (poison("diffusivity"), r"diffusivity: expected finite numbers, found nan at \[1, 0\]"),
    "NaN centre": (poison("centers"), r"centers: expected finite numbers, found nan at \[1, 0, 0\]"),
    "outside": (
        edit(lambda f: f["centers"].__setitem__(0, 21.0)),
        "centers: expected positions from 0 to box = 20.0",
    ),
    "flag": (edit(lambda f: f["axes"].__setitem__(0, 2)), "axes: expected 0 or 1, found 2"),
    "encoding": (edit(lambda f: f["family"].__setitem__(0, b"\xff\xfe")), "family: expected UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_bad_file_is_named_with_field_expected_and_found(shard, damage, message):
    damage(shard)
    with pytest.raises(DatasetError, match=message) as error:
        open_dataset(shard.parent)
    assert str(shard) in str(error.value)


def test_checksum_of_a_field(shard):
    with h5py.File(shard) as file:
        at = file["diffusivity"].id.get_chunk_info(0).byte_offset
    with shard.open("r+b") as file:
        file.seek(at + 5)
        file.write(b"\x77")
    with pytest.raises(DatasetError, match=r"shard-00000\.h5: diffusivity: expected undamaged data"):
        read_shard(shard)


def test_other_hdf5_and_other_files(tmp_path):
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = np.arange(3)
    with pytest.raises(DatasetError, match=r"foreign\.h5: attribute schema"):
        open_dataset(tmp_path / "foreign.h5")
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(DatasetError, match=r"text\.h5: expected a readable HDF5 file"):
        open_dataset(tmp_path / "text.h5")
    with pytest.raises(DatasetError, match="found nothing there"):
        open_dataset(tmp_path / "missing")
    with pytest.raises(DatasetError, match="no such file"):
        read_shard(tmp_path / "missing.h5")
    with pytest.raises(DatasetError, match=r"expected shard-\*.h5 files, found none"):
        open_dataset(tmp_path)
    with pytest.raises(ValueError, match="empty list"):
        open_dataset([])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gap": torch.zeros(4, dtype=torch.float64)}, r"gap: expected shape \[5\], found \[4\]"),
        ({"standard_error": torch.full((5, 3), float("nan"), dtype=torch.float64)}, "standard_error: expected finite"),
        ({"family": np.array(["a-very-long-name-of-a-family"] * 5)}, "family: expected names of 1 to 16 bytes"),
        ({"family": np.array([""] * 5)}, "family: expected names"),
        ({"method": "mixed"}, "method: expected one of"),
        ({"centers": torch.full((5, 3, 3), -0.1)}, "centers: expected positions"),
    ],
)
def test_bad_data_is_not_written(tmp_path, changes, message):
    with pytest.raises(DatasetError, match=message):
        write_shard(tmp_path / "a.h5", make(**changes), seed=0)
    assert list(tmp_path.iterdir()) == []


def test_subset():
    data = make()
    for index in ([3, 1], torch.tensor([3, 1]), np.array([3, 1])):
        part = data.subset(index)
        assert part.id.tolist() == [3, 1]
        assert part.family.tolist() == ["annealed-max", "chained"]
        assert part.cycle.tolist() == [21, 7]
    assert data.subset(slice(2)).id.tolist() == [0, 1]
    assert data.subset(data.converged).id.tolist() == [0, 2, 4]
    assert make(extra=False).subset([0]).chain is None
    assert len(data.to("cpu")) == 5


def test_split():
    parts = split(8192, 0)
    assert [len(part) for part in parts] == [4916, 1638, 1638]
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(8192))
    assert all(torch.equal(a, b) for a, b in zip(parts, split(8192, 0), strict=True))
    assert not torch.equal(parts[0], split(8192, 1)[0])
    assert [len(part) for part in split(10, 0, (0.5, 0.5, 0.0))] == [5, 5, 0]
    # The test part is a random 1638 of 8192: the mean of its positions is 4095.5 with σ = 8192/√(12·1638) √0.8 = 52;
    # four σ are exceeded once in 16 000 seeds, and the seed is fixed.
    assert abs(parts[2].double().mean() - 4095.5) < 4 * 52
    with pytest.raises(ValueError, match="add up to 1"):
        split(10, 0, (0.6, 0.2, 0.3))


def test_the_public_names():
    assert gpuion.open_dataset is dataset.open_dataset
    assert gpuion.Dataset is Dataset


FLIPS = """
import sys
import numpy as np
from pathlib import Path
from gpuion import shards
from gpuion.errors import DatasetError
path = Path(sys.argv[1])
whole, (arrays, attributes) = path.read_bytes(), shards.read(path)
damaged, unseen = path.with_name("damaged.h5"), []
for at in range(0, len(whole), 2):
    change = bytearray(whole)
    change[at] ^= (1, 4, 128, 255)[at // 2 % 4]
    damaged.write_bytes(change)
    try:
        found, held = shards.read(damaged)
    except DatasetError:
        continue
    same = found.keys() == arrays.keys() and held.keys() == attributes.keys()
    same = same and all(np.array_equal(found[k], arrays[k], equal_nan=found[k].dtype.kind == "f") for k in arrays)
    if not (same and all(np.array_equal(held[k], attributes[k]) for k in attributes)):
        unseen.append(at)
print(len(whole), unseen)
"""


def test_no_changed_byte_hangs_or_passes_for_data(tmp_path):
    path = tmp_path / "a.h5"
    write_shard(path, make(), seed=0)
    done = subprocess.run([sys.executable, "-c", FLIPS, path], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    size, unseen = done.stdout.split(" ", 1)
    assert int(size) > 5000
    assert unseen.strip() == "[]"
