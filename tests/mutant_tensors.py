"""Spoilt files of tensors, among them checkpoints of networks."""

import contextlib
import copy
import functools
import io
import os
import pickle
import pickletools
import struct
import tempfile
import warnings
import zipfile
from pathlib import Path

import torch
from mutants import JUNK, PWNED, damaged, spoilt

import gpuion
from gpuion import checkpoints, files, training
from gpuion.models import create

BOX, SIGMA = 40.0, 4.0
META = {
    "d_reference": 0.2, "box": BOX, "diameter": SIGMA, "n_particles": 3, "voxels": 40, "sites_per_voxel": 1,
    "metrics": {"test": {"mape": 1.0}}, "config": {"seed": 0}, "data": "0" * 64,
}  # fmt: skip
CENTERS = torch.tensor([[[2.0, 3.0, 4.0], [10.0, 12.0, 9.0], [15.0, 3.0, 16.0]]])


class Harm:
    """What a pickle may ask for: to run something."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


HARMFUL = (
    lambda: Harm(os.system, f"touch {PWNED}"), lambda: Harm(os.mkdir, PWNED),
    lambda: Harm(eval, f"open({PWNED!r}, 'w')"), lambda: Harm(open, PWNED, "w"),
    lambda: {"format": "gpuion-surrogate", "x": Harm(os.mkdir, PWNED)},
)  # fmt: skip


def tensors():
    """Return what to put in a tensor's place."""
    big = torch.zeros(1).expand(10**12)
    return [
        torch.zeros(0), torch.zeros(3), torch.tensor(1.0), torch.tensor(float("nan")), torch.full((4, 4), float("inf")),
        torch.arange(3), torch.ones(2, dtype=torch.complex64), torch.ones(2, dtype=torch.half), torch.tensor([True]),
        torch.eye(3).to_sparse(), torch.zeros(2, 3, device="meta"), big, torch.zeros(1).expand(2**14, 2**14),
        torch.zeros(3, dtype=torch.uint16), torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        torch.nn.Parameter(torch.ones(2)), torch.ones(4)[::2], torch.arange(6.0).view(2, 3).T, torch.zeros(1, 2, 3),
    ]  # fmt: skip


@functools.cache
def network(model):
    torch.manual_seed(0)
    return create(model, hidden=3, widths=(2, 2), pool=5, voxels=40)


@functools.cache
def sound(model):
    """Return the content of a checkpoint, and its bytes."""
    net = network(model)
    optimizer = training.optimizer_for(net, training.Plan(epochs=1, batch=1, learning_rate=1e-3))
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.pt")
        training.save_checkpoint(path, net, META, history=[{"loss": 1.0}], optimizer=optimizer.state_dict())
        return files.load_tensors(path), path.read_bytes()


def plain(content):
    """Return content with OrderedDicts as dicts: `spoilt` copies these."""
    if isinstance(content, dict):
        return {key: plain(x) for key, x in content.items()}
    return [plain(x) for x in content] if isinstance(content, list) else content


def packed(parts):
    """Return the bytes of an archive of parts, with their true checksums."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in parts:
            archive.writestr(name, content)
    return buffer.getvalue()


def parts_of(whole):
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def repacked(draw, whole):
    """Change what torch's parts say and make their checksums good."""
    parts = parts_of(whole)
    pickles = [k for k, (name, _) in enumerate(parts) if name.endswith("data.pkl")]
    at = pickles[0] if draw.random() < 0.8 else draw.randrange(len(parts))
    name, content = parts[at]
    new, recipe = damaged(draw, content) if content else (b"x", "filled")
    parts[at] = name, new
    return packed(parts), f"{name}: {recipe}, checksums made good"


def lying(draw, whole):
    """Change a number of the pickle: sizes of storages and tensors, offsets, strides."""
    parts = parts_of(whole)
    k = next(k for k, (name, _) in enumerate(parts) if name.endswith("data.pkl"))
    name, content = parts[k]
    ops = [(argument, at) for code, argument, at in pickletools.genops(content) if code.name in {"BININT1", "BININT2"}]
    argument, at = draw.choice(ops)
    new = draw.choice((0, -1, -(2**31), 2**31 - 1, 10**6, 2**28, argument + 1, argument * 2))
    wide = b"J" + struct.pack("<i", new)
    if draw.random() < 0.3:
        wide = b"\x8a\x08" + struct.pack("<q", draw.choice((2**62, -(2**62), 10**15, 2**40, 10**10)))
    end = at + (2 if content[at : at + 1] == b"K" else 3)
    parts[k] = name, content[:at] + wide + content[end:]
    return packed(parts), f"number {argument} at {at} of the pickle is {wide.hex()}"


