"""The paper's figures of a run: what is drawn from which folder, and numbers that are what the files say."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from test_report import BOX, DIAMETER, REFERENCE, annealed, dataset, save, save_round, structures

from gpuion import evaluate, findings, paper, paper_numbers, paper_panels, paper_sections, plots, published, study
from gpuion.annealing import anneal
from gpuion.chains import save_state
from gpuion.checkpoints import save_checkpoint
from gpuion.dataset import open_dataset
from gpuion.models import create
from gpuion.training import metrics


def save_net(folder, kind, seed, **more):
    torch.manual_seed(seed)
    net = create(kind, voxels=int(BOX), **more)
    folder.mkdir()
    meta = {"d_reference": REFERENCE, "box": BOX, "diameter": DIAMETER, "voxels": int(BOX), "structures": {"train": 9}}
    save_checkpoint(folder / "surrogate.pt", net, meta)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with all that a figure may need: networks, rounds with states, another filling; without walks."""
    path = tmp_path_factory.mktemp("runs") / "small"
    path.mkdir()
    D = 0.02 + 0.14 * torch.rand(40, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    D[0] = REFERENCE
    family = ["random", "chained", "gapped", "chained"] * 10
    save(path / "dataset", dataset(1, D.tolist(), family))
    for name, kind, seed in (("a-1", "pairs", 0), ("a-2", "pairs", 1), ("near", "nearest", 2)):
        save_net(path / name, kind, seed)
    save_net(path / "cnn", "periodic", 3, pool=8)
    for k, found in enumerate((annealed(2, [0.17, 0.15], [0.02, 0.009], 0.2), annealed(3, [0.2], [0.008], 0.05)), 1):
        save_round(path / f"round-{k}", found)
    for direction in ("max", "min"):
        score = lambda centers: centers.double().mean((1, 2)) / BOX  # noqa: E731
        state = anneal(score, structures(9, 2), box=BOX, diameter=DIAMETER, cycles=6, steps=4, samples=2)
        save_state(path / "round-1" / f"state-{direction}-0of1.pt", state)
    fewer = dataset(7, [0.05, 0.06, 0.08])
    save(path / "phi-low", fewer)
    return path


@pytest.fixture(scope="module")
def drawn(run):
    return paper.write(findings.load(run))


def test_every_figure_is_a_png_and_a_vector_pdf(run, drawn):
    names = {"families", "parity-periodic", "errors", "traces", "acceptance", "snapshots", "components", "pairs",
             "two-point", "transfer", "cost"}  # fmt: skip
    assert set(drawn[1]) == names
    for name in names:
        assert (run / "paper" / f"{name}.png").read_bytes() == drawn[1][name][0]
        assert drawn[1][name][0].startswith(b"\x89PNG")
        content = (run / "paper" / f"{name}.pdf").read_bytes()
        assert content.startswith(b"%PDF")
        assert b"/FontFile2" in content  # text is text, in TrueType


def test_the_page_has_each_picture_and_whole_tables(run, drawn):
    text = (run / "paper.md").read_text()
    assert sorted(part.split(")")[0] for part in text.split("](paper/")[1:]) == sorted(f"{n}.png" for n in drawn[1])
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 4
    for lines in tables:
        assert len({line.count("|") for line in lines}) == 1, lines[0]
    assert "D\\*" in text
    assert len(tables[0]) == 2 + len(drawn[0])
    assert all(len(row) == len(published.HEAD) for row in drawn[0])


def test_the_numbers_are_those_of_the_files(run, drawn):
    numbers = json.loads((run / "paper/numbers.json").read_text())
    data = open_dataset(run / "dataset")
    assert numbers["families"] == {"random": 10, "chained": 20, "gapped": 10}
    assert numbers["parts"] == {"training": 24, "validation": 8, "test": 8}
    assert numbers["gain"] == pytest.approx(0.2 / REFERENCE)
    assert numbers["gains"] == pytest.approx({"round-1": 0.17 / REFERENCE, "round-2": 0.2 / REFERENCE})
    nets = {name: study.training.load_surrogate(run / name / "surrogate.pt", "cpu") for name in ("a-1", "a-2")}
    for k, (name, folder) in enumerate((("a-1", "round-1"), ("a-2", "round-2"))):
        found = evaluate.predict(nets[name], open_dataset(run / folder))
        expected = metrics(found.predicted, found.true)
        assert {key: numbers["errors"]["pairs"][k]["annealed"][key] for key in expected} == pytest.approx(expected)
    part = evaluate.part_of(run / "dataset", "test")
    expected = evaluate.measures(evaluate.predict(nets["a-2"], part))
    assert numbers["errors"]["pairs"][1]["test"]["mape"] == pytest.approx(expected["mape"])
    assert len(numbers["errors"]["nearest"]) == 1
    assert numbers["acceptance"] == {"max": [0.9, pytest.approx(0.7)], "min": [0.9, pytest.approx(0.7)]}
    assert numbers["components"]["n"] == len(data) + 6
    assert numbers["ungapped"]["n"] == 30 + 6
    assert {row["what"] for row in numbers["cost"]} == {"nearest", "pairs", "periodic", "exact solve"}
    assert drawn[0][0][1:4] == ("722 random, 5304 chained, 2166 gapped", "10 random, 20 chained, 10 gapped", "the same")


def test_traces_are_of_all_rounds_and_of_what_was_polished(run):
    loaded = findings.load(run)
    first, second = loaded.rounds.values()
    rounds = {"round-1": first, "round-2": second, "round-3": second}
    loaded = dataclasses.replace(loaded, rounds=rounds, polished={"polish": first})
    numbers, figures = paper_sections.annealing(
        study.Study(run=loaded, part=np.array([]), nets={}, predicted={}, transfer={})
    )
    assert set(numbers["acceptance"]) == {"max", "min"}
    for name in ("traces", "acceptance"):
        shown = [axes.get_title(loc="left").split(":")[0] for axes in figures[name][0].axes]
        assert shown == [each for each in (*rounds, "polish") for _ in range(2)]
    assert [axes.get_ylabel() for axes in figures["traces"][0].axes] == ["predicted D*"] * 6 + ["exact D*"] * 2
    assert ", of polish exact, at the end" in figures["traces"][1]


def test_a_colour_bar_keeps_off_the_next_panel():
    rng = np.random.default_rng(0)
    figure = paper_panels.components(
        rng.normal(size=(9, 2)), rng.random(9), rng.random(9) > 0.5, [0.6, 0.1], rng.normal(size=(2, 5)), [0.9, 0.1]
    )
    figure.canvas.draw()
    _, second, _, bar = figure.axes
    gap = second.yaxis.label.get_window_extent().x0 - bar.yaxis.label.get_window_extent().x1
    assert gap > bar.yaxis.label.get_window_extent().width / 2


def test_snapshots_are_of_the_chain_that_ends_best(run):
    found = paper_numbers.snapshots(study.load(findings.load(run), study.Remembered(run / "paper/memory.pt")))
    for direction, pick in (("max", np.argmax), ("min", np.argmin)):
        state = paper_numbers.load_states((run / "round-1").glob(f"state-{direction}-*.pt"))
        chain = int(pick(state.trace[:, -1]))
        assert [shot[0] for shot in found[direction]] == [1, 2, 3, 6]
        for cycle, centers, score, exact in found[direction]:
            assert torch.equal(centers, state.visited[chain, 2 * cycle - 1])
            assert score == float(state.trace[chain, cycle - 1])
            assert 0 < exact < 10


def test_predictions_are_remembered_by_what_they_are_made_of(run, tmp_path):
    loaded = findings.load(run)
    net = study.training.load_surrogate(run / "a-1/surrogate.pt", "cpu")
    memory = study.Remembered(tmp_path / "new" / "memory.pt")
    _, first = study.predict(net, loaded.data, memory)
    assert len(memory.held) == 1
    again = study.Remembered(tmp_path / "new" / "memory.pt")
    assert np.array_equal(study.predict(net, loaded.data, again)[1], first)
    assert len(again.held) == 1
    study.predict(net, loaded.data.subset(slice(0, 5)), again)
    other = study.training.load_surrogate(run / "a-2/surrogate.pt", "cpu")
    assert not np.array_equal(study.predict(other, loaded.data, again)[1], first)
    assert len(again.held) == 3
    (tmp_path / "new" / "memory.pt").write_bytes(b"no file of tensors")
    assert study.Remembered(tmp_path / "new" / "memory.pt").held == {}


def test_equal_runs_make_equal_pdfs(run, drawn):  # noqa: ARG001
    figures = [plots.families({"random": np.array([0.1, 0.2])}, best=0.2, worst=0.1) for _ in range(2)]
    assert plots.pdf(figures[0]) == plots.pdf(figures[1])


def test_it_is_said_where_the_order_of_two_point_functions_is_reversed():
    """The paper's is that others tell less than g(r)."""
    rows = [
        published._order({"g(r)": first, "S₂": 55.0, "L": 43.0}).startswith("reversed here: ") for first in (66.0, 20.0)
    ]
    assert rows == [True, False]
