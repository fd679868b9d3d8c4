import dataclasses
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import gpuion
from gpuion import files
from gpuion.config import option
from gpuion.distributed import World
from gpuion.errors import CheckpointError, ConfigError, DatasetError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    out: Path = option(Path("runs/x"), "folder", identity=False)
    data: str = option("runs/data", "folder")
    seed: int = option(0, "seed")


def test_a_folder_remembers_its_run(tmp_path):
    home = tmp_path / "a" / "b"
    files.claim_folder(home, "simulate", Config(seed=1))
    (home / "shard").write_text("x")
    files.claim_folder(home, "simulate", Config(seed=1, out=home))  # out is not part of what a run is
    with pytest.raises(ConfigError, match="holds a run with seed = 1, this one has 2; choose another --out"):
        files.claim_folder(home, "simulate", Config(seed=2))
    with pytest.raises(ConfigError, match="holds a run of simulate, not of train"):
        files.claim_folder(home, "train", Config(seed=1))
    (home / "run.json").write_text("{")
    with pytest.raises(ConfigError, match=r"run\.json is damaged"):
        files.claim_folder(home, "simulate", Config(seed=1))
    (home / "run.json").unlink()
    with pytest.raises(ConfigError, match="not empty and holds no gpuion run"):
        files.claim_folder(home, "simulate", Config(seed=1))


def test_what_a_killed_run_left_is_removed(tmp_path):
    (tmp_path / ".run.json.77.partial").write_text("{")  # killed while it claimed the folder
    files.claim_folder(tmp_path, "simulate", Config())
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    (tmp_path / ".shard.h5.77.partial").write_text("x")
    files.claim_folder(tmp_path, "simulate", Config())
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_all_ranks_learn_that_the_folder_is_taken(tmp_path, monkeypatch):
    (tmp_path / "x").write_text("x")
    told = []
    monkeypatch.setattr(World, "share", lambda _self, value: told.append(value) or told[0])
    with pytest.raises(ConfigError, match="not empty"):
        files.claim_folder(tmp_path, "simulate", Config(), World(rank=0, size=2, device="cpu"))
    with pytest.raises(SystemExit) as left:
        files.claim_folder(tmp_path, "simulate", Config(), World(rank=1, size=2, device="cpu"))
    assert left.value.code == 1


def fail_midway(path):
    with files.atomic(path) as partial:
        partial.write_text("half")
        raise RuntimeError("midway")


def test_atomic_files_are_whole_or_absent(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="midway"):
        fail_midway(path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"
    with files.atomic(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new"


def test_other_content_under_the_same_paths_is_another_run(tmp_path):
    files.claim_folder(tmp_path / "a", "train", Config(), content={"data": "1" * 64})
    files.claim_folder(tmp_path / "a", "train", Config(), content={"data": "1" * 64})
    with pytest.raises(ConfigError, match=r"other content of data = 'runs/data': sha256 1{12}…, now 2{12}…; choose"):
        files.claim_folder(tmp_path / "a", "train", Config(), content={"data": "2" * 64})
    with pytest.raises(ConfigError, match="data = 'runs/data', this one has 'elsewhere'"):
        files.claim_folder(tmp_path / "a", "train", Config(data="elsewhere"), content={"data": "1" * 64})
    files.claim_folder(tmp_path / "b", "train", Config())  # of a version that did not know
    files.claim_folder(tmp_path / "b", "train", Config(), content={"data": "1" * 64})


def test_a_fingerprint_is_of_names_types_shapes_values():
    x = torch.arange(6.0)
    known = files.fingerprint({"x": x, "n": 3})
    assert known == files.fingerprint({"x": x.numpy(), "n": 3})
    assert known == files.fingerprint({"x": torch.arange(12.0)[:6], "n": 3})
    others = [{"y": x, "n": 3}, {"x": x.double(), "n": 3}, {"x": x.view(2, 3), "n": 3}, {"x": x + 1, "n": 3}]
    others += [{"x": x, "n": 4}, {"x": x}, {"x": x, "n": None}]
    assert len({known, *map(files.fingerprint, others)}) == 8
    assert files.fingerprint({"x": np.array(["a"])}) != files.fingerprint({"x": np.array(["b"])})


def git(folder, *words):
    name = ["-c", "user.name=n", "-c", "user.email=e@x"]
    done = subprocess.run(["git", "-C", folder, *name, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_commit_is_of_the_repository_that_tracks_the_package(tmp_path, monkeypatch):
    package = tmp_path / "venv" / "gpuion"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (tmp_path / "mine.txt").write_text("x")
    assert files._commit(package) == "unknown"
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "mine.txt")
    git(tmp_path, "commit", "-qm", "m")
    assert files._commit(package) == "unknown"  # installed inside someone's checkout
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    assert files._commit(package) == "unknown"
    monkeypatch.delenv("GIT_DIR")
    git(tmp_path, "add", "venv")
    git(tmp_path, "commit", "-qm", "m")
    assert files._commit(package) == git(tmp_path, "rev-parse", "--short=12", "HEAD")
    (package / "__init__.py").write_text("x")
    assert files._commit(package).endswith("-dirty")
    monkeypatch.setenv("PATH", os.devnull)
    assert files._commit(package) == "unknown"


def test_tensors_are_read_as_written_and_damage_is_named(tmp_path):
    path = tmp_path / "x.pt"
    content = {"x": torch.arange(1000), "y": [1, "two"]}
    files.save_tensors(path, content)
    found = files.load_tensors(path)
    assert torch.equal(found["x"], content["x"])
    assert found["y"] == content["y"]
    whole = path.read_bytes()
    at = whole.index(content["x"].numpy().tobytes()) + 100
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    assert not torch.equal(torch.load(path, weights_only=True)["x"], content["x"])  # torch does not notice
    with pytest.raises(CheckpointError, match=r"x\.pt is damaged: .* does not match its checksum"):
        files.load_tensors(path)
    path.write_bytes(whole[:-50])
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        files.load_tensors(path)
    with pytest.raises(FileNotFoundError):
        files.load_tensors(tmp_path / "none.pt")
    assert json.loads(json.dumps(files.provenance()))["commit"]


def test_the_machine_is_its_processor_its_cores_and_the_gpu_in_use(monkeypatch):
    plain = files.provenance()["machine"]
    assert plain == f"{files.processor()}, {os.cpu_count()} cores"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA X1")
    assert files.provenance()["machine"] == f"{plain}, NVIDIA X1"


def test_a_folder_in_a_files_place_is_named(tmp_path):
    medium = gpuion.Medium(torch.zeros(1, 2, 2, 2, dtype=torch.uint8), torch.ones(1), torch.zeros(1))
    for write in (
        lambda: gpuion.write_medium(tmp_path, medium),
        lambda: gpuion.write_xyz(tmp_path, torch.ones(1, 2, 3), box=9.0, diameter=1.0),
        lambda: files.write_json(tmp_path, {}),
    ):
        with pytest.raises(IsADirectoryError) as error:
            write()
        assert str(error.value).endswith(f"is a folder; give the name of a file in it: {str(tmp_path)!r}")
    assert not list(tmp_path.parent.glob(".*.partial"))


def test_a_text_that_never_ends_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr(files, "_LARGEST", 2**20)
    with pytest.raises(DatasetError, match="/dev/zero: expected a JSON file, found: ValueError more than 1 MiB"):
        files.read_json(Path("/dev/zero"))
