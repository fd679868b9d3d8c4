"""Print how many bytes a solve takes at its peak: python bench/peak.py SITES_AN_EDGE DEVICE THREADS."""

import json
import sys

import torch

import gpuion
from gpuion.timing import peak_memory


def main() -> None:
    """Solve a small cell to bring in all code, then the one asked for."""
    sites, device, threads = int(sys.argv[1]), torch.device(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    tables = torch.tensor([1.0, 0.5]), torch.zeros(2)
    draw = torch.Generator().manual_seed(0)
    cells = [torch.randint(0, 2, (1, n, n, n), dtype=torch.uint8, generator=draw).to(device) for n in (8, sites)]
    gpuion.homogenize(gpuion.Medium(cells[0], *tables), tolerance=1e-3)
    before = peak_memory(device)
    gpuion.homogenize(gpuion.Medium(cells[1], *tables), tolerance=1e-3)
    print(json.dumps({"bytes": peak_memory(device) - before}))


if __name__ == "__main__":
    main()
