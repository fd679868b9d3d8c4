"""What counts as found in a run folder: rounds of annealing, chains on the exact solver, gains beyond the errors."""

import dataclasses
import json
import re
import sys

import pytest
import torch
from test_report import REFERENCE, annealed, dataset, save, save_round

from gpuion import findings, report
from gpuion.errors import DatasetError
from gpuion.files import write_json
from gpuion.training import metrics


@pytest.fixture(autouse=True)
def no_paper(monkeypatch):
    """The paper's figures take seconds each time, and are no matter here; test_paper.py is about them."""
    monkeypatch.setattr(report.paper, "write", lambda _: ([], {}))


def test_rounds_stand_in_for_a_missing_folder_of_all(tmp_path):
    save(tmp_path / "dataset", dataset(1, [0.05, REFERENCE, 0.02], ["chained", "gapped", "chained"]))
    for k in (10, 9):
        save_round(tmp_path / f"round-{k}", annealed(k, [0.01 * k + 0.1], [0.02], 0.1))
    summary = report.write(tmp_path)
    assert summary["annealed"]["structures"] == 4
    assert list(summary["annealed_predictions"]) == ["round-9", "round-10"]
    assert summary["after_retraining"]["round"] == "round-10"
    assert "Typical at random" not in (tmp_path / "report.html").read_text()
    assert summary["beats_dataset"]["worst"] is False


def test_what_the_exact_solver_found_is_shown_but_not_predicted(tmp_path):
    save(tmp_path / "dataset", dataset(1, [0.05, REFERENCE, 0.02]))
    first = annealed(2, [0.17, 0.18, 0.15], [0.018, 0.015, 0.016], 0.2)
    save_round(tmp_path / "round-1", first)
    polished = annealed(3, [0.25, 0.2], [0.019, 0.017], 0.0)
    none = torch.full((4,), torch.nan, dtype=torch.float64)
    save_round(tmp_path / "polish", dataclasses.replace(polished, predicted=none), "exact")
    (tmp_path / "model-1").mkdir()
    rows = {"split": ["test of x/round-1"] * 6, "id": list(range(200, 206)), "true": first.d_star.tolist()}
    errors = {"test of x/round-1": metrics(first.predicted, first.d_star)}
    write_json(tmp_path / "model-1/predictions.json", {**rows, "predicted": first.predicted.tolist()})
    write_json(tmp_path / "model-1/metrics.json", errors)
    summary = report.write(tmp_path)
    text = (tmp_path / "report.html").read_text()
    winner, loser = summary["annealed"]["best"], summary["annealed"]["worst"]
    assert (winner["stage"], winner["D"]) == ("polish", pytest.approx(0.25))
    assert "predicted" not in winner
    assert (loser["stage"], loser["D"], loser["predicted"]) == ("round-1", pytest.approx(0.015), first.predicted[4])
    assert summary["annealed"]["structures"] == 10
    assert list(summary["annealed_predictions"]) == ["round-1"]
    assert summary["before_retraining"]["structures"] == 6
    assert summary["after_retraining"] is None
    for name, part in (("max", slice(0, 3)), ("min", slice(3, 6))):
        expected = metrics(first.predicted[part], first.d_star[part])
        tested = summary["models"]["model-1"][f"test of x/round-1, {name}"]
        for shown in (summary["before_retraining"][name], tested):
            assert {key: shown[key] for key in expected} == pytest.approx(expected, rel=1e-12)
        assert f"<td>test of round-1, {name}</td>" in text
    assert "an arrangement (in polish) that lets ions through faster" in text
    assert "an arrangement (in round-1) that holds ions back more" in text
    row = next(row for row in text.split("<tr>") if row.startswith("<td>best of annealed</td>"))
    assert "<td>polish</td>" in row
    assert row.split("</tr>")[0].endswith(">–</td>")
    assert set(re.findall(r'alt="(\w+ D\* in [^"]*)"', text)) == {"exact D* in polish", "predicted D* in round-1"}
    assert "In polish the chains went by the exact solver" in text


def test_a_prediction_that_the_exact_solver_wrote_is_none(tmp_path):
    save(tmp_path / "dataset", dataset(1, [0.05, REFERENCE, 0.02]))
    save_round(tmp_path / "polish", annealed(3, [0.25], [0.01], 0.0), "exact")
    summary = report.write(tmp_path)
    assert "predicted" not in summary["annealed"]["best"]
    assert summary["annealed_predictions"] == {}
    assert summary["before_retraining"] is None


@pytest.mark.parametrize(("excess", "beats"), [(0.0019, False), (0.0021, True)])
def test_a_gain_within_the_errors_is_none(tmp_path, excess, beats):
    # Each label has an error of 0.001 D: together 0.002 D, to first order.
    save(tmp_path / "dataset", dataset(1, [0.05, REFERENCE]))
    save_round(tmp_path / "round-1", annealed(2, [REFERENCE * (1 + excess)], [0.05 * (1 - excess)], 0.1))
    assert findings.summarize(findings.load(tmp_path))["beats_dataset"] == {"best": beats, "worst": beats}


def test_labels_that_did_not_settle_are_no_extremes():
    settled = torch.tensor([False, True, True, False])
    data = dataset(1, [0.9, 0.5, 0.3, 0.1], converged=settled)
    assert [findings.position(data, best=best) for best in (True, False)] == [1, 2]
    with pytest.raises(DatasetError, match="none of the labels settled"):
        findings.position(dataset(1, [0.9, 0.5], converged=torch.zeros(2, dtype=torch.bool)), best=True)


@pytest.mark.parametrize(
    ("up", "down", "ends"), [(0.2, 0.001, None), (0.1, 0.001, "best"), (0.1, 0.09, "both"), (0.2, 0.09, "worst")]
)
def test_nothing_found_is_code_3_and_one_line_beside_the_page(tmp_path, monkeypatch, capsys, up, down, ends):
    save(tmp_path / "dataset", dataset(1, [0.05, REFERENCE]))
    save_round(tmp_path / "round-1", annealed(2, [up], [down], 0.1))
    monkeypatch.setattr(sys, "argv", ["gpuion.report", str(tmp_path)])
    if ends is None:
        report.main()
        assert capsys.readouterr().err == ""
        return
    with pytest.raises(SystemExit) as left:
        report.main()
    assert left.value.code == 3
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("error: annealing found none beyond the ")
    assert all((end in err) == (not beats) for end, beats in (("best", up > REFERENCE), ("worst", down < 0.05)))
    assert (tmp_path / "report.html").is_file()
    assert json.loads((tmp_path / "summary.json").read_text())["missed"]


def test_a_direction_not_tried_is_not_missed(tmp_path):
    save(tmp_path / "dataset", dataset(1, [0.05, REFERENCE]))
    save_round(tmp_path / "round-1", annealed(2, [0.2], [], 0.1))
    summary = report.write(tmp_path)
    assert summary["beats_dataset"]["worst"] is False
    assert summary["missed"] == []
