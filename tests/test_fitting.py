"""Stopping early, histories as epochs end, precisions, compiling, event files, memory, limits, shifts."""

import dataclasses
import importlib.util
import json
import re
import shutil

import pytest
import torch
from test_models import folder
from test_train_script import script, write_folder
from test_training import ALONE, PLAN, samples, small_net

import gpuion
from gpuion import acceleration, fitting, measures, memory, throughput, training
from gpuion.errors import CheckpointError, ConfigError, DatasetError, GpuionError
from gpuion.models import create
from gpuion.training import Plan

pytestmark = pytest.mark.usefixtures("single_thread")


def lines(out):
    return [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]


def test_training_stops_after_epochs_that_are_no_better(tmp_path, monkeypatch):
    errors = iter([5.0, 3.0, 4.0, 3.0, 2.9, 3.1, 2.9, 2.9, 1.0])
    metrics = training.metrics
    monkeypatch.setattr(training, "metrics", lambda *args: metrics(*args) | {"mse": next(errors)})
    net, data = small_net(), samples()
    plan = dataclasses.replace(PLAN, epochs=9)
    learnt = fitting.fit(net, {}, {"train": data, "validation": data}, plan, tmp_path, ALONE, patience=3)
    # 2.9 was the best, three epochs of no less followed: the eighth is the last one.
    assert [row["mse"] for row in lines(tmp_path)] == [5.0, 3.0, 4.0, 3.0, 2.9, 3.1, 2.9, 2.9]
    assert learnt == 8 * len(data)
    assert training.load_checkpoint(tmp_path / "surrogate.pt")["meta"]["metrics"]["mse"] == 2.9
    # Nor does a later call go on.
    assert fitting.fit(net, {}, {"train": data, "validation": data}, plan, tmp_path, ALONE, patience=3) == 0


def test_patience_beyond_the_end_changes_nothing(tmp_path):
    data = write_folder(tmp_path / "data")
    for patience in (0, 50):
        script("--data", data, "--out", tmp_path / str(patience), "--epochs", 3, "--patience", patience)
    assert lines(tmp_path / "0") == lines(tmp_path / "50")
    with pytest.raises(ConfigError, match="patience must be at least 0"):
        script("--data", data, "--out", tmp_path / "out", "--patience", -1)


def test_the_history_is_written_as_epochs_end(tmp_path, monkeypatch):
    data, out, epoch, seen = write_folder(tmp_path / "data"), tmp_path / "out", training.train_epoch, []

    def watched(*args, **options):
        seen.append(len(lines(out)) if (out / "history.jsonl").exists() else 0)
        return epoch(*args, **options)

    monkeypatch.setattr(training, "train_epoch", watched)
    script("--data", data, "--out", out, "--epochs", 3)
    assert seen == [0, 1, 2]
    assert [row["epoch"] for row in lines(out)] == [0, 1, 2]


@pytest.mark.parametrize("boundary", ["periodic", "zero"])
def test_bf16_learns_what_fp32_learns(boundary):
    data = samples(24)
    lumped = torch.arange(24) % 2 == 0
    centers = torch.where(lumped[:, None, None], data.centers[:, :1], data.centers)
    data = dataclasses.replace(data, centers=centers, target=1 - 0.5 * lumped.float())
    found = {}
    for precision in ("fp32", "bf16"):
        plan, net = Plan(epochs=10, batch=8, learning_rate=1e-2, seed=3, precision=precision), small_net(boundary)
        net.calibrate(data.target)
        optimizer = training.optimizer_for(net, plan)
        for epoch in range(10):
            training.train_epoch(net, optimizer, data, epoch=epoch, plan=plan, world=ALONE)
        assert all(p.dtype is torch.float32 for p in net.parameters())
        found[precision] = training.predict(net, data)
    # Two layers of convolutions, each rounded to 2⁻⁹ of its size, forward and backward: 4 · 2⁻⁹ of a D* of order one
    # bounds the prediction of either net, and so the difference of their root mean square errors.
    errors = {name: float((x - data.target).square().mean().sqrt()) for name, x in found.items()}
    assert abs(errors["bf16"] - errors["fp32"]) < 4 * 2**-9
    assert not torch.equal(found["bf16"], found["fp32"])
    assert errors["fp32"] < 0.25  # it has learnt: the deviation of the target


