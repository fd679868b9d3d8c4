"""Data sets whose structures come of another's with spheres taken out or put in."""

import importlib
import json
import signal
import sys
from pathlib import Path

import pytest
import torch

import gpuion
from gpuion.errors import run_script

ROOT = Path(__file__).parent.parent
CONFIG = """
[system]
particles = 8
box = 15.0
volume_fraction = 0.1
[simulate]
random = 6
chained = 7
gapped = 7
chained_ranges = [["contact", 6.0]]
gapped_widths = [[3.0, 4.0], [3.0, 4.0], [2.0, 2.5]]
shard = 6
tolerance = 1e-2
device = "cpu"
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run simulate.py's main function in this process; return the data set it made."""
    monkeypatch.syspath_prepend(str(ROOT))
    script = importlib.import_module("simulate")
    handler = signal.getsignal(signal.SIGTERM)
    (tmp_path / "tiny.toml").write_text(CONFIG)

    def call(name, *flags):
        words = ["simulate.py", "--config", tmp_path / "tiny.toml", "--out", tmp_path / name, *flags]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        run_script(script.main)
        return gpuion.open_dataset(tmp_path / name)

    yield call
    signal.signal(signal.SIGTERM, handler)


def test_derived_structures_are_those_of_the_source_with_more_or_fewer_spheres(run, tmp_path):
    source = run("source")
    for particles in (5, 12):
        found = run(f"derived-{particles}", "--source", tmp_path / "source", "--particles", particles)
        assert found.id.tolist() == source.id.tolist()
        assert found.family.tolist() == source.family.tolist()
        torch.testing.assert_close(found.distance, source.distance, equal_nan=True, rtol=0, atol=0)
        torch.testing.assert_close(found.gap, source.gap, equal_nan=True, rtol=0, atol=0)
        assert torch.equal(found.axes, source.axes)
        cell = {"box": 15.0, "diameter": source.diameter}
        expected = gpuion.change_loading(source.centers, particles, **cell, seed=0, ids=source.id)
        assert torch.equal(found.centers, expected)
        D = gpuion.homogenize(gpuion.electrolyte(expected[3:4], **cell), tolerance=1e-2).diffusivity
        assert torch.equal(found.diffusivity[3:4], D)
        assert found.d_reference == source.d_reference  # one unit of D* for all
        held = json.loads((tmp_path / f"derived-{particles}" / "run.json").read_text())
        assert held["config"]["volume_fraction"] == pytest.approx(0.1 * particles / 8)


def test_without_a_number_the_spheres_stay(run, tmp_path):
    source = run("source")
    (tmp_path / "tiny.toml").write_text(CONFIG.replace("particles = 8\nbox = 15.0\nvolume_fraction = 0.1", ""))
    found = run("same", "--source", tmp_path / "source", "--structures", 2)
    assert torch.equal(found.centers, source.centers[:2])
    held = json.loads((tmp_path / "same" / "run.json").read_text())["config"]
    assert (held["particles"], held["box"], held["volume_fraction"]) == (8, 15.0, pytest.approx(0.1))


def test_of_a_part_come_the_structures_of_that_part_alone(run, tmp_path, capsys):
    source = run("source")
    test = gpuion.dataset.split(len(source), 0)[2].sort().values
    found = run("some", "--source", tmp_path / "source", "--of", "test", "--particles", 5, "--structures", 3)
    assert found.id.tolist() == source.id[test[:3]].tolist()
    with pytest.raises(SystemExit):
        run("more", "--source", tmp_path / "source", "--of", "test", "--structures", 5)
    assert "structures must lie in 1 … 4" in capsys.readouterr().err


def test_a_source_of_other_content_is_another_run(run, tmp_path, capsys):
    run("source")
    flags = ["--source", tmp_path / "source", "--particles", 5]
    run("derived", *flags)
    shard = tmp_path / "source" / "shard-00000.h5"
    for path in (shard, tmp_path / "source" / "run.json"):
        path.unlink()
    (tmp_path / "source").rename(tmp_path / "old")
    run("source", "--seed", 1)
    with pytest.raises(SystemExit):
        run("derived", *flags)
    assert "holds a run with source = 'sha256:" in capsys.readouterr().err


def test_a_source_of_other_labels_alone_is_the_same_run(run, tmp_path):
    run("source")
    flags = ["--source", tmp_path / "source", "--particles", 5]
    before = run("derived", *flags)
    (tmp_path / "source").rename(tmp_path / "old")
    rough = run("source", "--tolerance", 0.3)
    assert not torch.equal(rough.diffusivity, gpuion.open_dataset(tmp_path / "old").diffusivity)
    assert torch.equal(run("derived", *flags).diffusivity, before.diffusivity)


def test_a_stop_loses_the_batch_in_flight_alone(run, tmp_path, monkeypatch):
    run("source")
    script, flags = importlib.import_module("simulate"), ["--source", tmp_path / "source", "--particles", 5]
    straight, label, seen = run("straight", *flags), script.label, []

    def stopping(*args, **kwargs):
        if len(seen) == 4:  # of batches of one, in the first shard of six
            raise KeyboardInterrupt
        seen.extend(kwargs["ids"].tolist())
        return label(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(script, "label", stopping)
        with pytest.raises(SystemExit):
            run("halves", *flags, "--batch", 1)
    assert seen == straight.id[:4].tolist()
    monkeypatch.setattr(script, "label", lambda *a, **k: seen.extend(k["ids"].tolist()) or label(*a, **k))
    again = run("halves", *flags, "--batch", 3)
    assert seen == straight.id.tolist()  # each once
    assert torch.equal(again.diffusivity, straight.diffusivity)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--source", "nowhere"], "nowhere: expected a folder of shards"),
        (["--of", "test"], "of = 'test' is a part of a source: give --source, too"),
        (["--source", "source", "--of", "tset"], "of must be one of train, validation, test"),
        (["--source", "source", "--particles", "40"], "is not below 0.3841"),
        (["--source", "source", "--particles", "0"], "n_particles"),
        (["--source", "source", "--structures", "21"], "structures must lie in 1 … 20"),
        (["--source", "source", "--box", "16"], "box = 16.0 is not that of source, 15; leave it out"),
        (
            ["--source", "source", "--particles", "5", "--volume-fraction", "0.06"],
            "volume_fraction = 0.06 is not that of source, 0.1; leave it out",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(run, tmp_path, monkeypatch, capsys, flags, line):
    monkeypatch.chdir(tmp_path)
    if "source" in flags:
        run("source")
    with pytest.raises(SystemExit) as left:
        run("derived", *flags)
    assert left.value.code == (1 if "nowhere" in flags else 2)
    assert line in capsys.readouterr().err
    assert not (tmp_path / "derived").exists()
