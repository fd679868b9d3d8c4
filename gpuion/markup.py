"""Parts of an HTML page that needs nothing beyond itself: style, tables, pictures, numbers."""

import base64
import html
import math
from collections.abc import Iterable
from typing import Any

# The page may fetch nothing, not even by mistake.
_POLICY = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_CSS = """
:root { color-scheme: light; --ink: #1d2126; --soft: #5f6670; --line: #e3e6ea; --accent: #0072B2; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f6f8; color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 1.6rem 1rem 3rem; }
section { background: #fff; border: 1px solid var(--line); border-radius: 12px; padding: 1.1rem 1.3rem; margin: 1rem 0;
}
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .2rem; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: .1rem 0 .5rem; }
p { margin: .4rem 0 .7rem; max-width: 75ch; }
.soft, figcaption, summary { color: var(--soft); font-size: .9rem; }
.lead { list-style: none; padding: 0; margin: .8rem 0 0; }
.lead li { border-left: 4px solid var(--accent); padding: .1rem 0 .1rem .8rem; margin: .6rem 0; font-size: 1.06rem; }
.pairs { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(400px, 100%), 1fr)); }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(290px, 100%), 1fr)); }
figure { margin: 0; } figure img { width: 100%; height: auto; display: block; }
figcaption b { color: var(--ink); font-size: 1rem; display: block; }
.wide { max-width: 820px; margin: 0 auto; } .narrow { max-width: 470px; margin: 0 auto; width: 100%; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
details figure { margin: 1rem 0; } details figure img { width: auto; max-width: 100%; margin: 0 auto; }
.tall { max-height: 22rem; overflow-y: auto; }
.bar { display: flex; flex-wrap: wrap; gap: .4rem; align-items: center; margin: .5rem 0; }
button, select { font: inherit; font-size: .9rem; color: var(--ink); background: #fff; border: 1px solid #c4cad1;
  border-radius: 8px; padding: .3rem .7rem; }
button.on { border-color: var(--accent); background: #e8f2f9; } tr.on td { background: #e8f2f9; }
th button { border: 0; padding: 0; color: inherit; font-weight: 600; cursor: pointer; background: none; }
th[aria-sort=ascending] button::after { content: " ▲"; } th[aria-sort=descending] button::after { content: " ▼"; }
tr[data-model] { cursor: pointer; } #title { margin: .2rem 0; }
#stage { position: relative; width: 100%; aspect-ratio: 1 / 1; max-height: 560px; }
#structures td:nth-child(n+3), #structures th:nth-child(n+3) { text-align: right; }
.wrap td, .wrap th { white-space: normal; min-width: 8.5rem; vertical-align: top; }
th { color: var(--soft); font-weight: 600; } td.n, th.n { text-align: right; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem; background: #f5f6f8; padding: .7rem; }
"""


def document(title: str, body: str) -> str:
    """Return a whole page."""
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<style>{_CSS}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )


def number(value: float | None, digits: int = 4) -> str:
    """Return a number to so many digits, up to a million to its last before the point; a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if 10**digits <= abs(float(text)) < 1e6 else text


def table(header: list[str], rows: Iterable[list[Any]]) -> str:
    """Return an HTML table; columns that hold numbers are set flush right."""
    rows = [[str(x) for x in row] for row in rows]
    if not rows:
        return ""
    right = [all(_numeric(row[k]) for row in rows) for k in range(len(header))]

    def line(cells: list[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if n else ''}>{html.escape(x)}</{tag}>" for x, n in zip(cells, right, strict=True)
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{line(header, "th")}</tr>{body}</table></div><p></p>'


def _numeric(text: str) -> bool:
    return text in {"", "–"} or text.replace("e", "").replace("-", "").replace("+", "").replace(".", "").isdigit()


def image(content: bytes, kind: str, name: str) -> str:
    """Return a picture, held in the page, of a type such as png or svg+xml, and its name for those who cannot see."""
    return f'<img alt="{html.escape(name)}" src="data:image/{kind};base64,{base64.b64encode(content).decode()}">'


def count(number: int, noun: str) -> str:
    """Return "1 cluster", "2 clusters"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
