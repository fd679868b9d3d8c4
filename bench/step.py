"""Print seconds and peak memory of training steps in a process of their own.

python bench/step.py MODEL BATCH DEVICE THREADS REPEATS full|tiny kept|plain
"""

import json
import sys

import torch
from cases_models import cell, steps
from measure import Setting, clock

from gpuion import memory
from gpuion.timing import peak_memory


def main() -> None:
    """Take a step of the smallest cell to bring in all code, then those asked for."""
    model, batch, device, threads, repeats, scale, way = sys.argv[1:]
    torch.set_num_threads(int(threads))
    if way == "kept":
        memory.keep()
    setting = Setting(scale=scale, device=device, threads=int(threads))
    steps(model, cell(Setting(scale="tiny", device=device), 2))()
    step = steps(model, cell(setting, int(batch)))
    before = peak_memory(torch.device(device))
    step()
    grown = peak_memory(torch.device(device)) - before
    seconds = [clock(step) for _ in range(int(repeats))]
    print(json.dumps({"bytes": grown, "seconds": seconds}))


if __name__ == "__main__":
    main()
