"""Anneal structures to the highest and the lowest diffusivity a surrogate predicts, and label them exactly.

    python anneal.py --data runs/data --checkpoint runs/model/surrogate.pt --out runs/annealed
    torchrun --nproc-per-node 8 anneal.py --data runs/data --checkpoint runs/model/surrogate.pt

The chains' best structures and others that they visited, uniform in predicted D* beyond the data's extreme,
go to the exact solver and into shards: `train.py --data runs/data runs/annealed` learns from both. Stopped,
the same command goes on from the last whole cycle and batch of labels. summary.json and traces.json say how it went.
With --score exact the chains go by the exact solver itself: slow, for the last steps of the best ones. The shards
then hold no predictions.
"""

if __name__ == "__main__":  # before torch, which takes seconds to load: a stop meanwhile is one line, too
    from gpuion.errors import expect_stops

    expect_stops()

import dataclasses
import time
from pathlib import Path

import torch
from tqdm import tqdm

import gpuion
from gpuion import files, timing, work
from gpuion.annealing import AnnealResult, anneal, check_settings
from gpuion.chains import load_state, load_states, save_state
from gpuion.config import option, parse
from gpuion.dataset import write_shard, write_summary
from gpuion.distributed import World, start
from gpuion.errors import ConfigError, run_script
from gpuion.relabel import Selection, compare, exact_score, join, relabel, select, surrogate_score, with_prediction
from gpuion.shards import is_whole
from gpuion.starts import check_fit, check_starts, extreme, starts
from gpuion.training import fingerprint, metrics

CYCLES = {"max": 50, "min": 100}  # the paper's
SHARD = 16  # structures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What to anneal and how."""

    data: tuple[str, ...] = option((), "folders of labelled structures; the first has the unit of D*")
    checkpoint: str = option("", "the surrogate, a file of train.py")
    out: Path = option(Path("runs/annealed"), "folder for shards, traces and summary", identity=False)
    direction: str = option("both", "anneal this way only", flags={"--maximize": "max", "--minimize": "min"})
    chains: int = option(10, "independent runs a direction")
    cycles: int | None = option(None, "cycles of falling temperature; 50 up and 100 down if not given")
    steps: int = option(2500, "moves proposed a cycle and chain")
    temperature: float = option(9.8e-3, "temperature of the first cycle, in units of D*")
    cooling: float = option(0.9, "factor on the temperature from cycle to cycle")
    score: str = option("surrogate", "what to anneal on: surrogate or exact solve", choices=("surrogate", "exact"))
    start: str = option("random", "fresh random structures, or the data's extremes", choices=("random", "data"))
    relabel: int = option(200, "visited structures a direction to label besides the chains' best")
    relabel_min: int | None = option(None, "the same downwards, if it is another number")
    samples: int = option(25, "visited structures kept a cycle and chain, to choose from")
    tolerance: float = option(1e-3, "relative error of the exact labels")
    batch: int = option(8, "structures the surrogate scores at once; fewer are filled up")
    force: bool = option(False, "use a checkpoint of another box, diameter, number of spheres or unit of D*")
    seed: int = option(0, "seed of start structures, moves and choice")
    device: str = option("auto", "auto, cpu or cuda", identity=False)

    @property
    def directions(self) -> dict[str, int]:
        """The directions to go and their numbers of cycles."""
        go = CYCLES if self.direction == "both" else {self.direction: CYCLES[self.direction]}
        return {d: cycles if self.cycles is None else self.cycles for d, cycles in go.items()}


def main() -> None:
    """Anneal, choose, label, report."""
    config = parse(Config, Path(__file__).parent, __doc__ or "")
    check(config)
    world = start(config.device)
    data, net = gpuion.open_dataset(config.data), None
    content = {"data": data.fingerprint}
    if config.score == "surrogate":
        net = gpuion.load_surrogate(config.checkpoint, world.device)
        check_fit(net.meta, data, config.checkpoint, force=config.force)
        content["checkpoint"] = fingerprint(net)
    check_starts(data, config.chains if config.start == "data" else 0)
    files.claim_folder(config.out, "anneal", config, world, content)
    for direction in config.directions:
        began = time.perf_counter()
        count = run(config, world, data, net, direction)
        timing.tell(config.out, direction, count=count, unit="proposals", began=began, world=world)
    results = {d: load_states(config.out.glob(f"state-{d}-*.pt")) for d in config.directions}
    wanted = {"max": config.relabel, "min": config.relabel if config.relabel_min is None else config.relabel_min}
    chosen = [
        select(result, wanted[d], limit=extreme(data, maximize=d == "max"), maximize=d == "max", seed=config.seed)
        for d, result in results.items()
    ]
    selection = join(chosen)
    if net is None:  # the scores are the exact solver's, no network's
        selection = dataclasses.replace(selection, predicted=torch.full_like(selection.predicted, torch.nan))
    began = time.perf_counter()
    count = write_labels(config, world, data, selection)
    timing.tell(config.out, "label", count=count, unit="structures", began=began, world=world)
    if world.is_main:
        report(config, data, results)
    world.close()


