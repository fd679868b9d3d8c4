"""Files that are whole or not there, and folders that remember which run made them."""

import contextlib
import dataclasses
import errno
import functools
import hashlib
import io
import json
import os
import pickle
import platform
import reprlib
import struct
import subprocess
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gpuion
from gpuion import locks, peers
from gpuion.archives import check_archive, check_tensors
from gpuion.distributed import World
from gpuion.errors import NO_ROOM, CheckpointError, ConfigError, DatasetError

_PARTIAL = ".partial"
_LARGEST = 2**28  # bytes of a text: the predictions of some million structures
# What torch, pickle and zipfile raise on files that are none of theirs; RecursionError is a RuntimeError.
_UNREADABLE = (
    zipfile.BadZipFile, struct.error, EOFError, OSError, RuntimeError, MemoryError, ValueError,
    TypeError, LookupError, AttributeError, AssertionError, ImportError, OverflowError,
)  # fmt: skip


def check_file(path: Path) -> None:
    """Raise IsADirectoryError where a file is to be written and a folder is, FileNotFoundError without its folder."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder; give the name of a file in it", str(path))
    if not path.parent.exists():
        raise FileNotFoundError(errno.ENOENT, "no such folder; make it first", str(path.parent))


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success flush it to disk and rename it, else remove it."""
    path = Path(path)
    check_file(path)
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


def provenance() -> dict[str, str]:
    """Return what made a result: versions of gpuion and what it stands on, git commit, machine.

    The machine is its processor, the number of its cores and, once this process uses one, the GPU: the same on all
    ranks of one machine.
    """
    gpu = [torch.cuda.get_device_name()] if torch.cuda.is_initialized() else []
    return _software() | {"machine": ", ".join([processor(), f"{os.cpu_count()} cores", *gpu])}


@functools.cache
def _software() -> dict[str, str]:
    versions = {"gpuion": gpuion.__version__, "torch": torch.__version__, "numpy": np.__version__}
    return versions | {"python": platform.python_version(), "commit": _commit()}


@functools.cache
def processor() -> str:
    """Return the model of the processor."""
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit(package: Path = Path(__file__).parent) -> str:
    """Return the commit of the repository that tracks the package; an installation inside another one has none."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # as in a git hook

    def git(*words: str) -> str:
        command = ["git", "-C", str(package), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=clean).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("describe", "--always", "--dirty", "--abbrev=12")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def save_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values by name as torch does, whole or not at all."""
    buffer = io.BytesIO()  # torch.save itself turns a full disk into an error of its own making
    torch.save(content, buffer)
    with atomic(path) as partial:
        partial.write_bytes(buffer.getvalue())


