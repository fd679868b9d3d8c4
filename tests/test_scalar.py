"""The scalar kernels leave the process as they found it."""

import json
import os
import subprocess
import sys

import pytest

# Only the first parallel kernel of a process starts numba's threads, so each launcher gets a process of its own, forked
# before there is any thread. It prints torch's count before and after, and what numba was given.
PROBE = """
import json, os
import torch
import gpuion
from gpuion.kernels import scalar
medium = gpuion.Medium(torch.zeros(1, 4, 4, 4, dtype=torch.uint8), torch.ones(1), torch.zeros(1))
centers, cell = torch.full((1, 1, 3), 4.0), {"box": 8.0, "diameter": 3.0}
launchers = {
    "fill": lambda: gpuion.place("random", n_structures=2, n_particles=2, **cell),
    "site_classes": lambda: gpuion.electrolyte(centers, **cell),
    "voxelize": lambda: gpuion.voxelize(centers, voxels=8, **cell),
    "walk": lambda: gpuion.walk(medium, walkers=2, time=1.0),
}
for name, launch in launchers.items():
    if os.fork() == 0:
        before = torch.get_num_threads()
        launch()
        print(json.dumps([name, before, torch.get_num_threads(), scalar.numba.get_num_threads()]), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


@pytest.mark.parametrize("limits", [{"OMP_NUM_THREADS": "1"}, {"NUMBA_NUM_THREADS": "1"}, {}])
def test_torch_keeps_its_threads(limits):
    counts = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    env = {name: value for name, value in os.environ.items() if name not in counts}
    done = subprocess.run([sys.executable, "-c", PROBE], env=env | limits, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [name for name, *_ in found] == ["fill", "site_classes", "voxelize", "walk"]
    for name, before, after, numba in found:
        assert after == before, name
        assert numba <= min(before, int(limits.get("NUMBA_NUM_THREADS", before))), name
        assert before == 1 or "OMP_NUM_THREADS" not in limits
