"""Whether what chains visit fits into memory.

Legend: C chains, N particles.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import torch

from gpuion.errors import ConfigError

_STEP = 50  # structures' worth of memory that a chain's own step takes


def available(device: torch.device) -> int:
    """Return the bytes free for this process: of its GPU, or its share of the machine's among the ranks there."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf8").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return free // ranks


def check_memory(
    chains: int, particles: int, visited: Mapping[str, int], ranks: int, device: torch.device, known: int = 0
) -> None:
    """Raise ConfigError for more chains than fit.

    Parameters
    ----------
    chains : int
        C of a direction, on all ranks together.
    particles : int
        N.
    visited : mapping
        How many structures each chain keeps, for each direction.
    ranks : int
        Among which the chains are divided.
    device : torch.device
        Where they run. In the end each rank has all that was visited in the machine's memory, to choose from.
    known : int
        Bytes that the score keeps of a chain, see `gpuion.scoring.chain_bytes`.
    """
    size, most = 12 * particles + 8, max(visited.values())
    host = torch.device("cpu")
    # Annealing holds a direction's twice while a cycle is added to it; choosing holds all, and one direction's thrice.
    needs = {host: (sum(visited.values()) + 2 * most + _STEP) * size}
    if device.type == "cuda":
        needs[device] = -(-(2 * most + _STEP) * size // ranks)
    needs[device] += -(-known // ranks)
    for where, need in needs.items():
        fit = available(where) // need
        if chains > fit:
            raise ConfigError(
                f"chains = {chains} keep {chains * need / 2**30:.3g} GiB of structures, and what the score knows of "
                f"them, in the memory of the {where.type}; {fit} would fit, or more with fewer samples a cycle"
            )
