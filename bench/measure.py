"""What every case needs: times taken in turn, rows of results, the machine they were taken on.

A row holds all its samples; median, quartiles and ratio are made from them when it is written. A ratio above 1
always means that gpuion is the faster one.
"""

import contextlib
import dataclasses
import importlib
import importlib.metadata
import io
import math
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch

from gpuion import files

PEERS = ("taufactor", "porespy", "openpnm", "pyamg", "pytrax")
INSTALL = "pip install -c constraints.txt -e '.[bench]'"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """How large the cases are, and where they run."""

    scale: str = "full"
    device: str = "cpu"
    threads: int = 1

    @property
    def tiny(self) -> bool:
        """Whether all sizes are the smallest that make sense."""
        return self.scale == "tiny"

    @property
    def repeats(self) -> int:
        """How often a quick task is timed."""
        return 2 if self.tiny else 7


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limit:
    """What the hardware, or a part of the work measured alone, allows at best."""

    value: float
    what: str
    estimate: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One measured quantity, the same of a peer taken in turn with it, and the limit."""

    what: str
    unit: str
    samples: list[float]
    peer: str = ""
    peer_samples: list[float] = dataclasses.field(default_factory=list)
    limit: Limit | None = None
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    note: str = ""

    def json(self) -> dict[str, Any]:
        """Return the row with all that follows from its samples."""
        ratios = []
        if self.peer_samples:
            pairs = zip(self.samples, self.peer_samples, strict=True)
            ratios = [ours / theirs if self.unit.endswith("/s") else theirs / ours for ours, theirs in pairs]
        return {
            "what": self.what,
            "unit": self.unit,
            **spread(self.samples),
            "peer": {"name": self.peer, **spread(self.peer_samples)} if ratios else None,
            "ratio": {"meaning": "above 1: gpuion is faster", **spread(ratios)} if ratios else None,
            "limit": dataclasses.asdict(self.limit) if self.limit else None,
            "facts": self.facts,
            "note": self.note,
        }


def spread(samples: list[float]) -> dict[str, Any]:
    """Return median, quartiles, number and the samples themselves."""
    quartiles = statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else samples * 3
    return {
        "median": statistics.median(samples),
        "quartiles": [quartiles[0], quartiles[2]],
        "repeats": len(samples),
        "samples": samples,
    }


def in_turn(*tasks: Callable[[], object], repeats: int, warm: bool = True) -> list[list[float]]:
    """Return the seconds of each task, [task][repeat]; tasks take turns, every other round in reverse order.

    A load on the machine that comes and goes then meets all of them alike. With `warm` each has run once before.
    """
    if warm:
        for task in tasks:
            task()
    seconds: list[list[float]] = [[] for _ in tasks]
    for turn in range(repeats):
        for i in range(len(tasks))[:: -1 if turn % 2 else 1]:
            seconds[i].append(clock(tasks[i]))
    return seconds


def clock(task: Callable[[], object]) -> float:
    """Return the seconds a task takes, its work on a GPU included."""
    synchronize()
    began = time.perf_counter()
    task()
    synchronize()
    return time.perf_counter() - began


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch and numba use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def peer(name: str) -> ModuleType | None:
    """Return another package, or None where it is not installed; its chatter on import is dropped."""
    with quiet():
        try:
            return importlib.import_module(name)
        except ImportError:
            return None


def absent(*names: str) -> str:
    """Return the note of a row whose peer is not installed, empty if all are."""
    missing = [name for name in names if peer(name) is None]
    return f"{' and '.join(missing)} not installed ({INSTALL}): no comparison" if missing else ""


def version(name: str) -> str:
    """Return a package's version, empty if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what a peer prints and warns of."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def loosest(settings: list[float], error: Callable[[float], float], target: float) -> tuple[float, float]:
    """Return the first of some settings, loose to tight, whose error is within the target, and that error.

    Raises
    ------
    ValueError
        If none is.
    """
    found = math.inf
    for setting in settings:
        found = error(setting)
        if found <= target:
            return setting, found
    raise ValueError(f"no setting of {settings} comes within {target}: the last one has an error of {found:.2g}")


def bandwidth(device: str) -> float:
    """Return bytes a second that a sum of two arrays streams through memory, the best of eight.

    Arrays of 64 MB on a CPU; of 1 GB on a GPU, whose cache holds some 50 MB.
    """
    megabytes = 64 if device == "cpu" else 1024
    a, b, c = (torch.zeros(megabytes * 2**18, device=device) for _ in range(3))
    best = min(clock(lambda: torch.add(a, b, out=c)) for _ in range(8))
    return 3 * a.numel() * 4 / best


def machine(setting: Setting) -> dict[str, Any]:
    """Return what the numbers depend on."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return {
        "cpu": files.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": gpu,
        "system": platform.platform(),
        **dataclasses.asdict(setting),
        "memory_bandwidth": bandwidth(setting.device),
        "versions": {
            **{key: value for key, value in files.provenance().items() if key not in {"machine", "commit"}},
            **{name: version(name) or "not installed" for name in ("triton", "numba", *PEERS)},
        },
        "commit": files.provenance()["commit"],
        "command": " ".join(["python", *sys.argv]),
    }
