"""Extended XYZ, read back by a parser of its own and, where it is installed, by ASE."""

import re

import numpy as np
import pytest
import torch
from test_dataset import make

from gpuion.xyz import write_xyz

PAIR = re.compile(r'([\w-]+)=(?:"([^"]*)"|(\S+))')


def parse(path):
    """Frames of a file: what the second line says, and the table of spheres."""
    lines = path.read_text().splitlines()
    frames = []
    while lines:
        n = int(lines[0])
        pairs = {key: quoted or plain for key, quoted, plain in PAIR.findall(lines[1])}
        assert PAIR.sub("", lines[1]).strip() == ""  # nothing but pairs
        rows = [line.split(" ") for line in lines[2 : 2 + n]]
        assert all(len(row) == 5 and row[0] == "X" for row in rows)
        frames.append((pairs, np.array([row[1:] for row in rows], float)))
        lines = lines[2 + n :]
    return frames


def awkward(dtype):
    """Centres of many digits, on edges, in other cells."""
    x = torch.rand(3, 400, 3, generator=torch.Generator().manual_seed(0), dtype=dtype) * 20
    x[1, 0] = torch.tensor([0.0, 20.0, -1e-30])
    x[1, 1] = torch.tensor([-3.25, 41.5, 1e-7])
    x[1, 2] = torch.nextafter(torch.tensor(20.0, dtype=dtype), torch.tensor(0.0, dtype=dtype))
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_centres_come_back_bit_for_bit(tmp_path, dtype):
    x = awkward(dtype)
    write_xyz(tmp_path / "a.xyz", x, box=20.0, diameter=4.5)
    frames = parse(tmp_path / "a.xyz")
    assert len(frames) == 3
    expected = x.clone()
    expected[1, 0] = 0.0  # the box is its own 0; a hair below 0 is rounded up to it
    expected[1, 1] = torch.tensor([16.75, 1.5, 1e-7])
    for (pairs, table), wanted in zip(frames, expected, strict=True):
        assert pairs["Lattice"].split() == ["20.0", "0", "0", "0", "20.0", "0", "0", "0", "20.0"]
        assert pairs["pbc"] == "T T T"
        assert pairs["Properties"] == "species:S:1:pos:R:3:radius:R:1"
        assert np.array_equal(table[:, :3].astype(wanted.numpy().dtype), wanted.numpy())
        assert (table[:, 3] == 2.25).all()


def test_a_data_set_brings_what_it_knows(tmp_path):
    data = make(d_reference=0.7)
    write_xyz(tmp_path / "a.xyz", data, info={"note": ["a b", "c", "d", "e", "ü"]})
    frames = parse(tmp_path / "a.xyz")
    for k, (pairs, table) in enumerate(frames):
        assert np.array_equal(table[:, :3].astype(np.float32), data.centers[k].numpy())
        assert int(pairs["id"]) == k
        assert pairs["family"] == data.family[k]
        assert float(pairs["D"]) == float(data.mean_diffusivity[k])
        assert float(pairs["D_star"]) == float(data.d_star[k])
        assert list(map(float, pairs["diffusivity"].split())) == data.diffusivity[k].tolist()
        assert pairs["converged"] == ("T" if data.converged[k] else "F")
        assert int(pairs["cycle"]) == 7 * k
        assert ("gap" in pairs) == ("distance" in pairs) == bool(k % 2)  # NaN is left out
    assert frames[0][0]["note"] == "a b"
    write_xyz(tmp_path / "b.xyz", make(extra=False))
    assert parse(tmp_path / "b.xyz")[0][0].keys().isdisjoint({"D_star", "converged", "predicted", "note"})


