"""python -m gpuion: a line for each thing that must work, and exit code 1 where one does not."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rehearsal import rehearse

import gpuion
from gpuion import __main__ as installation
from gpuion import __version__, training
from gpuion.errors import GpuionError

ROOT = Path(__file__).parent.parent


def test_a_line_each():
    command = [sys.executable, "-m", "gpuion", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["versions", "devices", "diffusivity", "training", "all"]
    assert f"gpuion {__version__}" in lines[0]
    assert f"torch {torch.__version__}" in lines[0]
    assert "used here: cpu" in lines[1]
    assert "standard errors apart" in lines[2]
    assert lines[-1] == "all is well"


def test_walk_and_solve_are_both_right():
    medium = gpuion.Medium(torch.randint(0, 2, (1, 6, 5, 4)), torch.tensor([1.0, 0.3]), torch.tensor([0.0, 0.4]))
    exact = float(gpuion.homogenize(medium, tolerance=1e-6).diffusivity.mean())
    assert installation.solved(medium) == pytest.approx(exact, rel=1e-4)  # its tolerance


def test_the_plain_walk_is_right():
    medium = gpuion.Medium(torch.randint(0, 2, (1, 6, 5, 4)), torch.tensor([1.0, 0.3]), torch.tensor([0.0, 0.4]))
    plain, walk = installation.walked(medium), gpuion.walk(medium, walkers=2000, time=400.0)
    apart = (plain.mean - walk.mean).abs() / (plain.mean_error.square() + walk.mean_error.square()).sqrt()
    assert float(apart) < 4
    assert float(walk.mean_error) / 1.5 < float(plain.mean_error) < 1.5 * float(walk.mean_error)


def test_what_compiles_for_long_is_not_brought_in():
    """Of the first call on a machine: loops of the walk, of closed pockets and of multigrid take 20 s and more."""
    code = "import sys, gpuion.__main__ as m\nsys.argv = ['gpuion', '--device', 'cpu']\nm.main()\n"
    code += "print([name for name in ('lanes', 'pockets', 'multigrid') if f'gpuion.kernels.{name}' in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_what_fails_is_named_and_the_rest_still_checked(monkeypatch, capsys):
    solved = installation.solved
    monkeypatch.setattr(installation, "solved", lambda medium: 1.2 * solved(medium))
    monkeypatch.setattr(training, "train_epoch", lambda *_, **__: 0.0)
    monkeypatch.setattr(sys, "argv", ["gpuion", "--device", "cpu"])
    with pytest.raises(GpuionError, match="this installation does not work: diffusivity, training"):
        installation.main()
    lines = capsys.readouterr().out.splitlines()
    assert "FAILED: GpuionError: walk 0." in lines[2]
    assert "FAILED: GpuionError: a training step left all weights as they were" in lines[3]


def test_the_exit_code_tells():
    code = "import sys, gpuion.__main__ as m, gpuion.errors as e\nsys.argv = ['gpuion', '--device', 'cpu']\n"
    code += "def broken(device): raise ImportError('no such library')\nm.versions = m.diffusivity = broken\n"
    code += "m.learning = lambda device: 'learnt'\ne.run_script(m.main)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert "FAILED: ImportError: no such library" in done.stdout
    assert done.stderr.splitlines() == [
        "error: this installation does not work: versions, diffusivity; the lines above say why"
    ]


def test_on_a_gpu():
    with rehearse():
        device = torch.device("cuda:0")
        assert "standard errors apart" in installation.diffusivity(device)
        assert "a pretended GPU, 16 GiB; used here: cuda:0" in installation.devices(device)
        assert "weights moved" in installation.learning(device)
