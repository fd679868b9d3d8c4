"""Spoilt shards: damaged bytes, and other HDF5 altogether. `mutant_checksums.py` forges HDF5's own structures."""

import contextlib
import dataclasses
import functools
import io
import json
import tempfile
import zlib
from pathlib import Path

import h5py
import numpy as np
from mutants import damaged

from gpuion import TransportModel, dataset, description, open_dataset, record, shards

N, SPHERES, BOX = 5, 3, 20.0


@functools.cache
def original():
    """Return arrays and attributes of a shard with all fields, the same wherever it is made."""
    draw = np.random.default_rng(0)
    arrays = {
        name: draw.random((N, *(SPHERES if size == "N" else size for size in field.tail)))
        for name, field in shards.FIELDS.items()
    }
    arrays["centers"] *= BOX
    arrays |= {name: np.arange(N) for name in ("id", "chain", "cycle")}
    arrays |= {name: np.ones(N, "u1") for name in ("converged", "converged_kmc")}
    arrays |= {"axes": np.ones((N, 3), "u1"), "family": np.array(["random", "chained", "gapped", "é", "annealed-max"])}
    arrays["gap"][0] = arrays["distance"][1] = np.nan
    words = {"method": "both", "config": '{"seed": 1}', "commit": "0", "machine": "none", "versions": "{}"}
    words["model"] = json.dumps(dataclasses.asdict(TransportModel()))
    numbers = {"box": BOX, "diameter": 4.5, "sites_per_voxel": 1, "seed": np.uint64(1), "d_reference": 0.5}
    return arrays, {**numbers, **words}


