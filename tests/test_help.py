"""The --help of scripts and modules: each flag in a group, with its unit, and what counts where it is not given."""

import argparse
import importlib
import sys
from pathlib import Path

import pytest

from gpuion.config import Parser

ROOT = Path(__file__).parent.parent
PRESETS = "settings from files, which flags go before"
GROUPS = {
    "simulate": {PRESETS, "the run", "structures", "labels", "the cell"},
    "train": {PRESETS, "files", "the model", "learning", "the run"},
    "anneal": {PRESETS, "files", "the aim", "the chains", "labels", "the run"},
    "gpuion.climb": {PRESETS, "files", "the aim", "the climb", "labels", "the run"},
    "gpuion.__main__": {"the run"},
    "gpuion.compare": {"files", "labels"},
    "gpuion.designs": {"files", "labels"},
    "gpuion.evaluate": {"files", "structures", "errors", "the run"},
    "gpuion.export": {"files", "arrangements", "the medium of one structure", "the run"},
    "gpuion.manage": {"commands, each of which has a --help"},
    "gpuion.manage info": {"files"},
    "gpuion.manage merge": {"files"},
    "gpuion.manage split": {"files", "the parts", "the run"},
    "gpuion.manage subset": {"files", "structures"},
    "gpuion.paper": {"files", "the page"},
    "gpuion.report": {"files"},
    "gpuion.survey": {"files"},
}
UNITS = {  # what a number with a fraction is measured in
    "--box": "voxels", "--stride": "voxels", "--core-width": "voxels", "--time": "voxel² over bulk diffusivity",
    "--tolerance": "relative error", "--rtol": "relative error", "--volume-fraction": "of the spheres",
    "--fractions": "share", "--temperature": "units of the objective", "--target": "D*",
    "--caution": "standard deviations", "--cooling": "factor", "--weight-decay": "of AdamW",
    "--learning-rate": "learning rate of",
}  # fmt: skip
PLAIN = {"--source", "--part", "--target", "--relabel-min"}  # without which there is none; they need not say so


class Met(Exception):  # noqa: N818, it carries a parser and is no error
    pass


def parser_of(command, monkeypatch):
    """Return the parser that a script or a module makes, or that of one of its commands."""

    def meet(parser, *_):
        raise Met(parser)

    name, _, word = command.partition(" ")
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.setattr(sys, "argv", [f"{name.rpartition('.')[2]}.py"])
    monkeypatch.setattr(Parser, "parse_args", meet)
    with pytest.raises(Met) as met:
        importlib.import_module(name).main()
    parser = met.value.args[0]
    commands = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return commands[0].choices[word] if word else parser


def groups_of(parser):
    """Return the flags and arguments of each heading that has some, but for --help."""
    found = {
        group.title: [x for x in group._group_actions if not isinstance(x, argparse._HelpAction)]
        for group in parser._action_groups
    }
    return {title: actions for title, actions in found.items() if actions}


def test_all_modules_with_a_parser_are_here():
    texts = {f"gpuion.{path.stem}": path.read_text() for path in ROOT.glob("gpuion/*.py") if path.stem != "config"}
    made = {name for name, text in texts.items() if " Parser(prog=" in text or " parse(Config" in text}
    assert made == {command.partition(" ")[0] for command in GROUPS if command.startswith("gpuion.")}


@pytest.mark.parametrize("command", GROUPS)
def test_every_flag_stands_in_a_group(command, monkeypatch):
    parser = parser_of(command, monkeypatch)
    assert set(groups_of(parser)) == GROUPS[command]
    text = parser.format_help()
    assert all(f"\n{title}:\n" in text for title in GROUPS[command])
    assert "positional arguments" not in text


@pytest.mark.parametrize("command", GROUPS)
def test_every_flag_says_what_counts_without_it(command, monkeypatch):
    parser = parser_of(command, monkeypatch)
    helps = parser._get_formatter()
    for title, actions in groups_of(parser).items():
        for action in actions:
            text = helps._get_help_string(action) or ""
            assert text or isinstance(action, argparse._SubParsersAction), action
            flag, is_file = (action.option_strings or [""])[-1], title in {"files", PRESETS} or action.type is Path
            if flag.startswith("--") and not (action.nargs == 0 or action.required or is_file or flag in PLAIN):
                said = ("(default: ", "not given", "; the source's, or ", "must be given")
                assert any(words in text for words in said), f"{flag}: {text}"
            if action.type is float or getattr(action.type, "__name__", "").startswith("float"):
                assert UNITS[flag] in text, f"{flag}: {text}"


def test_a_value_is_called_by_its_type(monkeypatch):
    usage = " ".join(parser_of("gpuion.export", monkeypatch).format_usage().split())
    assert "[--xyz PATH] [--ids N [N ...]]" in usage
    assert "[--axis {0,1,2}] [--device TEXT] sources" in usage
    usage = " ".join(parser_of("gpuion.designs", monkeypatch).format_usage().split())
    assert usage == "usage: python -m gpuion.designs [-h] --out PATH [--tolerance X] data"


def test_paths_are_called_so(monkeypatch):
    for command, flag in (("simulate", "--source"), ("train", "--checkpoint"), ("anneal", "--checkpoint")):
        assert f"[{flag} PATH]" in " ".join(parser_of(command, monkeypatch).format_usage().split())
    assert "must be given" in parser_of("anneal", monkeypatch).format_help().partition("--data")[2][:3000]


def test_commands_that_end_with_3_say_when(monkeypatch):
    assert "  3    labelled, but walks contradict" in parser_of("simulate", monkeypatch).format_help()
    assert "  3    written, but annealing found nothing" in parser_of("gpuion.report", monkeypatch).format_help()
    assert "  3    " not in parser_of("gpuion.paper", monkeypatch).format_help()
