"""Print seconds of training steps, each on all processes together.

torchrun --nproc-per-node 2 bench/ranks.py MODEL STRUCTURES_EACH DEVICE THREADS REPEATS full|tiny
"""

import json
import sys

import torch
from cases_models import cell, steps
from measure import Setting, clock

from gpuion.distributed import start


def main() -> None:
    """Take a step to bring in all code, then those asked for."""
    model, each, device, threads, repeats, scale = sys.argv[1:]
    torch.set_num_threads(int(threads))
    world = start(device)
    setting = Setting(scale=scale, device=str(world.device), threads=int(threads))
    step = steps(model, cell(setting, int(each) * world.size), world=world)
    step()
    seconds = []
    for _ in range(int(repeats)):
        world.barrier()
        seconds.append(clock(step))
    if world.is_main:
        print(json.dumps(seconds), flush=True)
    del step
    world.close()


if __name__ == "__main__":
    main()
