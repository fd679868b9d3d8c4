"""The models that `train.py` knows by name, and how to make one again from what its checkpoint holds."""

from collections.abc import Sequence
from typing import Any

from gpuion.baselines import Descriptive, Ridge
from gpuion.errors import ConfigError
from gpuion.graph import GraphNetwork
from gpuion.predictor import Predictor
from gpuion.resistors import ResistorNetwork
from gpuion.surrogate import BOUNDARIES, Surrogate

Model = Surrogate | Predictor
MODELS = (*BOUNDARIES, "nearest", "pairs", "ridge", "graph", "network")


def create(
    model: str, *, voxels: int | None = None, widths: Sequence[int] = (), hidden: int = 32, pool: int = 5
) -> Model:
    """Return a new model: a convolutional network on images by its boundary, or one on sphere centres.

    Parameters
    ----------
    model : {"periodic", "tiled", "zero", "nearest", "pairs", "ridge", "graph", "network"}
    voxels, widths, pool
        As for `Surrogate`; the others have no use for them.
    hidden : int
        Width of the fully connected layers; `ridge` has none.

    Raises
    ------
    ValueError
        For an unknown model, or arguments that it refuses.
    """
    if model in BOUNDARIES:
        return Surrogate(model, voxels=voxels, widths=widths, hidden=hidden, pool=pool)
    if model in {"nearest", "pairs"}:
        return Descriptive(model, hidden=hidden)
    if model == "ridge":
        return Ridge()
    if model == "graph":
        return GraphNetwork(hidden=hidden)
    if model == "network":
        return ResistorNetwork(hidden=hidden)
    raise ConfigError(f"model must be one of {', '.join(MODELS)}, got {model!r}")


def again(arguments: dict[str, Any]) -> Model:
    """Return an untrained model of the arguments that a checkpoint holds."""
    given = dict(arguments)
    model = given.pop("model", None)
    if model is None:
        return Surrogate(**given)
    if model in {"nearest", "pairs"}:
        return Descriptive(model, **given)
    classes: dict[str, type[Predictor]] = {"ridge": Ridge, "graph": GraphNetwork, "network": ResistorNetwork}
    if model not in classes:
        raise ValueError(f"model {model!r} is unknown; this program knows {', '.join(MODELS)}")
    return classes[model](**given)
