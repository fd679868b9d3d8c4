"""Ion transport in nanoparticle electrolytes, as tensors on one device.

The way through: `place` puts spheres into periodic boxes, `electrolyte` turns their centres into a medium,
`walk` and `homogenize` find how fast ions diffuse through it, `voxelize` makes the image that a `Surrogate`
learns from, and `anneal` moves the spheres towards the best or worst conductor.
"""

from __future__ import annotations

import os.path
from importlib import import_module

TYPE_CHECKING = False  # see gpuion.errors: a stop is expected the sooner
if TYPE_CHECKING:
    from typing import Any

_root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120, no pathlib either
if os.path.isfile(os.path.join(_root, "kernels", "walk.py")):  # noqa: PTH113, PTH118
    # A source tree keeps the Triton code at top level; a wheel has it installed as gpuion/kernels.
    __path__.append(_root)

__version__ = "0.1.0"

# Imported on first use, so that `import gpuion` does not wait for Triton, numba or h5py.
_HOME = {
    "ConfigError": "errors",
    "ConvergenceError": "errors",
    "CheckpointError": "errors",
    "DatasetError": "errors",
    "GpuionError": "errors",
    "PackingError": "errors",
    "sphere_diameter": "packing",
    "place": "packing",
    "change_loading": "loading",
    "separate": "separation",
    "Medium": "medium",
    "TransportModel": "transport",
    "electrolyte": "medium",
    "WalkResult": "kmc",
    "walk": "kmc",
    "HomogenizationResult": "homogenization",
    "homogenize": "homogenization",
    "RefinementResult": "refinement",
    "refine": "refinement",
    "refine_medium": "refinement",
    "effective_diffusivity": "gradients",
    "SmoothMedium": "smooth",
    "smooth_medium": "smooth",
    "currents": "flux",
    "tortuosity": "flux",
    "read_image": "images",
    "describe": "descriptors",
    "pair_distribution": "radial",
    "principal_components": "components",
    "correlation": "components",
    "tile": "voxels",
    "voxelize": "voxels",
    "Dataset": "dataset",
    "open_dataset": "dataset",
    "write_xyz": "xyz",
    "write_vtkhdf": "vtkhdf",
    "write_medium": "vtkhdf",
    "Surrogate": "surrogate",
    "Prediction": "prediction",
    "load_surrogate": "training",
    "AnnealResult": "annealing",
    "anneal": "annealing",
    "Objective": "objectives",
    "aim": "objectives",
}

__all__ = [*_HOME, "__version__"]  # noqa: PLE0604, all strings


def __getattr__(name: str) -> Any:
    """Import a public name from the module it lives in."""
    if name not in _HOME:
        raise AttributeError(f"module 'gpuion' has no attribute {name!r}")
    value = getattr(import_module(f"gpuion.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return __all__
