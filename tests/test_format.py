"""docs/format.md says what the files hold, and its examples run."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import h5py
from test_dataset import make

from gpuion import dataset, shards, splits

TEXT = (Path(__file__).parent.parent / "docs" / "format.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in TEXT.splitlines() if line.startswith("| `")]
TYPES = {"<f4": "f4", "<f8": "f8", "<i8": "i8", "|u1": "u1", "|S16": "UTF-8, 16 bytes"}


def test_every_field_is_there_with_type_shape_and_unit():
    told = {name: row for row in ROWS for name in re.findall(r"`([^`]+)`", row[0])}
    for name, field in shards.FIELDS.items():
        shape = ", ".join(["n", *map(str, field.tail)])
        assert told[name][1:3] == [f"{TYPES[field.dtype]} [{shape}]", field.unit], name
    optional = TEXT.index("These may be absent")
    for name, field in shards.FIELDS.items():
        assert (TEXT.index(f"`{name}`", TEXT.index("| field ")) > optional) == field.optional, name


def test_every_attribute_and_file_is_there(tmp_path, monkeypatch):
    told = {name for row in ROWS for name in re.findall(r"`([^`]+)`", row[0])}
    home = tmp_path / "runs" / "data"
    home.mkdir(parents=True)
    data = dataclasses.replace(make(), d_reference=2.0)
    dataset.write_shard(home / "shard-00000.h5", data, seed=0)
    dataset.write_summary(home, data)
    with h5py.File(home / "shard-00000.h5") as file:
        assert set(file.attrs) <= told
    splits.write(home, data, splits.assign(data, 0, (0.6, 0.2, 0.2), "none"), {})
    assert {path.name for path in home.iterdir()} <= told | {"shard-00000.h5"}
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(examples) == 2
    done = subprocess.run([sys.executable, "-c", "".join(examples)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "diffusivity (5, 3) bulk solvent diffusivity" in done.stdout


def test_every_method_is_there():
    (row,) = [row for row in ROWS if row[0] == "`method`"]
    data = dataset.merge([(Path("a"), make()), (Path("b"), make(method="kmc"))])
    assert set(re.findall(r"`([^`]+)`", row[1])) == {*shards.METHODS, data.method}
