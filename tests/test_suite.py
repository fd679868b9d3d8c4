"""A suite's cases stand alone: one that is killed or crashes leaves its rows and the others go on."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rehearsal import rehearse

BENCH = Path(__file__).parent.parent / "bench"
sys.path.insert(0, str(BENCH))

import cases_anneal  # noqa: E402
import cases_data  # noqa: E402
import cases_gpu  # noqa: E402
import measure  # noqa: E402
import run  # noqa: E402
import suite  # noqa: E402
from suite import Part, run_suite  # noqa: E402

TINY = measure.Setting(scale="tiny", device="cuda")

# Stands for bench/run.py: a row, then each case its own end.
DRIVER = """
import json, os, subprocess, sys, time
case, folder = sys.argv[2], sys.argv[4]
path = os.path.join(folder, case + ".json")
if case == "unborn":
    sys.exit(1)
content = {"case": case, "error": "it did not come to its end", "rows": [{"what": "half"}]}
def save():
    with open(path, "w") as file:
        json.dump(content, file)
save()
if case == "endless":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(os.path.join(folder, "child"), "w") as file:
        file.write(str(child.pid))
    time.sleep(600)
if case == "crashing":
    os.abort()
content["error"] = "Traceback of its own" if case == "failing" else ""
save()
sys.exit(case == "failing")
"""


@pytest.fixture
def driver(tmp_path):
    (tmp_path / "driver.py").write_text(DRIVER)
    return [sys.executable, str(tmp_path / "driver.py")]


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_cases_end_in_their_own_ways_and_the_others_go_on(driver, tmp_path):
    names = ("endless", "crashing", "unborn", "failing", "good")
    parts = [Part(case=name, limit=3 if name == "endless" else 60) for name in names]
    results, dropped = run_suite(parts, driver, tmp_path, 300)
    assert dropped == []
    errors = {result["case"]: result["error"] for result in results}
    assert errors == {
        "endless": "stopped at its limit of 3 s", "crashing": "killed by SIGABRT", "unborn": "exit code 1",
        "failing": "Traceback of its own", "good": "",
    }  # fmt: skip
    for result in results:
        assert json.loads((tmp_path / f"{result['case']}.json").read_text()) == result
        assert [row["what"] for row in result["rows"]] == ([] if result["case"] == "unborn" else ["half"])
    child, until = int((tmp_path / "child").read_text()), time.monotonic() + 10
    while is_alive(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_alive(child)


def test_cases_without_time_are_left_out_and_named(driver, tmp_path, capsys):
    parts = [Part(case="good", limit=20), Part(case="long", limit=50), Part(case="short", limit=20)]
    results, dropped = run_suite(parts, driver, tmp_path, 40)
    assert [result["case"] for result in results] == ["good", "short"]
    assert dropped == ["long"]
    assert "long: left out" in capsys.readouterr().err
    assert not (tmp_path / "long.json").exists()
    good = {**results[0], "seconds": 1, "rows": []}
    assert run.table([good], dropped).endswith("1 cases done, no time for: long")


def test_a_suite_that_is_stopped_stops_its_case(tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(BENCH)!r})
import run, suite
from gpuion.errors import run_script
suite.SUITES["gpu"] = (suite.Part(case="endless", limit=100),)
run.__file__ = {str(tmp_path / "driver.py")!r}
run_script(lambda: run.main(["--suite", "gpu", "--out", {str(tmp_path)!r}]))
"""
    (tmp_path / "driver.py").write_text(DRIVER.replace("sys.argv[2], sys.argv[4]", "sys.argv[-3], sys.argv[-1]"))
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as process:
        child = tmp_path / "child"
        while not (child.exists() and child.read_text()):
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
    assert process.returncode == 143
    assert not is_alive(int(child.read_text()))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--threads", "0"], "above 0, got 0 and 540"),
        (["--budget", "nan"], "above 0, got"),
        (["--device", "tpu"], "device must be auto, cpu or cuda, got tpu"),
    ],
)
def test_settings_that_cannot_be_are_refused(flags, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        run.main(flags)
    assert words in capsys.readouterr().err


def test_the_file_has_the_rows_so_far(tmp_path):
    path, seen = tmp_path / "case.json", []

    def case(setting):
        """A case that looks at its file."""
        for k in range(2):
            seen.append(json.loads(path.read_text()))
            yield measure.Row(what=f"row {k}", unit="s", samples=[1.0] * setting.repeats)

    assert run.run("case", case, TINY, {}, path)["error"] == ""
    assert [[row["what"] for row in found["rows"]] for found in seen] == [[], ["row 0"]]
    assert {found["error"] for found in seen} == {suite.UNFINISHED}
    assert json.loads(path.read_text())["error"] == ""


def test_the_gpu_suite_fits_into_nine_minutes():
    parts = suite.SUITES["gpu"]
    assert {part.case for part in parts} <= set(run.CASES)
    assert sum(part.limit for part in parts) <= suite.BUDGET <= 9 * 60
    assert parts[0].case == "gpu-tests"


@pytest.fixture
def pretended(monkeypatch):
    """Settings on a pretended GPU; the memory's speed is not measured, as that takes 3 GB."""
    for module in (cases_gpu, cases_data):
        monkeypatch.setattr(module, "bandwidth", lambda _: 4e12, raising=False)
    with rehearse():
        yield TINY


@pytest.mark.parametrize(
    "case",
    [
        cases_gpu.walk_ladder,
        cases_gpu.solve_ladder,
        cases_anneal.chains,
        pytest.param(cases_gpu.train, marks=pytest.mark.slow),
    ],
)
def test_cases_keep_to_one_device(pretended, case):
    rows = [row.json() for row in case(pretended)]
    assert rows
    assert all(0 < row["quartiles"][0] <= row["median"] for row in rows)


def test_the_steps_of_a_label_keep_to_one_device(pretended):
    rate, seconds = cases_data._solve_alone(50, 1, pretended.device)
    assert rate > 0
    assert set(seconds) == {"place", "medium", "solve"}


@pytest.mark.slow
def test_the_whole_suite_rehearses_on_a_cpu(tmp_path):
    command = [sys.executable, str(BENCH / "run.py"), "--suite", "gpu", "--scale", "tiny", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    ran = subprocess.run(
        [*command, "--out", str(tmp_path)], env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for part in suite.SUITES["gpu"]:
        result = json.loads((tmp_path / f"{part.case}.json").read_text())
        assert result["error"] == ""
        assert result["rows"]
        assert all(row["what"] in ran.stdout for row in result["rows"])
