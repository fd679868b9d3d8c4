"""What `make docs` builds: no warning, all public names, and pages that ask no other machine for anything."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from pages import PAGES, ROOT

import gpuion

pytest.importorskip("mkdocs", reason="pages are built with the extra docs")
HOME = vars(gpuion)["_HOME"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    built = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


class Asked(HTMLParser):
    """What a browser fetches for a page, without a click."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.found += [given[name] for name in ("src", "srcset", "poster", "data") if given.get(name)]
        if tag == "link" and given.get("rel") not in {"prev", "next", "canonical"}:
            self.found.append(given["href"])


def fetched(text):
    asked = Asked()
    asked.feed(text)
    return [found for found in asked.found if not found.startswith("data:")]


def test_pages_ask_no_other_machine(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) >= len(PAGES)  # and the page of what is not there
    for page in pages:
        text = page.read_text()
        assert 'class="mermaid"' not in text  # material would fetch what draws it
        for asked in fetched(text):
            assert not re.match(r"(\w+:)?//", asked), (page.name, asked)
            if page.name != "404.html":  # made for the root of a server
                assert (page.parent / asked.split("?")[0].split("#")[0]).exists(), (page.name, asked)
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(\w+:)?//", sheet.read_text()), sheet.name
    assert fetched('<script src="//cdn.x/y.js"></script><link rel="stylesheet" href="https://x/y.css">') == [
        "//cdn.x/y.js", "https://x/y.css",
    ]  # fmt: skip


def test_every_public_name_is_in_the_reference(site):
    reference = (site / "api.html").read_text()
    assert set(HOME) | {"__version__"} == set(gpuion.__all__)
    told = re.findall(r"^::: (\S+)$", PAGES["docs/api.md"], re.MULTILINE)
    assert sorted(told) == sorted(f"gpuion.{module}.{name}" for name, module in HOME.items())
    for name in told:
        assert f'id="{name}"' in reference, name


def test_the_front_page_is_the_readme_and_its_names_are_links(site):
    front = (site / "index.html").read_text()
    for heading in re.findall(r"^## (.+)$", PAGES["README.md"], re.MULTILINE):
        assert heading in front
    assert '<a href="data.html"><code>docs/data.md</code></a>' in front
    assert re.search(r'href="api.html#gpuion.separation.separate"><code>gpuion.separate</code>', front)
    assert 'src="docs/' not in front


def test_equations_are_drawn_without_a_script(site):
    for name, page in (("docs/science.md", "science.html"),):
        assert (site / page).read_text().count("<math ") == PAGES[name].count("```math") >= 10
    assert "\\frac" not in re.sub(r"<script.*?</script>", "", (site / "science.html").read_text(), flags=re.DOTALL)


def test_every_file_of_the_bench_is_told_of():
    told = PAGES["docs/measured.md"]
    for path in sorted((ROOT / "bench" / "results").glob("*.json")):
        assert f"`bench/results/{path.name}`" in told, path.name
    for name in re.findall(r"`((?:bench|data|docs)/[\w./-]+)`", told):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("path", sorted((ROOT / "data").glob("*/timing.json")), ids=lambda path: path.parent.name)
def test_commits_of_data_are_those_told(path):
    name = f"`{path.relative_to(ROOT)}`"
    (row,) = [row for row in PAGES["docs/measured.md"].splitlines() if name in row]
    assert {stage["commit"] for stage in json.loads(path.read_text())} == {row.strip(" |").split(", ")[-1]}


@pytest.mark.parametrize("path", sorted((ROOT / "bench" / "results").glob("*.json")), ids=lambda path: path.stem)
def test_commit_and_case_of_each_file_are_those_told(path):
    result = json.loads(path.read_text())
    (row,) = [row for row in PAGES["docs/measured.md"].splitlines() if f"`bench/results/{path.name}`" in row]
    assert row.strip(" |").endswith(result["machine"]["commit"])
    assert result["case"] in row.split("`")[1].split()
