"""Files of tensors that nobody vouches for: what must hold before torch reads one, and of what it then has read.

`torch.load(weights_only=True)` runs nothing that a file holds and finds storages that claim more than the file has
(2.11 and 2.13 do), but it unpacks compressed parts to any size, and a tensor may repeat one number without end.
"""

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpuion.errors import CheckpointError

_SPREAD = 100  # times a file's own size may its tensors be: views of one storage, one number for a whole row
_SMALL = 2**20  # bytes that tensors of any file may have


def check_archive(path: Path) -> None:
    """Refuse an archive that is damaged or not as `torch.save` writes one.

    Raises
    ------
    CheckpointError
        For a part that does not match its checksum, is compressed or there twice, or for parts larger than the file.
    zipfile.BadZipFile and others
        If it is no archive at all.
    """
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path} is not a readable checkpoint: it is no file")
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if len({part.filename for part in parts}) < len(parts):
            raise CheckpointError(f"{path} is not a readable checkpoint: it has two parts of one name")
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise CheckpointError(f"{path} is not a readable checkpoint: its parts are compressed; save it with torch")
        if sum(part.file_size for part in parts) > path.stat().st_size:
            raise CheckpointError(f"{path} is not a readable checkpoint: its parts are larger than the file")
        if damaged := archive.testzip():  # torch does not check the sums that it stores
            raise CheckpointError(f"{path} is damaged: {damaged} does not match its checksum")


def check_tensors(path: Path, content: Any) -> None:
    """Refuse content with tensors of a kind that we do not write, or of far more numbers than the file can hold.

    Raises
    ------
    CheckpointError
        It names the kind, or both sizes.
    """
    held = path.stat().st_size
    size, seen, todo = 0, set[int](), [content]
    while todo:
        value = todo.pop()
        if isinstance(value, Tensor):
            if value.layout is not torch.strided or value.is_meta or value.is_quantized:
                raise CheckpointError(f"{path} is not a readable checkpoint: it has a tensor of an unusual kind")
            size += value.numel() * value.element_size()
        elif isinstance(value, dict | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            todo += [*value, *value.values()] if isinstance(value, dict) else value
    if size > _SMALL + _SPREAD * held:
        raise CheckpointError(f"{path} is not a readable checkpoint: tensors of {size} bytes in a file of {held}")
