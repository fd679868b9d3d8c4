"""Checkpoints of models: weights, what the model is made with, what it was trained on and how far."""

import json
import math
from pathlib import Path
from typing import Any

import torch

from gpuion import files
from gpuion.errors import CheckpointError
from gpuion.models import Model, again

PRETRAINED = Path(__file__).parent / "pretrained" / "network.pt"  # by train.py --preset study --data data/study

_FORMAT, _VERSION = "gpuion-surrogate", 1


def save_checkpoint(path: Path, net: Model, meta: dict[str, Any], **progress: Any) -> None:
    """Write weights, network arguments, `meta` (plain values only) and any progress, whole or not at all."""
    content = {
        "format": _FORMAT, "version": _VERSION, "arguments": net.arguments, "weights": net.state_dict(),
        "meta": json.loads(json.dumps(meta)), "progress": progress,  # torch's version is not a plain str
    }  # fmt: skip
    files.save_tensors(path, content)


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return what `save_checkpoint` wrote; nothing is unpickled but tensors and plain values.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, or not a surrogate's checkpoint.
    """
    try:
        content = files.load_tensors(path, device)
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}; train.py writes surrogate.pt into its --out") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of a gpuion surrogate")
    if content.get("version") != _VERSION:
        raise CheckpointError(
            f"{path} is of version {content.get('version')}, this program reads {_VERSION}; take the gpuion that wrote "
            "it, or train again"
        )
    missing = {"arguments", "weights", "meta", "progress"} - content.keys()
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(sorted(missing))}")
    return content


def build(content: dict[str, Any], path: str | Path, device: torch.device | str = "cpu") -> Model:
    """Return the network of a loaded checkpoint, in evaluation mode, with its `meta`.

    Raises
    ------
    CheckpointError
        If arguments and weights do not fit together.
    """
    try:
        net = again(content["arguments"])
        unknown = {name: x for name, x in net.state_dict().items() if name.startswith("doubt.")}  # to older programs
        net.load_state_dict({**unknown, **content["weights"]})
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: the weights do not fit the network: {reason}") from None
    net.meta = content["meta"]
    return net.to(device).eval()


def load_surrogate(path: str | Path | None = None, device: torch.device | str = "cpu") -> Model:
    """Return the trained network of a checkpoint, in evaluation mode; without a path the one that comes with gpuion.

    Its `meta` holds d_reference, box, diameter, n_particles, voxels, sites_per_voxel, metrics, config, data (the
    fingerprint of what it learnt from) and provenance. The one that comes with gpuion is a `ResistorNetwork`, which
    learnt from `data/study`: 91 spheres in 75 voxels at one site a voxel (docs/models.md).

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or of another model.
    """
    path = PRETRAINED if path is None else path
    return build(load_checkpoint(path, device), path, device)


def load_matching(path: str | Path, like: Model, meta: dict[str, Any], device: torch.device | str = "cpu") -> Model:
    """Return the trained network of a checkpoint to go on from, made as `like` is and for the cell of `meta`.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, of another model or size, or of another cell or unit of D*.
    """
    old = load_surrogate(path, device)
    cell = ("d_reference", "box", "diameter", "n_particles")
    expected = like.arguments | {name: meta[name] for name in cell}
    actual = old.arguments | {name: old.meta.get(name, math.nan) for name in cell}
    for name in [*expected, *(actual.keys() - expected.keys())]:
        asked, held = expected.get(name), actual.get(name)
        close = isinstance(asked, float) and isinstance(held, float) and math.isclose(held, asked, rel_tol=1e-6)
        if held != asked and not close:
            raise CheckpointError(f"{path} has {name} = {held}, this run {asked}; they must agree")
    return old


def fingerprint(net: Model) -> str:
    """Return the SHA-256 of a network's weights and of what they were made for, whatever else its file says."""
    cell = {name: net.meta.get(name) for name in ("d_reference", "box", "diameter", "n_particles", "voxels")}
    return files.fingerprint({**net.state_dict(), "cell": cell, "arguments": getattr(net, "arguments", None)})


def resume(path: str | Path, net: Model, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Put network and optimizer back to where a checkpoint left them, and return the history until then.

    Raises
    ------
    CheckpointError
        If the file is damaged or of another network.
    """
    content = load_checkpoint(path, net.output_shift.device)
    if content["arguments"] != net.arguments:
        raise CheckpointError(f"{path} is of {content['arguments']}, this run trains {net.arguments}")
    try:
        net.load_state_dict(content["weights"])
        optimizer.load_state_dict(content["progress"]["optimizer"])
        return list(content["progress"]["history"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} does not fit this run: {' '.join(str(error).split())[:200]}") from None
