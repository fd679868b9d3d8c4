"""The report's page in a real browser: it draws, turns, sorts, fits a phone, complains of nothing, fetches nothing."""

import dataclasses

import numpy as np
import pytest
import torch
from browser import Browser, found
from test_report import REFERENCE, annealed, dataset, save, save_round

from gpuion import report


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """The page of a small run."""
    found()
    run = tmp_path_factory.mktemp("runs") / "demo"
    run.mkdir()
    data = dataset(1, [0.03, 0.05, 0.04, REFERENCE, 0.1])
    save(run / "dataset", dataclasses.replace(data, axes=torch.zeros(5, 3, dtype=torch.bool)))
    save_round(run / "round-1", annealed(2, [0.17, 0.15], [0.02, 0.009], 0.2))
    report.write(run)
    return run / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    page = Browser(tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


def changed(before, after):
    """Return the share of pixels that differ by more than rounding."""
    return float((np.abs(before.astype(int) - after.astype(int)).max(-1) > 8).mean())


def test_the_page_draws_turns_and_shows_the_current(browser, path):
    browser.open(path, 1280, 900)
    first, _ = browser.picture("#stage")
    colored = (
        first.max(-1).astype(int) - first.min(-1)
    ) > 60  # spheres have colours; ground, edges and lines have none
    assert 0.01 < colored.mean() < 0.9
    again, _ = browser.picture("#stage")
    assert changed(first, again) == 0  # it does not turn by itself
    browser.drag("#stage canvas", 150, 40)
    turned, _ = browser.picture("#stage")
    assert changed(again, turned) > 0.02
    browser.run("(f => { f.value = 'x'; f.dispatchEvent(new Event('change')); })(document.getElementById('flow'))")
    flow, _ = browser.picture("#stage")
    assert changed(turned, flow) > 0.02
    assert "current along x" in browser.run("document.getElementById('title').textContent")
    assert (flow.max(-1) < 70).mean() > (turned.max(-1) < 70).mean() + 0.001  # its lines are dark
    browser.run("document.querySelectorAll('#which button')[1].click()")
    assert changed(flow, browser.picture("#stage")[0]) > 0.02
    assert browser.complaints() == []
    assert browser.requests() == [path.resolve().as_uri()]


def test_the_table_sorts_and_shows_what_is_chosen(browser, path):
    browser.open(path, 1280, 900)
    column = "[...document.querySelectorAll('#structures tbody tr')].map(row => row.cells[3].textContent)"
    head = "document.querySelectorAll('#structures th button')[3].click()"
    browser.run(head)
    rising = [float(x) for x in browser.run(column)]
    assert len(rising) == 5 + 4
    assert rising == sorted(rising)
    browser.run(head)
    assert [float(x) for x in browser.run(column)] == rising[::-1]
    assert browser.run("document.querySelectorAll('#structures th')[3].getAttribute('aria-sort')") == "descending"
    before, _ = browser.picture("#stage")
    browser.run("document.querySelectorAll('#structures tbody tr')[8].click()")
    assert f"D* = {rising[0]:.3f}" in browser.run("document.getElementById('title').textContent")
    assert changed(before, browser.picture("#stage")[0]) > 0.02
    assert browser.complaints() == []


@pytest.mark.parametrize("width", [360, 390, 820])
def test_the_page_fits_a_narrow_screen(browser, path, width):
    browser.open(path, width, 780, mobile=True)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.getElementById('stage').getBoundingClientRect().width") <= width
    assert browser.complaints() == []
