"""One process or many: what torchrun says about this one."""

import dataclasses
import datetime as dt
import gc
import os

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # before any group is made: it keeps the group of its import for good

from gpuion.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """This process among its peers: rank, number of ranks, the device it computes on, and whether it made the group."""

    rank: int
    size: int
    device: torch.device
    made: bool = True

    @property
    def is_main(self) -> bool:
        """True on the one rank that prints and writes what all share."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier()

    def share(self, value: object) -> object:
        """Return rank 0's value on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def total(self, number: int) -> int:
        """Return the sum of a number over the ranks."""
        if self.size == 1:
            return number
        box = torch.tensor(number, device=self.device)
        dist.all_reduce(box)
        return int(box)

    def close(self) -> None:
        """Leave the process group and end its threads: one that still runs while Python ends aborts the process.

        They end with the last that holds the group, such as a network made parallel, so drop that before. A group that
        this world did not make stays.
        """
        if self.size > 1 and self.made:
            gc.collect()
            dist.destroy_process_group()


def pick_device(name: str = "auto", local_rank: int = 0) -> torch.device:
    """Return the device of that name; `auto` is this rank's GPU if there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device {name!r} is unknown; use auto, cpu or cuda") from None
    if device.type not in {"cpu", "cuda"}:
        raise ConfigError(f"device {name!r} is not supported; use auto, cpu or cuda")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(f"device {name!r} was asked for but torch finds no GPU; use --device cpu")
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise ConfigError(f"device {name!r} was asked for but there are {count} GPUs; start one process a GPU")
        torch.cuda.set_device(device)
    return device


def start(device: str = "auto") -> World:
    """Join the process group that torchrun set up (gloo on CPU, NCCL on GPU), or stand alone without it.

    A group that is there already is taken: it can be made once.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = pick_device(device, local_rank)
    made = not dist.is_initialized()
    if size > 1 and made:
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        patience = dt.timedelta(hours=24)  # ranks that resume with less to do wait for the others at the end
        dist.init_process_group(backend, timeout=patience, device_id=chosen if chosen.type == "cuda" else None)
    return World(rank=rank, size=size, device=chosen, made=made)


def is_first_to_say(line: str) -> bool:
    """Return whether no other rank asked this about `line` before.

    Ranks need not have met: they ask the store that torchrun keeps. Where it does not answer, everyone is the first.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        patience = dt.timedelta(seconds=10)
        store = dist.TCPStore(host, port, is_master=False, timeout=patience, wait_for_workers=False)
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return store.add(f"gpuion/{attempt}/{line}", 1) == 1
    except (KeyError, ValueError, RuntimeError):
        return True
