"""Faster training on request: how precisely to compute, and compiled layers; refused where that cannot work."""

import os
import shutil
import warnings

import torch

from gpuion import memory
from gpuion.errors import ConfigError
from gpuion.models import Model
from gpuion.surrogate import Surrogate

PRECISIONS = ("fp32", "tf32", "bf16")

_WRONG = range(90800, 91100)  # cuDNN 9.8 to 9.10: wrong results of 3D convolutions in bf16


def arrange(net: Model, precision: str, device: torch.device, *, compile: bool = False) -> None:  # noqa: A002
    """Prepare a network and its device to train in a precision, compiled or not.

    On a CPU image networks keep their memory between steps, see `memory.keep`. On a GPU matrix products and
    convolutions round to the ten bits of TF32 with tf32, and do not otherwise; what bf16 does is the plan's.
    Compilation takes place at the first steps. On one CPU core the periodic network's training takes 6.6 ms a structure
    of 75³ voxels as it is, 5.7 in bf16, and 7.7 compiled, after ten seconds of compiling for each size of a batch: it
    does not pay there.

    Raises
    ------
    ConfigError
        For another precision; for bf16 or compiling on a model on centres; for bf16 with a cuDNN whose convolutions in
        it are wrong; for compiling for a CPU without a C++ compiler.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "bf16":
        _check_bf16(net, device)
    if device.type == "cpu" and isinstance(net, Surrogate):
        memory.keep()
    if compile:
        _check_compiler(net, device)
        # The power spectrum stays as it is, and takes little time.
        warnings.filterwarnings("ignore", "Torchinductor does not support code generation for complex")
        net.compile()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


def _check_bf16(net: Model, device: torch.device) -> None:
    if not isinstance(net, Surrogate):
        raise ConfigError("precision bf16 is for models on images; the solves and distances of others need fp32")
    version = torch.backends.cudnn.version() if device.type == "cuda" else None
    if version in _WRONG:
        raise ConfigError(f"cuDNN {version} computes 3D convolutions in bf16 wrongly; use tf32, or cuDNN 9.11 or newer")


def _check_compiler(net: Model, device: torch.device) -> None:
    if not isinstance(net, Surrogate):
        raise ConfigError("compiling is for models on images; the shapes of others change from batch to batch")
    compiler = os.environ.get("CXX", "g++")
    if device.type != "cuda" and not shutil.which(compiler):
        raise ConfigError(f"compiling for a CPU needs a C++ compiler, and {compiler} is not there; leave --compile out")