def check(config: Config) -> None:
    """Refuse what cannot be done before any work."""
    if not config.data or (config.score == "surrogate" and not config.checkpoint):
        raise ConfigError("give --data FOLDER (of simulate.py) and --checkpoint FILE (of train.py)")
    for name, least in {"chains": 1, "relabel": 0, "relabel_min": 0, "batch": 1, "seed": 0}.items():
        if getattr(config, name) is not None and getattr(config, name) < least:
            raise ConfigError(f"{name} must be at least {least}, got {getattr(config, name)}")
    if not 0 < config.tolerance < 1:
        raise ConfigError(f"tolerance must lie between 0 and 1, got {config.tolerance}")
    if config.direction not in {"both", *CYCLES} or config.start not in {"random", "data"}:
        raise ConfigError(f"direction {config.direction!r} or start {config.start!r} is unknown; see --help")
    for cycles in config.directions.values():
        check_settings(cycles, config.steps, config.samples, config.temperature, config.cooling)


def run(config: Config, world: World, data: gpuion.Dataset, net: gpuion.Surrogate | None, direction: str) -> int:
    """Anneal this rank's chains in a direction; leave their state in files and return the proposals made."""
    path = config.out / f"state-{direction}-{world.rank}of{world.size}.pt"
    for other in config.out.glob("state-*.pt"):
        if not other.stem.endswith(f"of{world.size}"):
            raise ConfigError(f"{other} is of another number of processes; start as many again to go on")
    # Even ids go up and odd ones down, so that the two directions share no draws.
    ids = 2 * torch.arange(config.chains, device=world.device)[world.rank :: world.size] + (direction == "min")
    if not len(ids):
        return 0  # more processes than chains
    state = load_state(path, world.device) if path.exists() else None
    done, cycles = 0 if state is None else state.cycles, config.directions[direction]
    score = exact_score(data, config.tolerance) if net is None else surrogate_score(net, data, config.batch)
    first = starts(data, ids, config.start, maximize=direction == "max", seed=config.seed)
    proposals = config.steps * len(ids)
    with tqdm(
        total=cycles * proposals, initial=done * proposals, desc=direction, unit=" proposals",
        unit_scale=True, disable=None if world.is_main else True,
    ) as bar:  # fmt: skip
        anneal(
            score, first, box=data.box, diameter=data.diameter, cycles=cycles, steps=config.steps,
            maximize=direction == "max", temperature=config.temperature, cooling=config.cooling, seed=config.seed,
            ids=ids, samples=config.samples, state=state, progress=bar.update,
            save=lambda state: save_state(path, state, first=state.cycles - 1),
        )  # fmt: skip
    return (cycles - done) * proposals


def write_labels(config: Config, world: World, data: gpuion.Dataset, chosen: Selection) -> int:
    """Solve the chosen structures exactly, each rank its share of what is not there yet; return how many."""
    parts, disable = torch.arange(len(chosen.chain)).split(SHARD), None if world.is_main else True
    made_as, made = files.identity(config), [0]
    for k in tqdm(range(world.rank, len(parts), world.size), desc="label", unit=" shards", disable=disable):
        path = config.out / f"shard-{k:05d}.h5"
        if not is_whole(path, parts[k].numpy()):
            found = relabel(chosen, parts[k], path, lambda new, _: made.append(new), like=data, device=world.device,
                            tolerance=config.tolerance, mark=files.fingerprint(made_as))  # fmt: skip
            write_shard(path, found, seed=config.seed, config=made_as)
        work.drop(path)
    return sum(made)


def report(config: Config, data: gpuion.Dataset, results: dict[str, AnnealResult]) -> None:
    """Write dataset.json, traces.json and summary.json; print what was found."""
    found = gpuion.open_dataset(sorted(config.out.glob("shard-*.h5")))
    write_summary(config.out, found)
    summary = {"all": {"structures": len(found), **errors(found)}}
    for d in results:
        part = found.subset(torch.from_numpy(found.family == f"annealed-{d}"))
        numbers = compare(part, extreme(data, maximize=d == "max"), maximize=d == "max")
        summary[d] = {**numbers, "structures": len(part), **errors(part)}
        line = "best predicted D* {predicted:.4f}, exact {exact:.4f}; " if "predicted" in numbers else ""
        print(f"{d}: {line}best exact D* {{best:.4f}}, {{ratio:.3f}} of the data's {{data:.4f}}".format(**numbers))
    names = ("ids", "trace", "best_trace", "acceptance")
    traces = {d: {k: getattr(r, k).tolist() for k in names} for d, r in results.items()}
    files.write_json(config.out / "traces.json", traces)
    files.write_json(config.out / "summary.json", summary)
    if "mape" in summary["all"]:
        ways = ", ".join(f"{d} {summary[d]['r']:.4f}" for d in results)
        line = "{structures} annealed structures: MAPE {mape:.2f}%, R {r:.4f}".format(**summary["all"])
        print(f"{line} ({ways})")
    else:
        print(f"{len(found)} annealed structures, by the exact solver")
    if found.converged is not None and not bool(found.converged.all()):
        print(f"{int((~found.converged).sum())} exact solves did not settle; see `converged` in the shards")


def errors(found: gpuion.Dataset) -> dict[str, float]:
    """Return MSE, MAPE and R of what the surrogate predicted, nothing if it predicted nothing."""
    foreseen = with_prediction(found)
    if foreseen is None or foreseen.predicted is None:
        return {}
    return metrics(foreseen.predicted, foreseen.d_star)


if __name__ == "__main__":
    run_script(main)
