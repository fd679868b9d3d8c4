"""Every block of a page runs, prints what the page shows, and has only flags that its script knows."""

import contextlib
import io
import math
import re
import tomllib

import pages
import pytest
from pages import PAGES, ROOT, Block, blocks, differences, parse, run, start, target

TUTORIALS = [f"docs/tutorials/{name}.md" for name in ("simulate", "train", "anneal")]
# What other pages find where a run would be; flags given last count.
SMALL = {
    "simulate.py": "--structures 24 --tolerance 1e-2",
    "train.py": "--epochs 1",
    "anneal.py": "--chains 2 --cycles 1 --steps 24 --samples 24 --relabel 20",
}
COMMANDS = [(page, block.line, words) for page in PAGES for block in blocks(PAGES[page]) for words in block.commands]


def link_data(folder):
    (folder / "data").symlink_to(ROOT / "data")
    (folder / "runs").mkdir()
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The first long block of each tutorial, done on less."""
    folder = link_data(tmp_path_factory.mktemp("docs"))
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        for page in TUTORIALS:
            words = next(block for block in blocks(PAGES[page]) if block.is_slow).commands[0]
            start([*words, *SMALL[words[1]].split()])
        demo = folder / "runs" / "demo"
        demo.mkdir()
        for name, made in {"dataset": "data", "annealed": "annealed"}.items():
            (demo / name).symlink_to(folder / "runs" / made)
    return folder


def check(block, page, names, *, tolerance):
    """Run a block and hold what it prints against the page, numbers to a relative tolerance; None: only run it."""
    try:
        printed = run(block, page, names)
    except ModuleNotFoundError as error:
        if error.name not in {"ase", "tifffile"}:
            raise
        pytest.skip(f"{page} needs {error.name}")
    if block.output is not None and tolerance is not None:
        assert not (wrong := differences(block.output, printed, tolerance)), f"{page}:{block.line}: {wrong}"


@pytest.mark.parametrize("page", [page for page in PAGES if any(not block.takes for block in blocks(PAGES[page]))])
def test_the_blocks_of_a_page_run(page, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    link_data(tmp_path)
    for made in (runs / "runs").iterdir():
        (tmp_path / "runs" / made.name).symlink_to(made)
    names = {}
    for block in blocks(PAGES[page]):
        if not block.takes:
            # What pages show to three digits; tutorials find smaller runs here than those that they show.
            check(block, page, names, tolerance=None if page in TUTORIALS else 0.02)


def test_the_way_of_the_readme_runs_on_less(tmp_path, monkeypatch):
    monkeypatch.chdir(link_data(tmp_path))
    (block,) = (block for block in blocks(PAGES["README.md"]) if "simulate.py" in block.text and block.takes)
    with contextlib.redirect_stdout(io.StringIO()):
        for words in block.commands:
            start([*words, *SMALL[target(words)[0]].split()])
    assert {path.parent.name for path in tmp_path.glob("runs/*/run.json")} == {"data", "model", "annealed", "again"}
    assert (tmp_path / "runs/again/surrogate.pt").is_file()


@pytest.mark.slow
def test_the_slow_blocks_run_as_they_stand(tmp_path, monkeypatch):
    monkeypatch.chdir(link_data(tmp_path))
    slow = [page for page in PAGES if any(block.is_slow for block in blocks(PAGES[page]))]
    for page in sorted(slow, key=lambda page: TUTORIALS.index(page) if page in TUTORIALS else 3):
        names = {}
        for block in blocks(PAGES[page]):
            if not block.takes or block.is_slow:
                # Rates differ from run to run; numbers of a trained network by processor and version of torch.
                check(block, page, names, tolerance=math.inf)


@pytest.mark.parametrize("page", sorted({page for page, _, _ in COMMANDS}))
def test_commands_are_known(page):
    makefile = (ROOT / "Makefile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for _, line, words in (one for one in COMMANDS if one[0] == page):
        where = f"{page}:{line}: {' '.join(words)}"
        if target(words):
            try:
                parse(words)
            except SystemExit:
                pytest.fail(f"{where} is refused")
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), where
        else:
            assert words[:2] == ["pip", "install"], where
            extras = re.findall(r"\[(.*?)\]", " ".join(words))
            assert set(extras) <= set(project["optional-dependencies"]), where


def test_blocks_are_of_known_languages_and_none_is_lost():
    for page, text in PAGES.items():
        found = blocks(text)
        assert {block.language for block in found} <= {"python", "bash", "math"}, page
        shown = sum(block.output is not None for block in found)
        assert text.count("```") == 2 * (len(found) + shown), page
        assert all(block.output is None or block.output.strip() for block in found), page
        assert all(re.fullmatch(r"hours|\d+ (s|minutes?)", block.takes or "hours") for block in found), page
    assert {words[1] for _, _, words in COMMANDS} >= {"simulate.py", "train.py", "anneal.py", "examples/image.py"}
    assert sum(block.language == "python" for text in PAGES.values() for block in blocks(text)) >= 20


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short_and_told_of(path):
    assert len(path.read_text().splitlines()) <= 60
    assert any(f"examples/{path.name}" in text for text in PAGES.values())


def test_what_is_wrong_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = "```python\nx = 2\n```\n\n```python\nprint(x / 3, 'of it')\n```\n\n```text\n0.6667 of it\n```\n"
    page += "```bash\n# takes 3 minutes\npython train.py \\\n  --epoch 3  # a flag that it has not\n```\n"
    first, second, third = blocks(page)
    assert (first.line, second.line, third.takes, third.is_slow) == (1, 5, "3 minutes", False)
    assert Block("bash", "# takes 20 s: on one core\n", 1, None).is_slow
    names = {}
    assert run(first, "made-up.md", names) == ""
    printed = run(second, "made-up.md", names)
    assert not differences(second.output, printed, 0.02)
    assert not differences("0.6667 …\n", printed, 0.02)
    assert "0.7" in differences("0.7 of it", printed, 0.02)
    assert not differences("0.7 of it", printed, math.inf)
    assert "prints" in differences("0.6667 of that", printed, math.inf)
    with pytest.raises(ZeroDivisionError) as told:
        run(Block("python", "1 / 0\n", 41, None), "made-up.md", {})
    last = told.traceback[-1]
    assert (str(last.path).rpartition("/")[2], last.lineno) == ("made-up.md", 41)  # lines from 0, and the fence's own
    with pytest.raises(SystemExit):
        parse(third.commands[0])
    for words in (["python", "train.py", "--epochs", "many"], ["python", "-m", "gpuion.dataset", "fold", "runs"]):
        with pytest.raises(SystemExit):
            parse(words)
    assert parse(["torchrun", "--nproc-per-node=2", "train.py", "--epochs", "3"]).epochs == 3
    assert pages.flags_of("gpuion.dataset") >= {"--out", "--stratify"}
