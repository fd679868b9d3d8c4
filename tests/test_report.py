import base64
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from gpuion import findings, gallery, markup, plots, report
from gpuion.dataset import Dataset, open_dataset, write_shard, write_summary
from gpuion.errors import DatasetError
from gpuion.files import write_json
from gpuion.training import metrics

BOX, DIAMETER, N = 40.0, 9.6, 6
REFERENCE = 0.16


def structures(seed, n):
    """Spheres on shuffled cells of a lattice: no two overlap."""
    chance = torch.Generator().manual_seed(seed)
    cells = torch.stack([torch.randperm(27, generator=chance)[:N] for _ in range(n)])
    place = torch.stack([cells // 9, cells // 3 % 3, cells % 3], -1).float()
    return (place + 0.2 + 0.05 * torch.rand(n, N, 3, generator=chance)) * (BOX / 3)


def dataset(seed, D, family="random", **more):
    D, n = torch.as_tensor(D, dtype=torch.float64), len(D)
    nan = torch.full((n,), torch.nan, dtype=torch.float64)
    fields = {
        "centers": structures(seed, n), "diffusivity": torch.stack([0.9 * D, D, 1.1 * D], -1),
        "standard_error": 1e-3 * D[:, None].expand(n, 3).contiguous(), "id": torch.arange(n) + 100 * seed,
        "family": np.full(n, family) if isinstance(family, str) else np.array(family),
        "distance": torch.stack([nan, nan], -1), "gap": nan, "axes": torch.zeros(n, 3, dtype=torch.bool),
        "converged": torch.ones(n, dtype=torch.bool), "box": BOX, "diameter": DIAMETER, "sites_per_voxel": 1,
        "method": "exact",
    }  # fmt: skip
    return Dataset(**(fields | more))


def save(folder, data, script="simulate"):
    folder.mkdir()
    write_shard(folder / "shard-00000.h5", data, seed=0)
    write_summary(folder, data)
    write_json(folder / "run.json", {"script": script, "config": {"note": "<b>bold</b>"}, "commit": "0123abcd"})


def save_model(folder, seed, noise):
    chance = torch.Generator().manual_seed(seed)
    true = torch.rand(12, generator=chance, dtype=torch.float64) + 0.1
    predicted = true + noise * torch.randn(12, generator=chance, dtype=torch.float64)
    folder.mkdir()
    names = ["test"] * 8 + ["test of runs/x/round-1"] * 4
    rows = {"split": names, "id": list(range(12)), "true": true.tolist(), "predicted": predicted.tolist()}
    found = {"train": {"mse": 0.1, "mape": 2.0, "r": math.nan}, "test": metrics(predicted[:8], true[:8])}
    write_json(folder / "metrics.json", found)
    write_json(folder / "predictions.json", rows)
    write_json(folder / "run.json", {"script": "train", "config": {}, "commit": "0123abcd"})


def annealed(seed, up, down, noise):
    D = torch.tensor([*up, *down], dtype=torch.float64)
    n, chance = len(D), torch.Generator().manual_seed(seed)
    predicted = D / REFERENCE * (1 + noise * torch.randn(n, generator=chance, dtype=torch.float64))
    family = ["annealed-max"] * len(up) + ["annealed-min"] * len(down)
    more = {"predicted": predicted, "chain": torch.arange(n), "cycle": torch.full((n,), 4), "d_reference": REFERENCE}
    return dataset(seed, D.tolist(), family, **more)


def save_round(folder, data, score="surrogate"):
    save(folder, data, "anneal")
    write_json(folder / "run.json", {"script": "anneal", "config": {"score": score}, "commit": "0123abcd"})
    steps = {"ids": [0, 2], "trace": [[0.5, 0.7, 0.9], [0.4, 0.6, 0.8]], "acceptance": [[0.9, 0.8, 0.7]] * 2}
    write_json(folder / "traces.json", {d: steps | {"best_trace": steps["trace"]} for d in ("max", "min")})
    write_json(folder / "summary.json", {})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with all parts, and the summary of its report."""
    path = tmp_path_factory.mktemp("runs") / "demo"
    path.mkdir()
    axes = torch.zeros(7, 3, dtype=torch.bool)
    axes[5, 0] = axes[6] = True
    distance = torch.full((7, 2), torch.nan, dtype=torch.float64)
    distance[3], distance[4] = torch.tensor([11.0, 12.5]), torch.tensor([DIAMETER, 11.0])
    family = ["random"] * 3 + ["chained"] * 2 + ["gapped"] * 2
    save(
        path / "dataset",
        dataset(1, [0.03, 0.05, 0.04, REFERENCE, 0.1, 0.06, 0.01], family, axes=axes, distance=distance),
    )
    rounds = [annealed(2, [0.17, 0.15], [0.02, 0.009], 0.2), annealed(3, [0.2, 0.18], [0.008, 0.007], 0.05)]
    for k, each in enumerate(rounds, start=1):
        save_model(path / f"model-{k}", k, 0.2 / k)
        save_round(path / f"round-{k}", each)
    save(path / "annealed", open_dataset([path / "round-1", path / "round-2"]))
    exact = dataset(4, [0.05, 0.1], method="both")
    s = torch.full((2, 3), 0.001, dtype=torch.float64)
    z = torch.tensor([[0.5, -1.0, 2.5], [5.0, 5.0, 5.0]], dtype=torch.float64)
    walk = {"diffusivity_kmc": exact.diffusivity + z * s, "standard_error_kmc": s}
    save(path / "check", Dataset(**(vars(exact) | walk | {"converged_kmc": torch.tensor([True, False])})))
    took = {"stage": "simulate", "count": 7, "unit": "structures", "seconds": 12.5, "rate": 0.56, "processes": 2}
    write_json(path / "dataset/timing.json", [took | {"device": "abacus", "torch": "2.x", "commit": "89ef"}])
    return path, report.write(path)


def reject(name):
    raise AssertionError(f"{name} is not JSON")


def test_the_summary_is_what_the_files_say(run):
    path, summary = run
    assert json.loads((path / "summary.json").read_text(), parse_constant=reject) == summary
    data, found = open_dataset(path / "dataset"), open_dataset([path / "round-1", path / "round-2"])
    D, A = data.diffusivity.mean(-1), found.diffusivity.mean(-1)
    assert summary["dataset"]["structures"] == 7
    assert summary["annealed"]["structures"] == 8
    assert summary["dataset"]["best"]["id"] == int(data.id[D.argmax()]) == 103
    assert summary["annealed"]["worst"]["index"] == int(A.argmin()) == 7
    assert summary["annealed"]["best"]["D"] == float(A.max()) == pytest.approx(0.2)
    assert summary["annealed"]["best"]["cycle"] == 4
    ratios = summary["ratios"]
    assert ratios["best_annealed_over_best_dataset"] == float(A.max() / D.max())
    assert ratios["worst_annealed_over_worst_dataset"] == float(A.min() / D.min())
    assert summary["beats_dataset"] == {"best": True, "worst": True}
    assert summary["models"]["model-1"]["train"]["r"] is None
    assert summary["models"]["model-2"]["test"] == json.loads((path / "model-2/metrics.json").read_text())["test"]
    for k, name in ((1, "before_retraining"), (2, "after_retraining")):
        part = open_dataset(path / f"round-{k}")
        expected = metrics(part.predicted, part.diffusivity.mean(-1) / REFERENCE)
        assert {key: summary[name][key] for key in expected} == pytest.approx(expected, rel=1e-12)
        top = part.subset(slice(0, 2))
        expected = metrics(top.predicted, top.diffusivity.mean(-1) / REFERENCE)["mape"]
        assert summary["annealed_predictions"][f"round-{k}"]["max"]["mape"] == pytest.approx(expected, rel=1e-12)
    assert summary["timing"]["dataset"][0]["seconds"] == 12.5
    assert summary["missed"] == []


def test_walks_that_did_not_settle_do_not_count(run):
    kmc = run[1]["kmc"]
    assert (kmc["structures"], kmc["settled"], kmc["components"]) == (2, 1, 3)
    # z comes back from a difference of numbers near 0.05 over 0.001: 0.05 · 2⁻⁵³ / 0.001 < 1e-14.
    both = math.hypot(1.0, 0.05)  # the exact solve's error is a twentieth of the walk's
    assert kmc["z"] == pytest.approx([0.5 / both, -1.0 / both, 2.5 / both], abs=1e-12)
    assert kmc["z_rms"] == pytest.approx(math.sqrt((0.25 + 1 + 6.25) / 3) / both)
    assert (kmc["within_2"], kmc["beyond_4"]) == (2, 0)


def test_the_page_has_all_parts_and_needs_nothing_else(run):
    text = (run[0] / "report.html").read_text()
    titles = ["The arrangements", "Turn them", "Diffusivity by family", "Predicted against exact", "Annealing"]
    titles += ["Two ways to the same number", "The figures", "The paper, and this run", "How it was made"]
    assert re.findall("<h2>(.*?)</h2>", text) == titles
    assert "default-src 'none'" in text  # the browser refuses whatever a script might fetch; test_page.py looks
    scripts = re.findall(r"<script.*?</script>", text, re.DOTALL)
    assert len(scripts) == 3
    assert not any(re.match(r"<script[^>]* src=", script) for script in scripts)
    text = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    sources = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'> ]*)""", text)
    paper = len(list((run[0] / "paper").glob("*.png")))
    assert len(sources) == 3 + 1 + 3 + 4 + 1 + paper
    assert all(source.startswith("data:image/") for source in sources)
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    assert "@import" not in text
    pictures = [base64.b64decode(source.split(",", 1)[1]) for source in sources]
    assert sum(content.startswith(b"\x89PNG") for content in pictures) == 3 + paper
    drawings = [content.decode() for content in pictures if b"<svg" in content]
    assert len(drawings) == 9
    for drawing in drawings:  # a namespace is a name, not an address; references stay within the drawing
        assert all(link.startswith(("#", "data:")) for link in re.findall(r'href="([^"]*)"', drawing))
        assert "nan" not in drawing.lower().replace("namespace", "")
    assert "<b>bold</b>" not in text
    assert "&lt;b&gt;bold&lt;/b&gt;" in text
    assert "round-1/shard" not in text


def test_the_page_says_the_numbers_of_the_summary(run):
    path, summary = run
    text = (path / "report.html").read_text()
    gain = 100 * (summary["ratios"]["best_annealed_over_best_dataset"] - 1)
    assert f"{gain:+.1f}%" in text
    assert "+25.0%" in text  # 0.2 over 0.16
    assert "−30.0%" in text  # 0.007 over 0.01
    for x in (summary["before_retraining"], summary["after_retraining"], summary["models"]["model-2"]["test"]):
        assert f"{x['mape']:.3g}%" in text
    for word in ("7 structures", "12.5", "0.56", "abacus", "2.x", "89ef"):
        assert f">{word}</td>" in text
    assert text.index("Conducts best") < text.index("Typical at random") < text.index("Conducts worst")
    assert "D = 0.04 ± 4e-05" in text  # the median of 0.03, 0.04, 0.05


def test_equal_runs_make_equal_pictures(run):
    path = run[0]
    pages = [report.page(loaded := findings.load(path), run[1], gallery.arrangements(loaded)) for _ in range(2)]
    images = [re.findall(r'src="([^"]*)"', page) for page in pages]
    assert images[0] == images[1]


def test_the_arrangements_stand_side_by_side(run):
    content = (run[0] / "arrangements.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    assert width == 3 * height


def test_families_come_in_order(run):
    names = list(findings.groups(open_dataset(run[0] / "dataset")))
    assert names == ["random", "chained 9.6–11", "chained 11–12.5", "gapped, 1 axis", "gapped, 3 axes"]


def test_a_dataset_alone_makes_a_report(tmp_path):
    save(tmp_path / "dataset", dataset(1, [0.05, 0.02, 0.04]))
    (tmp_path / "round-1").mkdir()  # begun, not done
    (tmp_path / "model-1").mkdir()
    (tmp_path / "check").mkdir()
    summary = report.write(tmp_path)
    assert summary["annealed"] is summary["ratios"] is summary["kmc"] is summary["after_retraining"] is None
    titles = re.findall("<h2>(.*?)</h2>", (tmp_path / "report.html").read_text())
    assert titles == [
        "The arrangements", "Turn them", "Diffusivity by family", "The figures", "The paper, and this run",
        "How it was made",
    ]  # fmt: skip


def test_what_does_not_fit_is_refused(tmp_path, run):
    save(tmp_path / "dataset", dataset(1, [0.05, 0.02]))
    save_round(tmp_path / "round-1", annealed(2, [0.1], [0.01], 0.1))
    with pytest.raises(DatasetError, match=r"round-1.*expected 0.05 .*found 0.16"):
        findings.load(tmp_path)
    (tmp_path / "round-1" / "traces.json").write_text("{")
    with pytest.raises(DatasetError, match=r"round-1|traces.json"):
        findings.load(tmp_path)
    with pytest.raises(DatasetError, match="--method both"):
        findings.agreement(open_dataset(run[0] / "dataset"))


def test_a_folder_without_a_dataset_ends_in_one_line(tmp_path):
    command = [sys.executable, "-m", "gpuion.report", str(tmp_path / "nothing")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "dataset" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_wrong_flag_names_the_program(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["report.py", "x", "--hepl"])
    with pytest.raises(SystemExit) as left:
        report.main()
    assert left.value.code == 2
    assert capsys.readouterr().err == (
        "error: unknown flag --hepl; did you mean --help? (see python -m gpuion.report --help)\n"
    )


def test_without_matplotlib_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=re.escape("pip install gpuion[plot]")):
        report.write(tmp_path)


def test_figures_leave_no_global_state(run):
    assert run  # figures have been drawn
    assert "matplotlib.pyplot" not in sys.modules


def test_a_family_spanning_decades_gets_a_log_axis():
    for D, scale in (
        (np.array([0.01, 0.2]), "log"),
        (np.array([0.1, 0.2]), "linear"),
        (np.array([0.0, 0.2]), "linear"),
    ):
        figure = plots.families({"random": D}, best=0.2, worst=0.01)
        assert figure.axes[0].get_xscale() == scale


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.99964, 4, "0.9996"), (108.7, 2, "109"), (2880.4, 3, "2880"), (99.6, 2, "100"), (2e6, 3, "2e+06"),
     (-1234, 3, "-1234"), (0.0123, 2, "0.012"), (None, 3, "–"), (float("nan"), 3, "–")],
)  # fmt: skip
def test_numbers_are_written_without_powers_of_ten_up_to_a_million(value, digits, text):
    assert markup.number(value, digits) == text