def test_precisions_that_cannot_be_used_are_refused(tmp_path, monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    with pytest.raises(ConfigError, match="bf16 is for models on images"):
        acceleration.arrange(create("network"), "bf16", cpu)
    with pytest.raises(ConfigError, match="must be one of fp32, tf32, bf16"):
        acceleration.arrange(small_net(), "fp8", cpu)
    for version, bad in ((90701, False), (90800, True), (91002, True), (91100, False)):
        monkeypatch.setattr(torch.backends.cudnn, "version", lambda version=version: version)
        if bad:
            with pytest.raises(ConfigError, match=f"cuDNN {version} computes 3D convolutions in bf16 wrongly"):
                acceleration.arrange(small_net(), "bf16", gpu)
        else:
            acceleration.arrange(small_net(), "bf16", gpu)
    acceleration.arrange(small_net(), "tf32", cpu)
    assert torch.backends.cudnn.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32
    script("--data", write_folder(tmp_path / "data"), "--out", tmp_path / "out", "--epochs", 1)
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_compiling_is_refused_where_it_cannot_work(monkeypatch):
    with pytest.raises(ConfigError, match="compiling is for models on images"):
        acceleration.arrange(create("network"), "fp32", torch.device("cpu"), compile=True)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="needs a C\\+\\+ compiler, and no-such-compiler is not there"):
        acceleration.arrange(small_net(), "fp32", torch.device("cpu"), compile=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_layers_learn_the_same(tmp_path):
    data = write_folder(tmp_path / "data")
    for flags in ([], ["--compile"]):
        script("--data", data, "--out", tmp_path / f"out{len(flags)}", "--epochs", 2, *flags)
    plain, compiled = ([row["loss"] for row in lines(tmp_path / f"out{k}")] for k in (0, 1))
    assert compiled == pytest.approx(plain, rel=1e-2)  # as of one rank and two: Adam's steps of rounded gradients


def test_event_files(tmp_path):
    data, out = write_folder(tmp_path / "data"), tmp_path / "out"
    if importlib.util.find_spec("tensorboard") is None:
        with pytest.raises(ConfigError, match="pip install tensorboard"):
            script("--data", data, "--out", out, "--tensorboard")
        assert not out.exists()
        pytest.skip("tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    script("--data", data, "--out", out, "--epochs", 2, "--tensorboard")
    events = EventAccumulator(str(out)).Reload()
    for name, key in (("train/loss", "loss"), ("validation/mse", "mse"), ("validation/mape", "mape")):
        assert [event.value for event in events.Scalars(name)] == pytest.approx([row[key] for row in lines(out)])


def test_too_little_memory_is_told_with_what_would_fit(monkeypatch):
    net, data = small_net(), samples()
    words = "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to allocate "

    def room_for(count):
        def draw(samples, index, *args, **options):
            if len(index) > count:
                raise RuntimeError(f"{words}{len(index) * 2**21} bytes. Error code 12 (Cannot allocate memory)")
            return augmented(samples, index, *args, **options)

        return draw

    augmented, optimizer = training.augmented, training.optimizer_for(net, PLAN)
    line = "out of memory at a batch of 4: 4 structures at once, of which each takes 2 MiB or more; "
    advice = {
        2: "use --batch 2, which fits, or more",
        1: "use --batch 1, which fits, or more",
        0: "use fewer voxels or",
    }
    for count, words_of in advice.items():
        monkeypatch.setattr(training, "augmented", room_for(count))
        with pytest.raises(GpuionError, match=line + words_of):
            training.train_epoch(net, optimizer, data, epoch=0, plan=PLAN, world=ALONE)
    with (
        pytest.raises(GpuionError, match=r"batch of 8: 4 structures at once, .* 80 MiB or more; try --batch 4"),
        memory.explained(4, 8, torch.device("cpu")),  # of one rank of two
    ):
        raise torch.OutOfMemoryError(f"{words}{320 * 2**20} bytes")
    with pytest.raises(RuntimeError, match="another matter"), memory.explained(8, 8, torch.device("cpu")):
        raise RuntimeError("another matter")


def test_the_operations_of_a_step_are_counted():
    data, net = samples(), small_net()
    # Two tied layers on 3³ cells, 27 multiply-adds a weight: forward, and backward for weights (both) and inputs (one).
    conv = [2 * 27 * 27 * 1 * 4, 2 * 27 * 27 * 4 * 4]
    product = 2 * (net.hidden.in_features * 4 + 4)
    spectrum = 2 * net.body.spectrum.shells(15, torch.zeros(1))[1].numel()
    before = {name: x.clone() for name, x in net.state_dict().items()}
    found = throughput.operations(net, data, PLAN)
    assert found == pytest.approx(2 * conv[0] + 3 * conv[1] + 3 * product + spectrum, rel=1e-6)
    assert all(torch.equal(x, before[name]) for name, x in net.state_dict().items())


def test_the_share_of_the_limit_is_told(tmp_path, capsys):
    script("--data", write_folder(tmp_path / "data"), "--out", tmp_path / "image", "--epochs", 1)
    out = capsys.readouterr().out
    found = re.search(r"([\d.e-]+) GFLOP a sample: ([\d.e-]+) GFLOP/s, ([\d.]+)% of the ([\d.]+) GFLOP/s", out)
    work, rate, share, top = map(float, found.groups())
    assert float(re.search(r"([\d.]+) samples/s", out)[1]) * work == pytest.approx(rate, rel=0.05)
    assert share == pytest.approx(100 * rate / top, abs=0.06)
    assert top > 0.1  # the slowest processor of today
    script("--data", folder(tmp_path / "more"), "--model", "network", "--out", tmp_path / "centres", "--epochs", 1)
    assert "no share of a limit" in capsys.readouterr().out


def test_shifts_by_whole_voxels_are_measured(tmp_path):
    torch.manual_seed(0)
    net, data = gpuion.Surrogate(widths=(4, 4), hidden=4), samples(5)
    with torch.no_grad():
        net.hidden.bias += 1
        net.output.weight += 1
    found = measures.shift_sensitivity(net, data, shifts=4)
    assert 0 < found["shift_sensitivity_rms"] < found["shift_sensitivity"]
    # It is relative to the deviation of D*.
    half = measures.shift_sensitivity(net, dataclasses.replace(data, target=2 * data.target), shifts=4)
    assert half["shift_sensitivity"] == pytest.approx(found["shift_sensitivity"] / 2, rel=1e-6)
    # A network that only sees what no shift changes is moved by rounding alone: in float64, sums of 15³ terms, and a
    # logarithm of shells that hold 1e-6 of all power: 15³ · 1e6 · 1e-16.
    with torch.no_grad():
        net.hidden.weight[:, net.body.spectrum.SHELLS :] = 0
    assert measures.shift_sensitivity(net.double(), data, shifts=4)["shift_sensitivity"] < 3e-7
    assert measures.turn_sensitivity(net.double(), data)["turn_sensitivity"] < 3e-7
    script("--data", write_folder(tmp_path / "data"), "--out", tmp_path / "out", "--epochs", 1)
    written = json.loads((tmp_path / "out/metrics.json").read_text())["test"]
    assert written["shift_sensitivity"] >= written["shift_sensitivity_rms"] >= 0


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_ranks_together_meet_every_structure_once(size):
    data = samples(23)
    met = [part for batch in training.batches(data, 2, PLAN) for part in batch.tensor_split(size)]
    assert torch.equal(torch.cat(met).sort().values, torch.arange(23))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"box": 20.0}, r"box = 15\.0.* found .*box = 20\.0"),
        ({"diameter": 5.0}, r"diameter = 4\.0.* found .*diameter = 5\.0"),
        ({"sites_per_voxel": 2}, r"sites_per_voxel = 1.* found .*sites_per_voxel = 2"),
        ({"model": gpuion.TransportModel(affinity=4.0)}, "transport model"),
    ],
)
def test_folders_of_other_structures_or_labels_are_refused(tmp_path, change, message):
    first, other = write_folder(tmp_path / "a"), write_folder(tmp_path / "b", **change)
    with pytest.raises(DatasetError, match=message):
        script("--data", first, other, "--out", tmp_path / "out")


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path):
    data = folder(tmp_path / "data")
    script("--data", data, "--model", "network", "--out", tmp_path / "out", "--epochs", 1)
    flags = ["--data", data, "--out", tmp_path / "more", "--epochs", 1, "--checkpoint", tmp_path / "out/surrogate.pt"]
    with pytest.raises(CheckpointError, match="has model = network, this run graph; they must agree"):
        script(*flags, "--model", "graph")
    with pytest.raises(CheckpointError, match="has boundary = None, this run periodic"):
        script(*flags, "--model", "periodic")
    other = folder(tmp_path / "other", reference=0.7)
    with pytest.raises(CheckpointError, match=r"has d_reference = 0\.5, this run 0\.7"):
        script("--data", other, *flags[2:], "--model", "network")
