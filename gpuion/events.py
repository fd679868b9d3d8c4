"""What each epoch met, as TensorBoard's event files."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpuion.errors import ConfigError


def check_tensorboard() -> None:
    """Raise ConfigError where TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError("tensorboard is not installed: pip install tensorboard, or leave --tensorboard out")


def writer(folder: Path, epoch: int) -> Callable[[dict[str, Any]], None]:
    """Return what writes an epoch's row of the history into event files; those from `epoch` on are void."""
    from torch.utils.tensorboard import SummaryWriter

    events = SummaryWriter(folder, purge_step=epoch)

    def write(row: dict[str, Any]) -> None:
        for name in row.keys() - {"epoch"}:
            events.add_scalar("train/loss" if name == "loss" else f"validation/{name}", row[name], row["epoch"])
        events.flush()

    return write
