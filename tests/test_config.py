import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

from gpuion.config import Parser, option, parse, settings
from gpuion.errors import ConfigError, DatasetError

ROOT = Path(__file__).parent.parent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    out: Path = option(Path("runs/x"), "folder", group="the run", identity=False)
    structures: int | None = option(None, "how many", group="what to make")
    box: float = option(50.0, "edge, voxels")
    method: str = option("exact", "how", choices=("exact", "kmc"))
    quick: bool = option(False, "hurry")
    data: tuple[str, ...] = option((), "folders")
    ranges: tuple[Any, ...] = option(((1.0, 2.0),), "pairs", file_only=True)
    direction: str = option("both", "which way", flags={"--maximize": "max", "--minimize": "min"})
    seed: int = option(0, "seed", group="the run")
    time: float | str = option(1.0, "how long", words=("auto",))


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/simulate.py"])
    (tmp_path / "configs").mkdir()

    def call(*flags, preset=None, config=None):
        argv = [str(flag) for flag in flags]
        for name, text in (("preset", preset), ("config", config)):
            if text is not None:
                (tmp_path / "configs" / f"{name}.toml").write_text(text)
                argv += [f"--{name}", str(tmp_path / "configs/config.toml") if name == "config" else "preset"]
        return parse(Config, tmp_path, "doc", argv)

    return call


def test_defaults(run):
    assert run() == Config()


def test_each_source_overrides_the_one_before(run):
    preset = "[system]\nbox = 1\nseed = 1\n[simulate]\nstructures = 1\nmethod = 'kmc'"
    config = "[system]\nbox = 2\n[simulate]\nstructures = 2"
    assert run(preset=preset) == Config(box=1.0, seed=1, structures=1, method="kmc")
    assert run(preset=preset, config=config) == Config(box=2.0, seed=1, structures=2, method="kmc")
    assert run("--structures", 3, preset=preset, config=config) == Config(box=2.0, seed=1, structures=3, method="kmc")
    assert run(config="[system]\nseed = 1\n[simulate]\nseed = 2").seed == 2


def test_types(run):
    config = run(
        config="[simulate]\nbox = 3\nout = 'a/b'\nquick = true\ndata = ['a', 'b']\nranges = [['contact', 2], [3, 4]]"
    )
    assert config == Config(
        box=3.0, out=Path("a/b"), quick=True, data=("a", "b"), ranges=(("contact", 2), (3, 4))
    )  # fmt: skip
    assert isinstance(config.box, float)
    config = run("--data", "a", "b", "--quick", "--box", 3, "--minimize", "--out", "c")
    assert config == Config(data=("a", "b"), quick=True, box=3.0, direction="min", out=Path("c"))
    assert run("--no-quick", config="[simulate]\nquick = true").quick is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[simulate]\nstructure = 3",
            r"config.toml: \[simulate\]: the key 'structure' is unknown; did you mean structures",
        ),
        ("[simulate]\nxyz = 3", "the key 'xyz' is unknown; there are out, structures"),
        ("[system]\nparticle = 3", r"\[system\]: the key 'particle' is unknown; did you mean particles"),
        ("[simulat]\nstructures = 3", "the table 'simulat' is unknown; did you mean simulate"),
        ("structures = 3", "the table 'structures' is unknown"),
        ("train = 3", "train should be a table"),
        ("[simulate]\nstructures = 'x'", "structures should be int, found 'x'"),
        ("[simulate]\nstructures = 2.5", "structures should be int, found 2.5"),
        ("[simulate]\nstructures = true", "structures should be int, found True"),
        ("[simulate]\nquick = 1", "quick should be bool, found 1"),
        ("[simulate]\nbox = '5'", "box should be float, found '5'"),
        ("[simulate]\nout = 5", "out should be Path, found 5"),
        ("[simulate]\ndata = 'a'", "data should be a list, found 'a'"),
        ("[simulate]\ndata = [1]", "data should be str, found 1"),
        ("[simulate]\nranges = 1", "ranges should be a list, found 1"),
        ("[simulate]\nmethod = 'guess'", "method should be one of exact, kmc, found 'guess'"),
        ("[simulate", "config.toml is not valid TOML"),
    ],
)
def test_a_wrong_file_is_explained(run, text, message):
    with pytest.raises(ConfigError, match=message):
        run(config=text)


def test_a_key_of_another_script_is_not_ours_to_judge(run):
    assert run(config="[train]\nanything = 3\n[system]\nparticles = 3") == Config()