def archived(draw, whole):  # noqa: PLR0911
    """Change the archive: compressed, doubled, renamed, with more in it, or not an archive."""
    parts = parts_of(whole)
    way = draw.randrange(9)
    if way == 0:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in parts:
                archive.writestr(name, content)
            if draw.random() < 0.7:
                archive.writestr("archive/data/999", bytes(2**28))  # 256 MiB in 256 KB
        return buffer.getvalue(), "compressed"
    if way == 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return packed([*parts, draw.choice(parts)]), "a part twice"
    if way == 2:
        name = draw.choice(("../x", "/etc/x", "a/../../x", "data.pkl", "a\\..\\x"))
        return packed([*parts, (name, b"x")]), f"a part {name}"
    if way == 3:
        return packed([(f"../../{name}", content) for name, content in parts]), "all names with ../"
    if way == 4:
        return packed([x for x in parts if x is not draw.choice(parts)]), "a part less"
    if way == 5:
        return pickle.dumps(draw.choice(HARMFUL)()), "a harmful pickle"
    if way == 6:
        new = pickle.dumps(draw.choice(HARMFUL)(), protocol=2)
        return packed([(name, new if name.endswith("data.pkl") else x) for name, x in parts]), "a harmful pickle inside"
    if way == 7:
        buffer = io.BytesIO()
        torch.save(draw.choice((plain(sound("network")[0]), draw.choice(HARMFUL)())), buffer,
                   _use_new_zipfile_serialization=False)  # fmt: skip
        return buffer.getvalue(), "torch's old format"
    return overlapped(parts), "parts that overlap"


def overlapped(parts):
    """Return an archive whose directory names one megabyte a thousand times."""
    held = packed([*parts, ("archive/data/big", bytes(2**20))])
    end = held.rindex(b"PK\x05\x06")
    begin = struct.unpack("<I", held[end + 16 : end + 20])[0]
    directory = held[begin:end]
    last = directory[directory.rindex(b"PK\x01\x02") :]
    more = b"".join(last.replace(b"data/big", b"data/%03d" % k) for k in range(1000))
    whole = directory + more
    count = len(parts) + 1001
    tail = held[end : end + 8] + struct.pack("<HHII", count, count, len(whole), begin) + held[end + 20 :]
    return held[:begin] + whole + tail


def saved(draw, content):
    """Write content with one place of it changed, as torch.save does."""
    junk = [*JUNK, *JUNK, *tensors(), *tensors(), {"widths": [2] * 10**5}, torch.ones(10**6)]
    new, recipe = spoilt(draw, plain(content), junk)
    if draw.random() < 0.1 and isinstance(new, dict):
        new["itself"] = new
    buffer = io.BytesIO()
    torch.save(new, buffer)
    return buffer.getvalue(), recipe


def asking(draw, content):
    """Ask for a network of other size than the weights are of."""
    new = copy.deepcopy(plain(content))
    name = draw.choice([*new["arguments"], "voxels", "rounds", "orders", "widths"])
    value = draw.choice((0, -1, 10**3, 10**5, 10**6, 10**9, 2**62, 0.5, "x", None, [10**5], [1] * 10**6, [2] * 60))
    new["arguments"][name] = value
    buffer = io.BytesIO()
    torch.save(new, buffer)
    return buffer.getvalue(), f"arguments: {name} = {value!r:.40}"


def make_checkpoint(draw, folder):
    model = draw.choice(("network", "periodic", "graph"))
    content, whole = sound(model)
    way = draw.choices((damaged, repacked, lying, archived, saved, asking), (4, 2, 2, 2, 4, 1))[0]
    new, recipe = way(draw, content if way in (saved, asking) else whole)
    path = folder / (f"damaged-{model}.pt" if way is damaged else f"rewritten-{model}.pt")
    path.write_bytes(new)
    return path, f"{model}, {way.__name__}: {recipe}"


def read_checkpoint(path):
    """Read a checkpoint as a network, use it, and go on training from it."""
    model = path.stem.partition("-")[2]
    net = gpuion.load_surrogate(path)
    checkpoints.fingerprint(net)
    if path.stem.startswith("damaged") and checkpoints.fingerprint(net) != checkpoints.fingerprint(same(model)):
        return "other weights than were written"
    if not all(bool(x.isfinite().all()) for x in net.state_dict().values()):
        return "weights that are no numbers"
    # A network of strange but finite weights may have strange answers, or refuse a cell.
    with contextlib.suppress(ValueError, torch.linalg.LinAlgError):
        net.predict(CENTERS, box=BOX, diameter=SIGMA)
    other = create(model, hidden=3, widths=(2, 2), pool=5, voxels=40)
    optimizer = training.optimizer_for(other, training.Plan(epochs=1, batch=1, learning_rate=1e-3))
    checkpoints.resume(path, other, optimizer)
    return ""


@functools.cache
def same(model):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.pt")
        path.write_bytes(sound(model)[1])
        return gpuion.load_surrogate(path)
