"""A pretended GPU: tensors that say `cuda` and refuse to meet those that do not, while the CPU computes.

Within `rehearse()` every branch for a GPU is taken and every tensor made without a device is found out, as far as torch
is asked: numbers, speed and memory are the CPU's, and Triton kernels are replaced by their scalar twins.
"""

import contextlib
import types
import unittest.mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

import gpuion.kernels.walk
import gpuion.recorded
from gpuion.kernels import lanes

CUDA = torch.device("cuda:0")
_PROPERTIES = types.SimpleNamespace(
    name="a pretended GPU", major=9, minor=0, multi_processor_count=132, total_memory=2**34
)
_DEVICE, _IS_CUDA = torch.Tensor.device.__get__, torch.Tensor.is_cuda.__get__
_TO, _CPU, _CUDA = torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda
_NUMPY = {torch.Tensor.numpy, torch.Tensor.__array__}
_MIXING = {torch.Tensor.copy_, torch.Tensor.type_as}  # may take tensors of two devices
_INDEXING = {torch.Tensor.__getitem__, torch.Tensor.__setitem__}  # indices may lie on the CPU
_FREE = {torch.as_tensor, torch._has_compatible_shallow_copy_type}
_WAITING = {  # for numbers of the device, or for one of the host to get there: nothing that a graph could repeat
    torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.__bool__, torch.Tensor.__int__, torch.Tensor.__float__,
    torch.Tensor.__index__, torch.Tensor.nonzero, torch.nonzero, torch.Tensor.unique, torch.Tensor.masked_select,
    torch.unique, torch.equal, torch.allclose, torch.linalg.cholesky, torch.cholesky_solve, torch.tensor,
    torch.as_tensor, torch.from_numpy, *_NUMPY,
}  # fmt: skip
_recording = False


class Pretended(torch.Tensor):
    """A CPU tensor that says it is on a GPU."""

    @classmethod
    def __torch_function__(cls, func, _types, args=(), kwargs=None):
        return _call(func, args, kwargs or {})


class Rehearsal(TorchFunctionMode):
    """Sees every call of torch, those that make tensors included."""

    def __torch_function__(self, func, _types, args=(), kwargs=None):
        return _call(func, args, kwargs or {})


def _tensors(values):
    """Yield the tensors among values and in the sequences among them; torch's tree_iter is ten times slower."""
    for x in values:
        if isinstance(x, torch.Tensor):
            yield x
        elif isinstance(x, list | tuple):
            yield from _tensors(x)


def _is_cuda(device):
    return device is not None and torch.device(device).type == "cuda"


def _call(func, args, kwargs):
    if func == _DEVICE:
        return CUDA if isinstance(args[0], Pretended) else torch.device("cpu")
    if func == _IS_CUDA:
        return isinstance(args[0], Pretended)
    tensors = [*_tensors(args), *_tensors(kwargs.values())]
    ours = any(isinstance(x, Pretended) for x in tensors)
    if _recording:
        _check_recorded(func, args, ours)
    if func in _NUMPY and ours:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")
    if func in {_TO, _CPU, _CUDA}:
        return _move(func, args, kwargs, ours)
    if ours and func not in _MIXING and func not in _FREE:
        _check(func, args, tensors)
    if "device" in kwargs:
        ours = _is_cuda(kwargs["device"]) or (kwargs["device"] is None and ours)
        kwargs = {**kwargs, "device": "cpu" if kwargs["device"] is not None else None}
    with torch._C.DisableTorchFunctionSubclass():
        return _dress(func(*args, **kwargs), ours)


def _check(func, args, tensors):
    """Raise where a GPU would, for tensors of two devices; a number on the CPU may meet any tensor."""
    if func in _INDEXING and isinstance(args[0], Pretended):
        tensors = [x for x in (args[0], *args[2:]) if isinstance(x, torch.Tensor)]
    strange = [x for x in tensors if not isinstance(x, Pretended) and x.ndim]
    if strange:
        raise RuntimeError(
            f"{getattr(func, '__name__', func)}: a tensor {list(strange[0].shape)} is on cpu, not cuda:0"
        )