def load_tensors(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return what `save_tensors` wrote; nothing is unpickled but tensors and plain values.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If it is damaged or holds anything else.
    """
    path = Path(path)
    try:
        check_archive(path)
        content = torch.load(path, map_location=device, weights_only=True)
    except (FileNotFoundError, CheckpointError):
        raise
    except pickle.UnpicklingError:  # torch's own words advise to run whatever the file holds
        reason = "it is damaged, or holds more than tensors and plain values"
        raise CheckpointError(f"{path} is not a readable checkpoint: {reason}") from None
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is not a readable checkpoint: {reason}") from None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise CheckpointError(f"{path} is not a readable checkpoint: it holds no values by name")
    check_tensors(path, content)
    return content


def read_text(path: Path) -> str:
    """Return the text of a file that is no larger than any of ours; ValueError for another, and OSError."""
    with path.open("rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ValueError(f"more than {_LARGEST / 2**20:.0f} MiB, which no file of a run has")
    return content.decode("utf8")


def read_json(path: Path, kind: type = dict) -> Any:
    """Return the value of a JSON file, an object if no other kind is asked for.

    Raises
    ------
    DatasetError
        If the file is missing or damaged, or holds another kind.
    """
    try:
        value = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: expected a JSON file, found: {type(error).__name__} {error}") from None
    if not isinstance(value, kind):
        raise DatasetError(f"{path}: expected JSON that is a {kind.__name__}, found a {type(value).__name__}")
    return value


def fingerprint(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of named tensors, arrays and JSON values, the same on every device."""
    digest = hashlib.sha256()
    for name, value in content.items():
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
        if isinstance(array, np.ndarray):
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        else:
            digest.update(f"{name} {json.dumps(array)}\n".encode())
    return digest.hexdigest()


def claim_folder(
    folder: Path, script: str, config: Any, world: World | None = None, content: Mapping[str, str] | None = None
) -> contextlib.ExitStack:
    """Make `folder` this run's own: create it, or check that it holds a run of the same configuration.

    Fields whose metadata has `identity=False` (device, output) do not make another run. `content` holds, by the
    name of the field that gives their paths, fingerprints of the files that a run reads: neither other paths nor
    other content under the same paths go on with a run. What a killed run left half written is removed. With
    `world`, rank 0 does this and the others wait, or leave with it if it fails.

    Until the context that this returns is left or dropped, no other run can claim the folder, and all ranks
    end if one does.

    Raises
    ------
    ConfigError
        If the folder cannot be written, holds another script's or another configuration's run or one of other data;
        or while another run writes to it.
    OSError
        If the disk is full.
    """
    problem: object = None
    with contextlib.ExitStack() as held:
        if world is None or world.is_main:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                lock = held.enter_context(locks.held(folder, alone=True))
                _claim(folder, script, identity(config), dict(content or {}))
                locks.share(folder, lock)
            except ConfigError as error:
                problem = error
            except OSError as error:
                problem = error if error.errno in NO_ROOM else _unwritable(folder, error)
        if world is not None:
            problem = world.share(problem)
        if isinstance(problem, Exception):
            raise problem if world is None or world.is_main else SystemExit(1)
        if world is not None:
            if not world.is_main:
                held.enter_context(locks.held(folder, alone=False))
            held.enter_context(peers.watched(world))
        return held.pop_all()


def _unwritable(folder: Path, error: OSError) -> ConfigError:
    why = "it is no folder" if folder.exists() and not folder.is_dir() else (error.strerror or str(error)).lower()
    return ConfigError(f"{folder} cannot be written: {why}; choose another --out")


def _claim(folder: Path, script: str, mine: dict[str, Any], content: dict[str, str]) -> None:
    record = folder / "run.json"
    for stale in folder.glob(f".*{_PARTIAL}"):
        stale.unlink(missing_ok=True)
    if not record.exists():
        if any(path.name != locks.NAME for path in folder.iterdir()):
            raise ConfigError(f"{folder} is not empty and holds no gpuion run; choose another --out")
        write_json(record, {"script": script, "config": mine, "content": content, **provenance()})
        return
    try:
        held = read_json(record)
        other, theirs, before = held["script"], dict(held["config"]), dict(held.get("content", {}))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{record} is damaged ({error}); choose another --out or remove {folder}") from None
    if other != script:
        raise ConfigError(f"{folder} holds a run of {other}, not of {script}; choose another --out")
    for name in sorted(mine.keys() | theirs.keys()):
        if mine.get(name) != theirs.get(name):
            other = reprlib.repr(theirs.get(name))
            raise ConfigError(
                f"{folder} holds a run with {name} = {other}, this one has {mine.get(name)!r}; "
                "choose another --out, or give the same configuration to go on"
            )
    for name in sorted(content.keys() & before.keys()):
        if content[name] != before[name]:
            earlier, now = str(before[name])[:12], content[name][:12]
            raise ConfigError(
                f"{folder} holds a run on other content of {name} = {mine[name]!r}: sha256 {earlier}…, now {now}…; "
                f"choose another --out, or put back what was there to go on"
            )


def identity(config: Any) -> dict[str, Any]:
    """Return the fields that make a configuration what it is, as JSON values."""
    named = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.metadata.get("identity", True)}
    return json.loads(json.dumps(named))
