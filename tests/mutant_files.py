"""Spoilt files of other kinds: JSON beside shards and in folders of runs, configurations in TOML, images in .npy."""

import contextlib
import dataclasses
import functools
import io
import json
import tempfile
from pathlib import Path

import mutant_shards
import numpy as np
from mutants import JUNK, damaged, spoilt

import gpuion
from gpuion import config, dataset, files, findings, ladders, manage, model_panels, open_dataset, rounds, splits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    out: Path = config.option(Path("runs/x"), "folder", identity=False)
    data: str = config.option("runs/data", "folder")
    seed: int = config.option(0, "seed")
    heat: float = config.option(0.5, "temperature")
    widths: tuple[int, ...] = config.option((1, 2), "widths")


@functools.cache
def folder_of_data():
    """Return the files of a data set with a split, by name."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        (home / "shard-00000.h5").write_bytes(mutant_shards.sound())
        dataset.write_summary(home, open_dataset(home / "shard-00000.h5"))
        manage.split(home, 0, (0.6, 0.2, 0.2), "none")
        files.write_json(home / "run.json", {"script": "simulate", "config": files.identity(Config()), "content": {}})
        return {path.name: path.read_bytes() for path in home.iterdir()}


def spoil_json(draw, whole):
    """Spoil JSON in its bytes or in its values."""
    if draw.random() < 0.3:
        return damaged(draw, whole)
    if draw.random() < 0.05:
        return draw.choice((b"[" * 10**5, b'{"a":' * 10**5, b"1" * 5000, b"\xff\xfe", b"")), "not JSON"
    new, recipe = spoilt(draw, json.loads(whole), JUNK)
    return json.dumps(new).encode("utf8", "replace"), recipe


def make_data(draw, home):
    whole = folder_of_data()
    name = draw.choice([name for name in sorted(whole) if name.endswith(".json")])
    for other, content in whole.items():
        (home / other).write_bytes(content)
    new, recipe = spoil_json(draw, whole[name])
    (home / name).write_bytes(new)
    return home, f"{name}: {recipe}"


def read_data(home):
    """Read a data set, its split and its run; the data are whole whatever stands beside them."""
    manage._run(home)
    data = open_dataset(home)
    if len(data) != mutant_shards.N or not data.d_reference > 0:
        return "other data"
    held = splits.read(home, data)
    if held is not None and set(held[0]) - set(splits.PARTS):
        return "other parts"
    # Another run is refused: a changed record is one.
    files.claim_folder(home, "simulate", Config())
    return ""


ROWS = [{"round": 1, "agreed": False, "winners": {"max": {"mape": 1.0}}}]
RECORDS = {
    "rounds.json": ROWS, "ladder.json": {"temperatures": [0.1, 0.2], "expected_swap_rate": 0.2},
    "history.jsonl": {"epoch": 0, "loss": 1.0}, "dataset.json": {"schema": "gpuion-dataset", "version": 2},
}  # fmt: skip


def make_record(draw, home):
    name = draw.choice(sorted(RECORDS))
    new, recipe = spoil_json(draw, json.dumps(RECORDS[name]).encode())
    (home / name).write_bytes(new)
    return home / name, f"{name}: {recipe}"


def read_record(path):
    if path.name == "rounds.json":
        return "" if all(type(row["agreed"]) is bool for row in rounds._rows(path)) else "rows that are none"
    if path.name == "ladder.json":
        found = ladders.read(path)
        return "" if found and all(0 < x < np.inf for x in found) else f"temperatures {found}"
    if path.name == "history.jsonl":
        return "" if all(isinstance(row, dict) for row in model_panels._history(path.parent)) else "rows that are none"
    findings.read_json(path)
    gpuion.record.read(path.parent)
    return ""


TOML = b'[system]\nseed = 1\n\n[simulate]\ndata = "runs/a"\nheat = 0.5\nwidths = [1, 2, 3]\n'


def make_config(draw, home):
    new, recipe = damaged(draw, TOML) if draw.random() < 0.7 else (
        draw.choice((b"a = " + b"[" * 10**5, b"a." * 10**5 + b"b = 1", b"a = " + b"[" * 10**4, b"a." * 10**4 + b"b = 1",
                     b"\xff", b"[simulate]\nheat = nan\nseed = 1e400", b"[simulate]\nseed = " + b"9" * 5000,
                     b"[simulate]\nwidths = 3", b"simulate = 1")), "other TOML")  # fmt: skip
    (home / "a.toml").write_bytes(new)
    return home / "a.toml", recipe


def read_config(path):
    held = config._read(path, "simulate", Config)
    kinds = {"seed": int, "heat": float, "data": str, "widths": tuple, "out": Path}
    return "" if all(type(x) is kinds[name] for name, x in held.items()) else f"values of other kinds: {held}"


def make_image(draw, home):
    buffer = io.BytesIO()
    np.save(buffer, np.arange(60).reshape(3, 4, 5) % 3)
    way = draw.random()
    if way < 0.6:
        new, recipe = damaged(draw, buffer.getvalue())
    elif way < 0.8:
        shape = draw.choice((b"(10**9,)", b"(1000000000000000,)", b"(-1,)", b"(2, 30000000000)",
                             b"(4, 4611686018427387904)", b"((1,),)", b"('a',)", b"5", b"()"))  # fmt: skip
        kind = draw.choice((b"<i8", b"|O", b"<U9999999", b"V8", b">c16", b"M8[s]"))
        text = b"{'descr': '" + kind + b"', 'fortran_order': False, 'shape': " + shape + b", }"
        text += b" " * (118 - len(text) - 1) + b"\n"
        new, recipe = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(480), f"{kind} {shape}"
    else:
        other = io.BytesIO()
        if draw.random() < 0.5:
            np.savez_compressed(other, a=np.zeros(10**6))
        else:
            np.save(other, np.array([{"a": 1}, mutant_shards.Path], dtype=object), allow_pickle=True)
        new, recipe = other.getvalue(), "an archive or objects"
    (home / "a.npy").write_bytes(new)
    return home / "a.npy", recipe


def read_image(path):
    array = gpuion.read_image(path)
    if not isinstance(array, np.ndarray) or array.dtype.hasobject:
        return f"a {type(array).__name__}"
    with contextlib.suppress(ValueError):
        gpuion.Medium.from_image(array, {0: 1.0, 1: 0.5, 2: None})
    return ""


FEW = {
    "data": (make_data, read_data), "record": (make_record, read_record), "config": (make_config, read_config),
    "image": (make_image, read_image),
}  # fmt: skip
