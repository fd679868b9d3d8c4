"""Files that are whole or not there, and folders that remember which run made them."""

import contextlib
import dataclasses
import functools
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gpuion
from gpuion.distributed import World
from gpuion.errors import ConfigError

_PARTIAL = ".partial"


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success flush it to disk and rename it, else remove it."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL}")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n")


@functools.cache
def provenance() -> dict[str, str]:
    """Return what made a result: versions of gpuion and what it stands on, git commit, machine."""
    versions = {"gpuion": gpuion.__version__, "torch": torch.__version__, "numpy": np.__version__}
    return {
        **versions,
        "python": platform.python_version(),
        "commit": _commit(),
        "machine": platform.machine(),
    }


def _commit() -> str:
    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def claim_folder(folder: Path, script: str, config: Any, world: World | None = None) -> None:
    """Make `folder` this run's own: create it, or check that it holds a run of the same configuration.

    Fields whose metadata has `identity=False` (device, output) do not make another run. What a killed run
    left half written is removed. With `world`, rank 0 does this and the others wait, or leave with it if it
    fails.

    Raises
    ------
    ConfigError
        If the folder holds another script's or another configuration's run.
    OSError
        If it cannot be written.
    """
    problem: object = None
    if world is None or world.is_main:
        try:
            _claim(folder, script, config)
        except (ConfigError, OSError) as error:
            problem = error
    if world is not None:
        problem = world.share(problem)
    if isinstance(problem, Exception):
        raise problem if world is None or world.is_main else SystemExit(1)


def _claim(folder: Path, script: str, config: Any) -> None:
    mine = identity(config)
    record = folder / "run.json"
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(f".*{_PARTIAL}"):
        stale.unlink(missing_ok=True)
    if not record.exists():
        if any(folder.iterdir()):
            raise ConfigError(f"{folder} is not empty and holds no gpuion run; choose another --out")
        write_json(record, {"script": script, "config": mine, **provenance()})
        return
    try:
        held = json.loads(record.read_text())
        other, theirs = held["script"], held["config"]
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{record} is damaged; choose another --out or remove {folder}") from None
    if other != script:
        raise ConfigError(f"{folder} holds a run of {other}, not of {script}; choose another --out")
    for name in sorted(mine.keys() | theirs.keys()):
        if mine.get(name) != theirs.get(name):
            raise ConfigError(
                f"{folder} holds a run with {name} = {theirs.get(name)!r}, this one has {mine.get(name)!r}; "
                "choose another --out, or give the same configuration to go on"
            )


def identity(config: Any) -> dict[str, Any]:
    """Return the fields that make a configuration what it is, as JSON values."""
    named = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.metadata.get("identity", True)}
    return json.loads(json.dumps(named))