def _check_recorded(func, args, ours):
    """Raise where a stream that is being recorded would."""
    moved = func in {_TO, _CPU, _CUDA} and _move(func, args, {}, ours).is_cuda is not ours
    index = args[1] if func in _INDEXING else ()
    masked = any(x.dtype is torch.bool for x in _tensors([index]))
    if moved or masked or (func in _WAITING and (ours or func in _FREE or func is torch.tensor)):
        raise RuntimeError(f"{getattr(func, '__name__', func)}: operation not permitted when stream is capturing")


def _record(function, tensors):
    """Do what `gpuion.recorded.record` does, without a graph."""

    def repeat():
        global _recording  # noqa: PLW0603
        _recording = True
        try:
            function(*tensors)
        finally:
            _recording = False

    before = [x.clone() for x in tensors]
    repeat()
    for x, value in zip(tensors, before, strict=True):
        x.copy_(value)
    return repeat


def _move(func, args, kwargs, ours):
    """Copy a tensor to where `to`, `cpu` or `cuda` ask."""
    if func is not _TO:
        ours, args, kwargs, func = func is _CUDA, (args[0],), {"device": "cpu"}, _TO
    else:
        asked = [x for x in (*args[1:], *kwargs.values()) if isinstance(x, str | torch.device)]
        others = [x for x in args[1:] if isinstance(x, torch.Tensor)]
        ours = isinstance(others[0], Pretended) if others else _is_cuda(asked[0]) if asked else ours
        swap = lambda x: "cpu" if isinstance(x, str | torch.device) else x  # noqa: E731
        args, kwargs = tuple(map(swap, args)), {name: swap(x) for name, x in kwargs.items()}
    with torch._C.DisableTorchFunctionSubclass():
        result = func(*args, **kwargs)
        return (
            result if isinstance(result, Pretended) is ours else result.as_subclass(Pretended if ours else torch.Tensor)
        )


def _dress(result, ours):
    def dress(x):
        return x.as_subclass(Pretended) if ours and isinstance(x, torch.Tensor) and type(x) is torch.Tensor else x

    return dress(result) if isinstance(result, torch.Tensor) else tree_map(dress, result) if ours else result


def bare(x):
    """Return a tensor without the pretence."""
    return x.detach().as_subclass(torch.Tensor) if isinstance(x, Pretended) else x


def _walk(*arguments):
    tensors = [x for x in arguments if isinstance(x, torch.Tensor)]
    assert all(isinstance(x, Pretended) and x.is_contiguous() for x in tensors)
    dtypes = [torch.uint8, torch.float32, torch.float32, torch.int32, torch.int32, torch.int64, torch.int32]
    assert [x.dtype for x in tensors] == dtypes[: len(tensors)]  # as the kernel's pointers have them
    with torch._C.DisableTorchFunctionSubclass():
        plain = [x.as_subclass(torch.Tensor) if isinstance(x, torch.Tensor) else x for x in arguments]
    with torch._C.DisableTorchFunction():
        result = lanes.walk(*plain)
    return tuple(x.as_subclass(Pretended) for x in result)


@contextlib.contextmanager
def rehearse():
    """Let `cuda` be the device of a pretended GPU."""
    load, save = torch.load, torch.save

    def load_here(source, map_location=None, **options):
        content = load(source, map_location="cpu", **options)
        return _dress(content, _is_cuda(map_location))

    def save_bare(content, target):
        save(tree_map(bare, content), target)

    replaced: list[tuple[object, str, object]] = [
        (gpuion.kernels.walk, "walk", _walk), (gpuion.recorded, "record", _record),
        (torch, "load", load_here), (torch, "save", save_bare),
    ]  # fmt: skip
    there = {"is_available": True, "device_count": 1, "set_device": None, "reset_peak_memory_stats": None}
    there |= {"max_memory_allocated": 0, "memory_allocated": 0, "is_current_stream_capturing": False}
    there |= {"get_device_name": "a pretended GPU", "mem_get_info": (2**34, 2**34), "synchronize": None}
    there |= {"get_device_properties": _PROPERTIES, "is_bf16_supported": True, "current_device": 0}
    replaced += [(torch.cuda, name, unittest.mock.Mock(return_value=value)) for name, value in there.items()]
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with contextlib.ExitStack() as stack:
            for home, name, value in replaced:
                stack.enter_context(unittest.mock.patch.object(home, name, value))
            stack.enter_context(Rehearsal())
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
