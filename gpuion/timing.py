"""How long a stage took: timing.json in its folder, a row for each time that its script came to its end.

What a stopped or killed start of a script took is not known, and neither is what it made: a row counts what was made
in the seconds that it tells, so that rates are true whatever was stopped.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from gpuion import files
from gpuion.distributed import World

NAME = "timing.json"
HEADER = ["folder", "stage", "made", "wall time / s", "per second", "processes", "device", "torch", "commit"]


def tell(folder: Path, stage: str, *, count: int, unit: str, began: float, world: World) -> None:
    """Wait for all ranks; print and record how much they made together since `began` (of time.perf_counter).

    A row says how many of what in how many seconds, on how many processes of which kind, with which versions, and
    how much memory rank 0 had at its peak.
    """
    count = world.total(count)
    if not world.is_main or not count:
        return
    seconds = time.perf_counter() - began
    print(f"{stage}: {count} {unit} by {world.size} process(es), {count / seconds:.4g} {unit}/s")
    gpu = world.device.type == "cuda"
    row: dict[str, Any] = {
        "stage": stage, "count": count, "unit": unit, "seconds": round(seconds, 3), "rate": count / seconds,
        "processes": world.size, "device": torch.cuda.get_device_name(world.device) if gpu else "cpu",
        "peak_bytes": peak_memory(world.device),
    }  # fmt: skip
    files.write_json(folder / NAME, [*_earlier(folder / NAME), row | files.provenance()])


def rows(timing: dict[str, list[dict[str, Any]]]) -> list[list[Any]]:
    """Return the rows of some folders' files for a table with HEADER."""
    return [
        [name, x.get("stage"), f"{x['count']} {x['unit']}", f"{x['seconds']:.1f}", f"{x['rate']:.4g}",
         x.get("processes"), x.get("device"), x.get("torch"), x.get("commit")]
        for name, sittings in timing.items() for x in sittings
    ]  # fmt: skip


def peak_memory(device: torch.device) -> int:
    """Return the most memory held so far, bytes: of the GPU, or of this process since it became its own program."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    # getrusage would count the peak of the process that started this one, too.
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))


def _earlier(path: Path) -> list[Any]:
    try:
        return list(json.loads(files.read_text(path)))
    except (OSError, ValueError, TypeError):
        return []  # a note about the past is no reason to fail