def test_ase_reads_it(tmp_path):
    io = pytest.importorskip("ase.io")
    data = make(d_reference=0.7)
    write_xyz(
        tmp_path / "a.xyz", data, info={"note": ["a b", "c d", "e", "f", "g"], "nine": np.arange(45.0).reshape(5, 9)}
    )
    frames = io.read(tmp_path / "a.xyz", index=":")
    assert len(frames) == 5
    for k, frame in enumerate(frames):
        assert np.array_equal(frame.positions.astype(np.float32), data.centers[k].numpy())
        assert np.array_equal(frame.cell.array, 20.0 * np.eye(3))
        assert frame.pbc.all()
        assert (frame.arrays["radius"] == 2.25).all()
        assert frame.get_chemical_symbols() == ["X"] * 3
        assert frame.info["id"] == k
        assert frame.info["family"] == data.family[k]
        assert frame.info["D"] == float(data.mean_diffusivity[k])
        assert frame.info["diffusivity"].tolist() == data.diffusivity[k].tolist()
        assert frame.info["converged"] == bool(data.converged[k])
        assert frame.info["nine"].tolist() == [9.0 * k + i for i in range(9)]
        assert ("gap" in frame.info) == bool(k % 2)
    assert frames[1].info["note"] == "c d"
    assert float(frames[0].get_distance(0, 1, mic=True)) <= 20 * 0.75**0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ase_reads_every_bit(tmp_path, dtype):
    io = pytest.importorskip("ase.io")
    x = awkward(dtype)
    write_xyz(tmp_path / "a.xyz", x, box=20.0, diameter=4.5)
    for k in (0, 2):
        found = io.read(tmp_path / "a.xyz", index=k).positions
        assert np.array_equal(found.astype(x.numpy().dtype), x[k].numpy())


X = torch.rand(2, 3, 3)


@pytest.mark.parametrize(
    ("structures", "options", "words"),
    [
        (X, {}, "box and diameter"),
        (X, {"box": 20.0}, "box and diameter"),
        (make(), {"box": 20.0}, "its own box"),
        (X[0], {"box": 20.0, "diameter": 4.0}, r"\[B, N, 3\]"),
        (X, {"box": -20.0, "diameter": 4.0}, "box must be"),
        (X, {"box": 20.0, "diameter": 0.0}, "diameter must be"),
        (X * torch.nan, {"box": 20.0, "diameter": 4.0}, "finite"),
        (X, {"box": 20.0, "diameter": 4.0, "info": {"a b": [1, 2]}}, "info key 'a b'"),
        (X, {"box": 20.0, "diameter": 4.0, "info": {"lattice": [1, 2]}}, "info key 'lattice'"),
        (X, {"box": 20.0, "diameter": 4.0, "info": {"a": [1, 2, 3]}}, r"n = 2.*int64 \[3\]"),
        (X, {"box": 20.0, "diameter": 4.0, "info": {"a": 1.0}}, r"float64 \[\]"),
        (X, {"box": 20.0, "diameter": 4.0, "info": {"a": ["x", 'y"z']}}, "printable word"),
        (X, {"box": 20.0, "diameter": 4.0, "info": {"a": ["x", "y\nz"]}}, "printable word"),
        (X, {"box": 20.0, "diameter": 4.0, "info": {"a": ["x", ""]}}, "printable word"),
    ],
)
def test_what_cannot_be_written_is_refused_before_a_file_is_there(tmp_path, structures, options, words):
    with pytest.raises(ValueError, match=words):
        write_xyz(tmp_path / "a.xyz", structures, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(f"no such folder; make it first: '{tmp_path / 'none'}'")):
        write_xyz(tmp_path / "none" / "x.xyz", torch.rand(1, 2, 3), box=9.0, diameter=2.0)


def test_a_file_is_replaced_whole_or_kept(tmp_path, monkeypatch):
    path = tmp_path / "a.xyz"
    write_xyz(path, X, box=20.0, diameter=4.0)
    before = path.read_bytes()

    def frames(*_):
        yield "half a file\n"
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("gpuion.xyz._frames", frames)
        with pytest.raises(OSError, match="No space"):
            write_xyz(path, X, box=20.0, diameter=4.0)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