def test_files_that_cannot_be_read(run, tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*missing.toml: No such file"):
        run("--config", tmp_path / "missing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary.toml is not valid TOML"):
        run("--config", tmp_path / "binary.toml")
    with pytest.raises(ConfigError, match=r"/dev/zero has more than the 8192 bytes"):
        run("--config", "/dev/zero")


def test_unknown_preset(run):
    assert run(preset="[simulate]\nseed = 4").seed == 4
    with pytest.raises(ConfigError, match="preset 'papr' is unknown; there are preset"):
        run("--preset", "papr")
    with pytest.raises(ConfigError, match=r"'prest' is unknown; there are preset; did you mean preset\?"):
        run("--preset", "prest")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--structurs", "5"], "unknown flag --structurs; did you mean --structures? (see simulate.py --help)"),
        (["--structurs=5"], "unknown flag --structurs; did you mean --structures?"),
        (["--ranges", "5"], "unknown flag --ranges (see"),
        (["--struct", "5"], "unknown flag --struct; did you mean --structures?"),
        (["5"], "no use for 5 (see"),
        (["--quick", "5", "6"], "no use for 5 6 (see"),
        (["--structures", "many"], "argument --structures: invalid int value: 'many'"),
        (["--method", "guess"], "argument --method: invalid choice: 'guess'"),
        (["--method", "exat"], "; did you mean exact? (see simulate.py --help)"),
        (["--structures"], "argument --structures: expected one argument"),
    ],
)
def test_a_wrong_flag_is_one_line_and_code_2(run, capsys, flags, message):
    with pytest.raises(SystemExit) as left:
        run(*flags)
    assert left.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]


def test_a_misspelt_flag_is_named_before_what_is_missing_without_it(capsys):
    parser = Parser(prog="x")
    parser.add_argument("--data", required=True)
    parser.add_argument("--rtol")
    parser.add_argument("--tolerance")
    for flags, message in (
        (["--dat", "y"], "unknown flag --dat; did you mean --data? (see x --help)"),
        (["--data", "y", "--tol", "1"], "unknown flag --tol; did you mean --tolerance? (see x --help)"),
        ([], "the following arguments are required: --data (see x --help)"),
    ):
        with pytest.raises(SystemExit):
            parser.parse_args(flags)
        assert capsys.readouterr().err == f"error: {message}\n"


def test_help_shows_flags_and_defaults(run, capsys):
    with pytest.raises(SystemExit) as left:
        run("--help")
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert "--box X" in text
    assert "edge, voxels (default: 50)" in text
    assert "seed (default: 0)" in text
    assert "--ranges" not in text
    for nothing in ("None", "False", "()", "(default: )"):
        assert nothing not in text
    groups = {part.split(":")[0]: part for part in text.split("\n\n")}
    files = "settings from files, which flags go before"
    assert "--out PATH" in groups["the run"]
    assert "--seed N" in groups["the run"]  # a heading may come again
    assert "--structures N" in groups["what to make"]
    assert "--box X" in groups["what to make"]
    assert "--preset NAME" in groups[files]
    assert [line.split()[0] for line in groups["exit codes"].splitlines()[1:]] == ["0", "1", "2", "130", "143"]


@pytest.mark.parametrize("preset", ["laptop", "paper"])
@pytest.mark.parametrize("script", ["simulate", "train", "anneal"])
def test_the_presets_fit_the_scripts(preset, script, monkeypatch):
    if not (ROOT / f"{script}.py").exists():
        pytest.skip(f"{script}.py is not there")
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.setattr(sys, "argv", [f"{script}.py"])
    module = __import__(script)
    config = parse(module.Config, ROOT, "", ["--preset", preset])
    if script == "simulate":
        assert (config.particles, config.box) == {"laptop": (27, 50.0), "paper": (91, 75.0)}[preset]
        module.check(config)


def test_a_number_or_a_word(run, capsys):
    assert run("--time", 3).time == 3.0
    assert run("--time", "auto").time == "auto"
    assert run(config="[simulate]\ntime = 'auto'").time == "auto"
    assert run("--time", 2, config="[simulate]\ntime = 'auto'").time == 2.0
    assert type(run(config="[simulate]\ntime = 3").time) is float
    with pytest.raises(ConfigError, match="time should be float or auto, found 'long'"):
        run(config="[simulate]\ntime = 'long'")
    with pytest.raises(ConfigError, match="time should be float, found True"):
        run(config="[simulate]\ntime = true")
    with pytest.raises(SystemExit):
        run("--time", "long")
    assert "argument --time: invalid float or auto value: 'long'" in capsys.readouterr().err


def test_only_errors_of_what_was_asked_for_count_as_settings():
    with pytest.raises(ConfigError, match="box"), settings():
        raise ValueError("box")
    with pytest.raises(DatasetError, match="damaged"), settings():
        raise DatasetError("damaged")
    with settings():
        pass
