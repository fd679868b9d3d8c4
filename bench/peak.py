"""Print how many bytes a solve takes at its peak: python bench/peak.py SITES_AN_EDGE DEVICE THREADS."""

import json
import resource
import sys
from pathlib import Path

import torch

import gpuion


def main() -> None:
    """Solve a small cell to bring in all code, then the one asked for."""
    sites, device, threads = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(threads)
    tables = torch.tensor([1.0, 0.5]), torch.zeros(2)
    draw = torch.Generator().manual_seed(0)
    cells = [torch.randint(0, 2, (1, n, n, n), dtype=torch.uint8, generator=draw).to(device) for n in (8, sites)]
    gpuion.homogenize(gpuion.Medium(cells[0], *tables), tolerance=1e-3)
    before = peak(device)
    gpuion.homogenize(gpuion.Medium(cells[1], *tables), tolerance=1e-3)
    print(json.dumps({"bytes": peak(device) - before}))


def peak(device: str) -> int:
    """Return the peak memory so far, bytes: of the GPU, or of this process since it became a program of its own."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    # getrusage would count the peak of the process that started this one, too.
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
