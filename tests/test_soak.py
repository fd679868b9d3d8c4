"""A rehearsal of the soak: all of its work, and that it would see what grows."""

import re

import numpy as np
import pytest
import soak


def test_some_rounds_leave_files_and_threads_as_they_were(capsys):
    soak.main(["--minutes", "0"])  # memory is still settling
    *_, rate, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"within .* MB, [+-]\d+\.\d+ ± \d+\.\d+ MB a minute", rate)
    files, threads = re.fullmatch(r"files (\d+ to \d+), threads (\d+ to \d+)", last).groups()
    assert all(len(set(counts.split(" to "))) == 1 for counts in (files, threads))


@pytest.mark.parametrize("leak", [0.0, 2.0])
def test_a_slope_is_told_from_noise(leak):
    """Noise of 3 MB in 400 rounds: the slope over 16 min has an error of 3 · √12 / (16 · √400) = 0.03 MB a minute."""
    minutes = np.linspace(4, 20, 400)
    noise = np.random.default_rng(0).normal(0, 3.0, 400)
    rate, error = soak.slope(minutes, 600 + leak * minutes + noise)
    assert abs(rate - leak) < 4 * error  # of 18 degrees of freedom: one in a thousand, of a fixed seed
    assert 0.015 < error < 0.06


@pytest.mark.parametrize("what", ["memory", "files", "threads"])
def test_what_grows_is_found(what, monkeypatch):
    grown = []

    def state():
        grown.append(1.0)
        return (500.0 + 100 * len(grown) * (what == "memory"), 7 + len(grown) * (what == "files"),
                1 + len(grown) * (what == "threads"))  # fmt: skip

    monkeypatch.setattr(soak, "work", lambda *_: None)
    monkeypatch.setattr(soak, "state", state)
    assert soak.main(["--minutes", "0"]) == 1
