"""Every case of bench/ runs, small; what it writes is complete; a failing one is reported and the others go on."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

BENCH = Path(__file__).parent.parent / "bench"
sys.path.insert(0, str(BENCH))

import cases_solve  # noqa: E402
import measure  # noqa: E402
import peers  # noqa: E402
import rejection_free  # noqa: E402
import run  # noqa: E402

import gpuion  # noqa: E402

# One thread, and times of minutes at most even where another package is slow to import.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
EVERY = [name for name in run.CASES if name != "gpu-tests"]  # tests/test_suite.py has that one


def driver(*arguments, folder):
    command = [sys.executable, str(BENCH / "run.py"), "--scale", "tiny", "--out", str(folder), *arguments]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=600)


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    ran = driver("--case", *EVERY, folder=folder)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout, {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def test_every_case_writes_its_rows(everything):
    table, results = everything
    assert set(results) == set(EVERY)
    for name, result in results.items():
        assert result["case"] == name
        assert result["error"] == ""
        assert result["rows"], name
        for row in result["rows"]:
            low, high = row["quartiles"]
            assert 0 < low <= row["median"] <= high, row
            assert row["repeats"] == len(row["samples"]) >= 1
            assert row["what"] in table


def test_a_result_says_what_it_was_measured_on(everything):
    for result in everything[1].values():
        about = result["machine"]
        assert about["scale"] == "tiny"
        assert about["cores"] >= 1
        assert about["memory_bytes"] > 2**28
        assert about["memory_bandwidth"] > 1e6
        assert about["versions"]["torch"] == torch.__version__
        assert "run.py --scale tiny" in about["command"]
        assert len(result["load_average_before"]) == 3
        assert result["date"].endswith("+00:00")


def test_a_row_has_its_peer_or_says_that_it_is_missing(everything):
    rows = [row for name in ("solve-64", "solve-200", "pores-100") for row in everything[1][name]["rows"]]
    for row in rows:
        if row["peer"]:
            assert len(row["ratio"]["samples"]) == row["repeats"] == row["peer"]["repeats"]
        else:
            assert "not installed" in row["note"] or "did not come within" in row["note"]
    plain = [row for name in ("voxelize", "medium", "place") for row in everything[1][name]["rows"] if row["peer"]]
    assert len(plain) == 3


def test_estimates_are_called_so(everything):
    for result in everything[1].values():
        for row in result["rows"]:
            if row["limit"] and "measured" not in row["limit"]["what"]:
                assert row["limit"]["estimate"] is True


def test_a_failing_case_is_reported_and_the_others_go_on(tmp_path, capsys):
    def good(setting):
        """A case that works."""
        yield measure.Row(what="works", unit="s", samples=[1.0] * setting.repeats)

    def bad(setting):
        """A case that breaks half way."""
        yield measure.Row(what="half", unit="s", samples=[2.0] * setting.repeats)
        raise ZeroDivisionError("on purpose")

    arguments = ["--scale", "tiny", "--device", "cpu", "--out", str(tmp_path)]
    assert run.main(arguments, {"bad": bad, "good": good}) == 1
    shown = capsys.readouterr().out
    assert "FAILED: ZeroDivisionError: on purpose" in shown
    assert "1 cases done, failed: bad" in shown
    broken = json.loads((tmp_path / "bad.json").read_text())
    assert "on purpose" in broken["error"]
    assert [row["what"] for row in broken["rows"]] == ["half"]
    assert json.loads((tmp_path / "good.json").read_text())["error"] == ""
    assert run.main([*arguments, "--case", "good"], {"bad": bad, "good": good}) == 0


def test_list_and_unknown_names(tmp_path, capsys):
    assert run.main(["--list", "--out", str(tmp_path / "none")]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(run.CASES)
    assert not (tmp_path / "none").exists()
    with pytest.raises(SystemExit):
        run.main(["--case", "nothing"])
    assert "invalid choice" in capsys.readouterr().err


def test_a_ratio_above_one_means_that_we_are_faster():
    seconds = measure.Row(what="a", unit="s", samples=[1.0, 2.0, 4.0], peer="p", peer_samples=[3.0, 4.0, 20.0]).json()
    assert seconds["ratio"]["samples"] == [3.0, 2.0, 5.0]
    assert seconds["ratio"]["median"] == 3.0
    assert seconds["quartiles"] == [1.5, 3.0]
    rates = measure.Row(what="a", unit="hops/s", samples=[6.0], peer="p", peer_samples=[2.0]).json()
    assert rates["ratio"]["median"] == 3.0


def test_tasks_take_turns():
    order = []
    times = measure.in_turn(lambda: order.append("a"), lambda: order.append("b"), repeats=3)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"  # each once to warm up
    assert [len(seconds) for seconds in times] == [3, 3]


def test_the_loosest_setting_is_the_first_that_serves():
    assert measure.loosest([0.1, 0.01, 0.001], lambda setting: 3 * setting, 0.05) == (0.01, 0.03)
    with pytest.raises(ValueError, match=r"no setting .* comes within 1e-05"):
        measure.loosest([0.1, 0.01], lambda setting: setting, 1e-5)


def test_a_course_counts_only_where_it_stays():
    checks = [(100, 1.0), (200, 1.5), (300, 1.009), (400, 1.0005)]
    course = cases_solve._Course(exact=1.0, checks=checks, own_stop=300)
    assert course.first(0.01)[0] == 300  # the first passes through
    assert course.first(0.001)[0] == 400
    assert course.first(1e-4)[0] == 0
    assert cases_solve._Course(exact=1.0, checks=[(100, math.nan)], own_stop=None).first(0.01)[0] == 0


def test_images_and_their_foldings():
    image = cases_solve.sphere_image(24)
    spheres = round(0.3 * 24**3 / (math.pi / 6 * 12**3))
    assert set(np.unique(image)) == {0, 1}
    # Voxel counts of spheres 12 across are within 2% of their volume.
    assert 1 - image.mean() == pytest.approx(spheres * math.pi / 6 * 12**3 / 24**3, rel=0.02)
    folded = cases_solve._folded(image)
    assert folded.shape == (46, 48, 48)
    for axis, shift in ((0, 1), (1, 0), (2, 0)):  # unchanged by its own mirrors
        assert np.array_equal(np.roll(np.flip(folded, axis), shift, axis), folded)


def test_the_plain_walk_is_the_walk_of_the_medium():
    image = np.ones((8, 8, 8), np.uint8)
    image[1:7, 1:7, 1:7] = 0
    walkers, steps = 4000, 600
    records = peers.plain_walk(image, walkers, steps, 60)
    square = records.astype(float) ** 2
    gained = square[59] - square[29]  # t = steps/2 … steps, [W, 3]
    # D h² per step of 1/6: slope over time. Settled after L²/4π²D = 10 steps · 6.
    D = gained.sum(1) / (2 * 3 * (steps / 2) / 6)
    exact = float(gpuion.homogenize(cases_solve.binary(image, "cpu"), tolerance=1e-6).diffusivity.mean())
    # Three standard errors of the mean over independent walkers; 5% wide, 15% if blocked sites were open.
    error = D.std() / math.sqrt(walkers)
    assert abs(D.mean() - exact) < 3 * error
    assert 3 * error < 0.1 * exact


@pytest.mark.slow
def test_the_walk_without_rejections_samples_the_same_process():
    row = rejection_free.compare(1, walkers=400, quads=20, repeats=1)
    ours, other = row["null_event_hops"], row["rejection_free_hops"]
    # A walker's hops deviate by less than their mean, the sum over 400 by a twentieth; five sigma of a difference.
    assert abs(ours - other) <= 5 * math.sqrt(2) / 20 * max(ours, other)
    assert row["ratio"] > 0