@functools.cache
def sound(oldest: bool = False) -> bytes:
    """Return the bytes of that shard, as we write it or in the oldest format, which has no checksums of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.h5")
        shards.write(path, *original())
        if oldest:
            with h5py.File(path) as old, h5py.File(Path(folder, "b.h5"), "w", libver="earliest") as new:
                copy(old, new)
            path = Path(folder, "b.h5")
        return path.read_bytes()


def copy(old, new):
    for key in old.attrs:
        new.attrs[key] = old.attrs[key]
    for name, field in old.items():
        new.create_dataset(name, data=field[...], dtype=field.dtype, fletcher32=True, chunks=field.chunks)
        new[name].attrs["unit"] = field.attrs["unit"]


@functools.cache
def expected():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a.h5").write_bytes(sound())
        return open_dataset(Path(folder, "a.h5")).fingerprint


def replaced(name, **kwargs):
    def change(file, _draw):
        del file[name]
        file.create_dataset(name, **kwargs)

    return change


def link(name, new):
    def change(file, _draw):
        del file[name]
        file[name] = new

    return change


def external(file, _draw):
    del file["gap"]
    file.create_dataset("gap", (N,), "f8", external=[("../secret", 0, h5py.h5f.UNLIMITED)])


def virtual(file, _draw):
    layout = h5py.VirtualLayout((N,), "f8")
    layout[:] = h5py.VirtualSource("../secret.h5", "gap", (N,))
    del file["gap"]
    file.create_virtual_dataset("gap", layout)


def bomb(file, _draw):
    """One chunk that unpacks to more than a reader may take."""
    del file["gap"]
    gap = file.create_dataset("gap", (N,), "f8", chunks=(N,), compression="gzip")
    gap.id.write_direct_chunk((0,), zeros())


@functools.cache
def zeros():
    pack = zlib.compressobj(1)
    return b"".join(pack.compress(bytes(2**24)) for _ in range(32)) + pack.flush()


def wide_chunk(file, _draw):
    del file["gap"]
    file.create_dataset("gap", (N,), "f8", maxshape=(None,), chunks=(2**28,), fletcher32=True)


def spoil_values(file, draw):
    name = draw.choice(sorted(file))
    old = file[name][...]
    new = old.copy()
    at = tuple(draw.randrange(n) for n in new.shape)
    new[at] = (
        draw.choice((b"", b"\xff\xfe", b"../../x", b"a/b"))
        if old.dtype.kind == "S"
        else draw.choice((np.nan, np.inf, -np.inf, 1e300, -1, 21, 0) if old.dtype.kind == "f" else (0, 1, 2, 100))
    )
    file[name][...] = new


def spoil_attribute(file, draw):
    key = draw.choice([*sorted(file.attrs), "x", "../x"])
    new = draw.choice((
        0, -1, 1.5, np.nan, np.inf, 1e300, 1e-300, 2**63, "text", np.bytes_("é".encode()), np.bytes_(b"\xff"), b"",
        np.bytes_(b"[" * 60000), np.bytes_(b"null"), np.bytes_(b'{"reach": null}'), np.bytes_(b'{"width": 1e308}'),
        np.zeros(3), np.zeros((2, 2)), h5py.Empty("f8"), np.complex128(1 + 1j), np.bool_(True), np.void(b"1234"),
        np.array((1, 2.0), [("a", "i4"), ("b", "f8")]), np.float16(1), np.int8(1),
    ))  # fmt: skip
    file.attrs[key] = new


def spoil_kind(file, draw):
    name = draw.choice(sorted(file))
    old = file[name][...]
    kind = draw.choice(("f2", "f4", ">f8", "f8", "i1", "i8", "u8", "c16", "?", "S16", "S1", "V8", h5py.ref_dtype,
                        h5py.string_dtype(), h5py.vlen_dtype("i4"), h5py.enum_dtype({"a": 1}, "u1")))  # fmt: skip
    shape = draw.choice((old.shape, old.shape[:1], (), (0,), (*old.shape, 1), (N + 1, *old.shape[1:]), (1,) * 32, None))
    del file[name]
    file.create_dataset(name, shape=shape, dtype=kind) if shape is not None else file.create_dataset(
        name, data=h5py.Empty(kind)
    )


def lose(file, draw):
    names = sorted(file)
    for name in draw.sample(names, draw.choice((1, 1, 2, 5))):
        del file[name]


def more(file, draw):
    """What readers pass over: groups that hold themselves, names with ../, big declared sizes, links to anywhere."""
    name = draw.choice(("../x", "x/../../y", "..", "x" * 5000, "\u202e", "centers.bak"))
    group = file.create_group(name)
    group["again"] = file["/"]
    file["extra"] = h5py.ExternalLink("/dev/zero", "/")
    file.create_dataset("big", (10**15,), "f8", chunks=(1024,))
    file.attrs["a" * 1000] = 1


def groups(file, draw):
    name = draw.choice(sorted(file))
    del file[name]
    draw.choice((lambda: file.create_group(name), lambda: file.__setitem__(name, np.dtype("f8"))))()


HUGE = [(10**15,), (10**15, 3), (2**40, SPHERES, 3), (10**9,), (N, 10**15, 3), (N, 10**8, 3), (2**62,)]
CHANGES = [
    spoil_values, spoil_values, spoil_values, spoil_attribute, spoil_attribute, spoil_attribute, spoil_kind, spoil_kind,
    spoil_kind, lose, more, groups, external, virtual, bomb, wide_chunk,
    link("gap", h5py.ExternalLink("/etc/passwd", "gap")), link("gap", h5py.ExternalLink("../../secret.h5", "gap")),
    link("gap", h5py.SoftLink("/gap")), link("converged", h5py.ExternalLink("/dev/zero", "x")),
    link("gap", h5py.SoftLink("/distance")), link("centers", h5py.SoftLink("/../../centers")),
    *(replaced(name, shape=shape, dtype=shards.FIELDS[name].dtype, chunks=tuple(min(n, 512) for n in shape))
      for name in ("centers", "gap", "id", "diffusivity") for shape in HUGE),
    *(replaced("centers", shape=(2**n, SPHERES, 3), dtype="f4") for n in (24, 27, 30, 40)),
]  # fmt: skip


def rewritten(draw):
    """Return a shard that h5py changed; what h5py itself refuses to write is drawn again."""
    while True:
        buffer, change = io.BytesIO(sound()), draw.choice(CHANGES)
        version = draw.choice((("v110", "v110"), "earliest", "latest"))
        with contextlib.suppress(ValueError, TypeError, OSError, RuntimeError, KeyError, AttributeError):
            with h5py.File(buffer, "r+", libver=version) as file:
                change(file, draw)
            return buffer.getvalue(), f"change {CHANGES.index(change)}, {change.__qualname__}, {version}"


def make(draw, folder):
    """Return a spoilt shard and how it was made; one whose content may not change is called damaged.h5."""
    way = draw.choices((damaged, "oldest", rewritten), (5, 1, 3))[0]
    if way is damaged:
        content, recipe = damaged(draw, sound())
    elif way == "oldest":
        content, recipe = damaged(draw, sound(oldest=True))
        recipe = f"oldest format, {recipe}"
    else:
        content, recipe = way(draw)
    path = folder / ("damaged.h5" if way is damaged else "rewritten.h5")
    path.write_bytes(content)
    return path, recipe


def read(path):
    """Read a shard and use it; say what is wrong with what was read."""
    data = open_dataset(path)
    description.info(path)
    if path.stem == "damaged" and data.fingerprint != expected():
        return "other content than was written"
    sizes = {len(data), *(len(getattr(data, name)) for name in ("id", "family", "gap", "axes"))}
    centers, D = data.centers, data.diffusivity
    if sizes != {len(data)} or centers.shape[2] != 3 or not bool(centers.isfinite().all() & D.isfinite().all()):
        return f"sizes {sizes}, centres {list(centers.shape)}"
    if not 0 < data.diameter <= data.box or not bool(((centers >= 0) & (centers <= data.box)).all()):
        return f"cell {data.box}, {data.diameter}"
    summary = path.parent / record.NAME
    dataset.write_summary(path.parent, data)
    summary.unlink()
    return ""
