"""Commands anywhere in README, docs and Makefile have flags that their scripts know; what the README names is there."""

import importlib.util
import re

import pytest
from pages import PAGES, ROOT, flags_of

import gpuion

README = PAGES["README.md"]


def commands(text):
    """Return (script or module, flags) of every command in a text that runs Python or torchrun."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        for words in re.findall(r"(?:python\S*|torchrun) (.*)", line):
            target = re.search(r"(?:^| )(?:-m (gpuion\.\w+)|((?:\w+/)?\w+\.py))(?= |$|`)(.*)", words.split("#")[0])
            if target and "pytest" not in words:
                module, script, rest = target.groups()
                found.append((module or script, re.findall(r"(?<!\S)--[\w-]+", rest.split("`")[0])))
    return found


DOCUMENTS = {**PAGES, "Makefile": (ROOT / "Makefile").read_text()}
COMMANDS = {name: commands(text) for name, text in DOCUMENTS.items()}


@pytest.mark.parametrize("target", sorted({target for found in COMMANDS.values() for target, _ in found}))
def test_commands_have_only_known_flags(target):
    known = flags_of(target)
    for document, found in COMMANDS.items():
        for name, flags in found:
            assert name != target or set(flags) <= known, (document, set(flags) - known)


def test_the_commands_of_all_scripts_were_found():
    assert [name for name, _ in commands("python simulate.py --a\ntorchrun --n=2 train.py --b")] == [
        "simulate.py", "train.py",
    ]  # fmt: skip
    assert commands("see `python anneal.py --x-y 3`, or `--z`") == [("anneal.py", ["--x-y"])]
    assert commands("$(BIN)/python -m gpuion.report --out \\\n  --in") == [("gpuion.report", ["--out", "--in"])]
    in_readme = {name for name, _ in COMMANDS["README.md"]}
    assert in_readme >= {"simulate.py", "train.py", "anneal.py", "gpuion.report", "gpuion.dataset"}


def test_nothing_is_left_to_fill_in():
    for document in {*ROOT.glob("*.md"), *(ROOT / name for name in PAGES)}:
        assert not re.search(r"\b(TODO|TBD|XXX|FIXME)\b", document.read_text()), document.name


def test_links_and_files_exist():
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", README) if not re.match(r"https?://|#", link)]
    assert links
    for link in links:
        assert (ROOT / link.split("#")[0]).exists(), link
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    quoted = re.findall(r"`([^`\n]+)`", text)
    modules = re.findall(r"`(gpuion\.\w+)`", " ".join(PAGES.values()))
    files = [name for name in quoted if re.fullmatch(r"[\w./-]+(\.\w+|/)|Makefile", name) and name not in modules]
    files = [name for name in files if not name.startswith(("runs/", "site/"))]  # what the commands make
    assert {"Makefile", "simulate.py"} <= set(files)
    for name in files:
        assert (ROOT / name).exists(), name
    for name in modules:
        assert importlib.util.find_spec(name) or hasattr(gpuion, name.split(".")[1]), name
    rules = re.findall(r"`make (\w+)", " ".join(PAGES.values()))
    assert rules
    for rule in rules:
        assert re.search(rf"^{rule}:", DOCUMENTS["Makefile"], re.MULTILINE), rule
    presets = re.findall(r"--preset (\w+)", " ".join(PAGES.values()))
    assert presets
    for preset in presets:
        assert (ROOT / "configs" / f"{preset}.toml").exists(), preset
