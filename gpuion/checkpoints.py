"""Checkpoints of models: weights, what the model is made with, what it was trained on and how far."""

import json
import math
import reprlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gpuion import files
from gpuion.checks import check_device, check_path, is_between, is_whole
from gpuion.errors import CheckpointError
from gpuion.models import Model, again

PRETRAINED = Path(__file__).parent / "pretrained" / "network.pt"  # by train.py --preset study --data data/study

_FORMAT, _VERSION = "gpuion-surrogate", 1
_LENGTHS, _COUNTS = ("d_reference", "box", "diameter"), ("n_particles", "voxels", "sites_per_voxel")
_MAKERS = {torch.empty, torch.zeros, torch.ones, torch.randn}  # what layers are made with
_SMALL, _FEW = 2**20, 64  # numbers of a tensor, and tensors, that a network may have beside those of its checkpoint


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
    version = content.get("version")
    if not isinstance(version, int) or version != _VERSION:
        raise CheckpointError(
            f"{path} is of version {reprlib.repr(version)}, this program reads {_VERSION}; take the gpuion that wrote "
            "it, or train again"
        )
    missing = {"arguments", "weights", "meta", "progress"} - content.keys()
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(sorted(missing))}")
    for name in ("arguments", "weights", "meta", "progress"):
        if not isinstance(content[name], dict) or not all(isinstance(key, str) for key in content[name]):
            raise CheckpointError(f"{path}: {name} should be values by name, found {type(content[name]).__name__}")
    _check_meta(path, content["meta"])
    return content


def _check_meta(path: str | Path, meta: dict[str, Any]) -> None:
    """Refuse what is wrong of what a checkpoint says of its cell; it may say less."""
    try:
        json.dumps(meta)
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: meta should be plain values, found others: {error}") from None
    known = {name: meta[name] for name in (*_LENGTHS, *_COUNTS) if meta.get(name) is not None}
    for name, value in known.items():
        if not (is_between(value, 0, math.inf) if name in _LENGTHS else is_whole(value, 1)):
            kind = "positive number" if name in _LENGTHS else "whole number above 0"
            raise CheckpointError(f"{path}: meta: {name} should be a {kind}, found {reprlib.repr(value)}")
    for name in ("config", "metrics", "provenance"):
        if not isinstance(meta.get(name, {}), dict):
            raise CheckpointError(f"{path}: meta: {name} should be values by name, found {reprlib.repr(meta[name])}")


class _Bounded(TorchFunctionMode):
    """Refuses tensors larger than a checkpoint's largest, and far more of them: arguments may ask for any size."""

    def __init__(self, weights: dict[str, Any]) -> None:
        super().__init__()
        self.largest = max([_SMALL, *(x.numel() for x in weights.values() if isinstance(x, Tensor))])
        self.left = _FEW + 4 * len(weights)

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _MAKERS:
            sizes = [n for size in args for n in (size if isinstance(size, list | tuple) else [size])]
            self.left -= 1
            if math.prod(sizes) > self.largest or not self.left:
                raise ValueError(f"they ask for a layer of {'·'.join(map(str, sizes))} numbers, or for too many layers")
        return func(*args, **(kwargs or {}))


def build(content: dict[str, Any], path: str | Path, device: torch.device | str = "cpu") -> Model:
    """Return the network of a loaded checkpoint, in evaluation mode, with its `meta`.

    Raises
    ------
    CheckpointError
        If arguments and weights do not fit together.
    """
    try:
        weights = content["weights"]
        net = _untrained(content["arguments"], weights)
        unknown = {name: x for name, x in net.state_dict().items() if name.startswith("doubt.")}  # to older programs
        net.load_state_dict({**unknown, **weights})
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, OverflowError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: the weights do not fit the network: {reason}") from None
    net.meta = content["meta"]
    return net.to(device).eval()


def _untrained(arguments: dict[str, Any], weights: dict[str, Any]) -> Model:
    """Return a network of these arguments, or raise ValueError if these cannot be its weights."""
    for name, x in weights.items():
        if not (isinstance(x, Tensor) and bool(x.isfinite().all())):
            raise ValueError(f"{name} is no tensor of finite numbers")
    json.dumps(arguments)  # else they are no plain values
    for name, value in arguments.items():
        if isinstance(value, int) and value > _SMALL:
            raise ValueError(f"none can be made with {name} = {value}")
    with _Bounded(weights):
        return again(arguments)


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
    path, device = PRETRAINED if path is None else check_path("path", path), check_device(device)
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
        theirs = reprlib.repr(content["arguments"])
        raise CheckpointError(f"{path} is of {theirs}, this run trains {net.arguments}")
    try:
        net.load_state_dict(content["weights"])
        optimizer.load_state_dict(content["progress"]["optimizer"])
        return list(content["progress"]["history"])
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} does not fit this run: {' '.join(str(error).split())[:200]}") from None
