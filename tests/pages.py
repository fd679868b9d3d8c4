"""The blocks of README.md, CONTRIBUTING.md and the pages in docs/, and how tests run them.

A block of commands whose first line says `# takes 20 s` is for the slow tests, one that says `# takes 4 minutes` (or
hours) for nobody: its commands are only parsed. All others run. A block of `text` after one of these is its output.

    python tests/pages.py docs/how-to/image.md

runs the blocks of some pages, slow ones too, in a new folder that has data/, and writes what they print into the pages.
"""

import argparse
import contextlib
import dataclasses
import io
import itertools
import re
import runpy
import shlex
import signal
import sys
import tempfile
import warnings
from pathlib import Path

from gpuion.config import _flags

ROOT = Path(__file__).parent.parent
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
}
_NUMBER = r"[-+−]?\d[\d.]*(?:e[-+]?\d+)?"


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block: its language, what it holds, the line it starts at, and the output that the page shows."""

    language: str
    text: str
    line: int
    output: str | None

    @property
    def takes(self) -> str:
        """How long the page says it takes, "" if it says nothing."""
        found = re.match(r"# takes ([^:\n]+)", self.text)
        return found[1] if found else ""

    @property
    def is_slow(self) -> bool:
        return bool(re.fullmatch(r"\d+ s", self.takes))

    @property
    def commands(self):
        """The words of each command; comments are dropped, continued lines joined."""
        lines = self.text.replace("\\\n", " ").splitlines() if self.language == "bash" else []
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(text):
    """Return the blocks of a page in order; one of `text` goes to the block before it."""
    found = []
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        language, content = match.groups()
        if language == "text" and found and found[-1].output is None:
            found[-1] = dataclasses.replace(found[-1], output=content)
        else:
            found.append(Block(language, content, text[: match.start()].count("\n") + 1, None))
    return found


class Parsed(Exception):  # noqa: N818, no error
    """What a command line is read into, thrown so that nothing is done about it."""


def target(words):
    """Return the script or module of a command, and its arguments; None if it is none of Python's."""
    words = list(itertools.dropwhile(lambda word: re.match(r"[A-Z_]+=", word), words))
    if words[0] == "torchrun":
        at = next(k for k, word in enumerate(words) if word.endswith(".py"))
        return words[at], words[at + 1 :]
    if words[0] != "python":
        return None
    return (words[2], words[3:]) if words[1] == "-m" else (words[1], words[2:])


@contextlib.contextmanager
def parsing(read):
    """Let every parser do `read` with itself and its arguments in place of reading the command line."""
    own = argparse.ArgumentParser.parse_args

    def parse_args(self, args=None, namespace=None):
        raise Parsed(read(own, self, args, namespace))

    argparse.ArgumentParser.parse_args = parse_args
    try:
        yield
    finally:
        argparse.ArgumentParser.parse_args = own


def parse(words):
    """Return what a command's own parser makes of its arguments; SystemExit if it refuses them."""
    with parsing(lambda own, *given: own(*given)):
        return _thrown(words)


def flags_of(name):
    """Return the flags of a script or module."""
    with parsing(lambda _, parser, *__: set(_flags(parser))):
        return _thrown(["python", *(["-m", name] if name.startswith("gpuion.") else [name])])


def _thrown(words):
    try:
        start(words)
    except Parsed as parsed:
        return parsed.args[0]
    raise AssertionError(f"{words} reads no command line")


def start(words):
    """Run a script or module in this process as the command would."""
    name, arguments = target(words)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    argv, path, sys.argv = sys.argv, sys.path, [name, *arguments]
    sys.path = [str((ROOT / name).parent), *sys.path]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'gpuion", RuntimeWarning)  # imported before it is run as a module
            if name.endswith(".py"):
                runpy.run_path(str(ROOT / name), run_name="__main__")
            else:
                runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.argv, sys.path = argv, path
        for number, handler in handlers.items():
            signal.signal(number, handler)


def run(block, page, names):
    """Run a block in the current folder; return what it printed. `names` are of the Python blocks before it."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if block.language == "python":
            code = "\n" * block.line + block.text  # so that a traceback has the page's line
            exec(compile(code, str(ROOT / page), "exec"), names)  # noqa: S102
        for words in block.commands:
            if target(words):
                start(words)
    return printed.getvalue()


def differences(shown, printed, tolerance):
    """Return what of the output a page shows differs from what was printed; numbers beyond a relative tolerance.

    A page may end in …, where more is printed than it shows.
    """
    if shown.rstrip().endswith("…"):
        shown = shown.rstrip()[:-1]
        printed = " ".join(printed.split()[: len(shown.split())])
    words, said = (re.sub(_NUMBER, "#", re.sub(r"[][]", " ", text)).split() for text in (shown, printed))
    if words != said:
        return f"the page says\n{shown}\nand the block prints\n{printed}"
    numbers = ([float(x.replace("−", "-").rstrip(".")) for x in re.findall(_NUMBER, text)] for text in (shown, printed))
    far = [(a, b) for a, b in zip(*numbers, strict=True) if abs(a - b) > tolerance * max(abs(a), abs(b))]
    return f"numbers of the page and of the block: {far}" if far else ""


def rewrite(page):
    """Run a page's blocks in the current folder and put what they print where the page shows it."""
    names, text = {}, PAGES[page]
    for block in blocks(text):
        if block.takes and not block.is_slow:
            continue
        printed = run(block, page, names)
        if block.output is not None and differences(block.output, printed, 0.0):
            first = f"```{block.language}\n{block.text}```\n\n```text\n"
            if block.output.rstrip().endswith("…"):
                printed = "".join(printed.splitlines(keepends=True)[: block.output.count("\n") - 1]) + "…\n"
            text = text.replace(first + block.output, first + printed)
    (ROOT / page).write_text(text)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home, contextlib.chdir(home):
        Path("data").symlink_to(ROOT / "data")
        Path("runs").mkdir()
        for given in sys.argv[1:]:
            rewrite(given)
