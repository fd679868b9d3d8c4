"""What mkdocs does beyond its plugins: README.md as the front page, links for names in backticks, equations."""

import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import gpuion

ROOT = Path(__file__).parent.parent
HOME = {name: f"gpuion.{module}.{name}" for name, module in vars(gpuion)["_HOME"].items()}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Let fences of `math` be MathML, which browsers draw themselves."""
    fence = {"name": "math", "class": "math", "format": formula}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the front page, README.md with its links as seen from docs/."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Make links of pages and public names in backticks, but for those in blocks of code and in headings."""
    up = "../" * page.file.src_uri.count("/")
    parts = re.split(r"(^```.*?^```$|^#.*?$|^ {4}.*?$)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if k % 2 else linked(part, up) for k, part in enumerate(parts))


def linked(text: str, up: str) -> str:
    """Link `docs/data.md` to that page and `gpuion.place` or `gpuion.place(…)` to the Python reference."""
    text = re.sub(r"(?<!\[)`docs/([\w/-]+\.md)`", rf"[`docs/\1`]({up}\1)", text)

    def name(found: re.Match[str]) -> str:
        home = HOME.get(found[1])
        return f"[{found[0]}][{home}]" if home else found[0]

    return re.sub(r"(?<!\[)`gpuion\.(\w+)(?:\([^`]*\)|\.\w+)?`", name, text)


def formula(source: str, *_: Any, **__: Any) -> str:
    """Return an equation in LaTeX as MathML."""
    return f'<div class="equation">{convert(source, display="block")}</div>'
