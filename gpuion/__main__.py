"""Check the installation, in twenty seconds at most: python -m gpuion.

A line each: versions, devices, a walk against the exact solve of the same medium, a training step. The exit code is 1
if something fails, and the line says what.
"""

if __name__ == "__main__":  # before torch, which takes seconds to load: a stop meanwhile is one line, too
    from gpuion.errors import expect_stops

    expect_stops()

import importlib.metadata
import math
import os
import time
from collections.abc import Callable

import torch

import gpuion
from gpuion import files, training
from gpuion.config import Parser
from gpuion.distributed import World, pick_device
from gpuion.errors import GpuionError, run_script
from gpuion.homogenization import Way, solve_fields
from gpuion.hops import rates, starts
from gpuion.slopes import CHECKPOINTS, Slopes, analyse
from gpuion.training import Plan, Samples

_PARTS = ("torch", "triton", "numpy", "numba", "h5py", "matplotlib")
_FAR = 4.0  # standard errors; chance puts one medium in 16 000 there


def main() -> None:
    """Read the command line, check, print."""
    parser = Parser(prog="python -m gpuion", description=__doc__)
    parser.add_argument_group("the run").add_argument("--device", default="auto", help="auto, cpu or cuda")
    device = pick_device(parser.parse_args().device)
    checks: dict[str, Callable[[torch.device], str]] = {
        "versions": versions, "devices": devices, "diffusivity": diffusivity, "training": learning
    }  # fmt: skip
    failed = []
    for name, check in checks.items():
        began = time.perf_counter()
        try:
            said = check(device)
        except Exception as error:  # noqa: BLE001, whatever it is, the other checks go on
            said = f"FAILED: {type(error).__name__}: {' '.join(str(error).split())}"
            failed.append(name)
        print(f"{name:<13}{said} [{time.perf_counter() - began:.1f} s]", flush=True)
    if failed:
        raise GpuionError(f"this installation does not work: {', '.join(failed)}; the lines above say why")
    print("all is well")


def versions(_device: torch.device) -> str:
    """Return what is installed."""
    found = []
    for name in _PARTS:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"no {name}")
    about = files.provenance()
    return f"gpuion {gpuion.__version__} ({about['commit']}), Python {about['python']}, {', '.join(found)}"


def devices(device: torch.device) -> str:
    """Return the processor, the GPUs, and which of them is used."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = [f"{files.processor()}, {os.cpu_count()} cores, {memory / 2**30:.0f} GiB"]
    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        found.append(f"{about.name}, {about.total_memory / 2**30:.0f} GiB")
    return f"{'; '.join(found if len(found) > 1 else [*found, 'no GPU'])}; used here: {device}"


def diffusivity(device: torch.device) -> str:
    """Return D of a small medium by walk and by exact solve; raise if they are more than four errors apart."""
    labels = torch.randint(0, 3, (1, 8, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    medium = gpuion.Medium(labels, torch.tensor([1.0, 0.5, 1.0]), torch.tensor([0.0, -0.5, math.inf])).to(device)
    exact = solved(medium)
    run = walked(medium)
    mean, error = float(run.mean[0]), float(run.mean_error[0])
    apart = abs(mean - exact) / error
    said = f"walk {mean:.4f} ± {error:.4f}, exact solve {exact:.4f}: {apart:.1f} standard errors apart"
    if not (apart <= _FAR and bool(run.converged.all())):
        raise GpuionError(f"{said}, {_FAR:g} at most may be; {run.reason[0] or 'the walk settled'}")
    return said


def walked(medium: gpuion.Medium) -> Slopes:
    """Return what walks of one structure say: on a CPU in plain torch, as `gpuion.walk` compiles for 20 s at first.

    What is left to numba, which must work too, are the tables of rates and the first sites. A hop has three draws here,
    not one; an attempt lasts 1 / (6 k_max), as everywhere. There is no pocket in the medium of `diffusivity`.
    """
    if medium.labels.is_cuda:
        return gpuion.walk(medium, walkers=2000, time=400.0)
    tables, numbers = rates(medium), torch.zeros(1, dtype=torch.int64)
    field, sides = medium.labels[0].long(), torch.tensor(medium.labels.shape[1:])
    leave, enter = tables.leave[0] / 2**32, tables.enter[0]
    start = starts(medium, 2000, 0, numbers)[0].long()
    at = torch.stack(torch.unravel_index(start, medium.labels.shape[1:]), -1)
    draw, begun, seen = torch.Generator().manual_seed(0), at, []
    attempts = math.ceil(400.0 * 6 * float(tables.fastest) / CHECKPOINTS)
    steps = torch.cat([torch.eye(3, dtype=torch.int64), -torch.eye(3, dtype=torch.int64)])
    for _ in range(CHECKPOINTS):
        for way, chance in zip(
            torch.randint(6, (attempts, len(at)), generator=draw), torch.rand(attempts, len(at), generator=draw),
            strict=True,
        ):  # fmt: skip
            there = at + steps[way]
            here, new = (field[tuple((x % sides).unbind(-1))] for x in (at, there))
            at = torch.where((chance < leave[here] * enter[new])[:, None], there, at)
        seen.append(at - begun)
    interval = attempts / (6 * tables.fastest)
    box, leads = sides.double() * medium.spacing, torch.ones(1, 3, dtype=torch.bool)
    return analyse(torch.stack(seen)[None], interval, medium.spacing, box, leads)


def solved(medium: gpuion.Medium) -> float:
    """Return the mean D of one structure, by FFT on any device: multigrid compiles for 15 s at its first use."""
    factor = (medium.diffusivity.sqrt() * torch.exp(-medium.potential / 2))[medium.labels.long()]
    way = Way(dtype=torch.float64, spectral=True)
    energy = solve_fields(factor, way, (1e-4, 1000))[0]
    weight = torch.exp(-medium.potential)[medium.labels.long()].sum()
    return float(energy[0].diagonal().mean() / weight)


def learning(device: torch.device) -> str:
    """Return what two steps of training do to the error; raise unless the first lowers it."""
    draw = torch.Generator().manual_seed(0)
    n, V = 4, 15
    samples = Samples(
        centers=torch.rand(n, 3, 3, generator=draw) * V, target=0.2 + torch.rand(n, generator=draw),
        id=torch.arange(n), box=float(V), diameter=4.0, voxels=V,
    ).to(device)  # fmt: skip
    torch.manual_seed(0)
    net = gpuion.Surrogate("periodic", voxels=V, widths=(4, 4), hidden=4).to(device)
    net.calibrate(samples.target)
    plan = Plan(epochs=2, batch=n, learning_rate=1e-3)
    optimizer, world = training.optimizer_for(net, plan), World(rank=0, size=1, device=device)
    before = [p.detach().clone() for p in net.parameters()]
    loss = training.train_epoch(net, optimizer, samples, epoch=0, plan=plan, world=world)
    moved = max(float((p.detach() - q).abs().max()) for p, q in zip(net.parameters(), before, strict=True))
    if not moved > 0:
        raise GpuionError("a training step left all weights as they were")
    return f"a step on {n} structures: mean squared error {loss:.3g}, weights moved by up to {moved:.2g}"


if __name__ == "__main__":
    run_script(main)
