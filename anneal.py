"""Anneal structures to the highest and the lowest diffusivity a surrogate predicts, and label them exactly.

    python anneal.py --data runs/data --checkpoint runs/model/surrogate.pt --out runs/annealed
    torchrun --nproc-per-node 8 anneal.py --data runs/data --checkpoint runs/model/surrogate.pt

The chains' best structures and others that they visited, uniform in predicted D* beyond the extreme of the first
--data folder, go to the exact solver and into shards: `train.py --data runs/data runs/annealed` learns from both.
Stopped, the same command goes on from the last whole cycle and batch of labels. summary.json and traces.json say how it
went.

With --score exact the chains go by the exact solver itself: slow, for the last steps of the best ones. --objective is
after a wanted D*, one axis or even axes; --exchange 6 lets six chains a run exchange temperatures instead of cooling;
--rounds 4 trains the network on what was labelled, and anneals again.
"""

if __name__ == "__main__":  # before torch, which takes seconds to load: a stop meanwhile is one line, too
    from gpuion.errors import expect_stops

    expect_stops()

import dataclasses
import time
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

import gpuion
from gpuion import dry_run, files, ladders, objectives, outcome, rounds, timing
from gpuion.annealing import anneal, check_settings
from gpuion.capacity import check_memory
from gpuion.chains import load_state, load_states, save_state
from gpuion.checkpoints import PRETRAINED
from gpuion.checks import FINEST
from gpuion.config import check_least, option, parse, settings
from gpuion.distributed import World, start
from gpuion.errors import ConfigError, run_script
from gpuion.models import Model
from gpuion.relabel import foreseen, join, select, write_labels
from gpuion.scoring import chain_bytes, score_of
from gpuion.starts import check_apart, check_fit, check_goals, check_starts, extreme, starts_of
from gpuion.training import fingerprint

CYCLES = {"max": 50, "min": 100}  # the paper's


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What to anneal and how."""

    data: tuple[str, ...] = option(
        (), "folders of labelled structures, which must be given; the first has the unit of D*", group="files"
    )
    checkpoint: str = option(
        "", "the surrogate, a file of train.py; the one that comes with gpuion if not given", metavar="PATH"
    )
    out: Path = option(Path("runs/annealed"), "folder for shards, traces and summary", identity=False)
    objective: str = option("mean", "what of D* to go by", choices=tuple(objectives.DIRECTIONS), group="the aim")
    target: float | None = option(None, "the D* that objective target is after")
    caution: float = option(
        0.0, "standard deviations by which a prediction counts as worse than it says; 10 times as slow on a CPU"
    )
    direction: str = option("both", "anneal this way only", flags={"--maximize": "max", "--minimize": "min"})
    chains: int = option(10, "independent runs a direction", group="the chains")
    cycles: int | None = option(None, "cycles of falling temperature; 50 up and 100 down if not given")
    steps: int = option(2500, "moves proposed a cycle and chain")
    temperature: float = option(9.8e-3, "temperature of the first cycle, in units of the objective")
    cooling: float = option(0.9, "factor on the temperature from cycle to cycle")
    exchange: int = option(1, "chains of each run, at temperatures that they exchange instead of cooling; 1: none")
    exchange_every: int = option(10, "steps between two exchanges")
    score: str = option("surrogate", "what to anneal on: surrogate or exact solve", choices=("surrogate", "exact"))
    start: str = option(
        "random", "fresh random structures, the data's best ones, or fresh ones led along the gradient of D",
        choices=("random", "data", "ascent"), aliases=("start_from",),  # torchrun takes --start for one of its own
    )  # fmt: skip
    relabel: int = option(200, "structures a direction to label besides the runs' best", group="labels")
    relabel_min: int | None = option(None, "the same downwards, if it is another number")
    samples: int = option(25, "visited structures kept a cycle and chain, to choose from")
    tolerance: float = option(1e-3, "relative error of the exact labels")
    batch: int = option(8, "structures the surrogate scores at once; fewer are filled up")
    rounds: int = option(0, "rounds of this and of learning from it, at most; 0: this once", identity=False)
    epochs: int = option(3, "with --rounds: epochs of each retraining, from the last weights", identity=False)
    learning_rate: float = option(1e-3, "with --rounds: largest learning rate of a retraining", identity=False)
    force: bool = option(False, "use a checkpoint of another box, diameter, number of spheres or unit of D*")
    seed: int = option(0, "seed of start structures, moves and choice", group="the run")
    device: str = option("auto", "auto, cpu or cuda", identity=False)
    dry_run: bool = option(False, "say what would be done, in what time and memory, and write nothing", identity=False)

    @property
    def goals(self) -> dict[str, objectives.Objective]:
        """The directions to go and the objective of each."""
        return objectives.goals(self.objective, self.direction, self.target, self.caution)

    def cycles_of(self, direction: str) -> int:
        """Return the number of cycles in a direction."""
        return CYCLES[direction] if self.cycles is None else self.cycles

    def ids(self, world: World, direction: str) -> Tensor:
        """Return this rank's chain ids: even ones go up and odd ones down, so that they share no draws."""
        runs = torch.arange(self.chains, device=world.device)[world.rank :: world.size, None] * self.exchange
        return 2 * (runs + torch.arange(self.exchange, device=world.device)).flatten() + (direction == "min")


def main() -> None:
    """Read the command line; search once, or in rounds."""
    config = parse(Config, Path(__file__).parent, __doc__ or "")
    check(config)
    if config.rounds and not config.dry_run:
        import train  # the script beside this one

        rounds.run(config, search, train)
    else:
        search(config)


def search(config: Config) -> None:
    """Anneal, choose, label, report."""
    world = start(config.device)
    data, net, goals = gpuion.open_dataset(config.data), None, config.goals
    content = {"data": data.fingerprint}
    if config.score == "surrogate":
        checkpoint = config.checkpoint or PRETRAINED
        net = gpuion.load_surrogate(checkpoint, world.device)
        check_fit(net.meta, data, checkpoint, force=config.force)
        net.is_forced = config.force
        content["checkpoint"] = fingerprint(net)
    members = config.chains * config.exchange
    check_starts(data, members if config.start == "data" else 0)
    check_goals(goals, data, net)
    if config.start == "data":
        check_apart(data, goals.values(), members)
    if config.dry_run:
        dry_run.anneal(config, data, net, goals, world)
        return
    kept = {d: config.cycles_of(d) * min(config.samples, config.steps) for d in goals}
    check_memory(members, data.centers.shape[1], kept, world.size, world.device, chain_bytes(net, data, goals.values()))
    with files.claim_folder(config.out, "anneal", config, world, content):
        for d, goal in goals.items():
            began = time.perf_counter()
            count = run(config, world, data, net, goal)
            timing.tell(config.out, d, count=count, unit="proposals", began=began, world=world)
        results = {d: load_states(config.out.glob(f"state-{d}-*.pt")) for d in goals}
        known = gpuion.open_dataset(config.data[:1])  # the original data; the other folders may be of annealing, too
        limits = {d: extreme(known, maximize=goal.maximize, objective=goal) for d, goal in goals.items()}
        wanted = {"max": config.relabel, "min": config.relabel if config.relabel_min is None else config.relabel_min}
        chosen = [
            select(
                results[d], wanted[d], limit=limits[d], maximize=goal.maximize, seed=config.seed, family=goal.family,
                replicas=config.exchange,
            ) for d, goal in goals.items()
        ]  # fmt: skip
        began = time.perf_counter()
        count = write_labels(
            foreseen(join(chosen), net, goal, data, config.batch, world.device), config.out, world, like=data,
            tolerance=config.tolerance, seed=config.seed, config=files.identity(config),
        )  # fmt: skip
        timing.tell(config.out, "label", count=count, unit="structures", began=began, world=world)
        if world.is_main:
            outcome.report(config.out, results, goals, limits)
    world.close()


def check(config: Config) -> None:
    """Refuse what cannot be done before any work."""
    if not config.data:
        raise ConfigError("give --data FOLDER (of simulate.py)")
    check_least(config, chains=1, relabel=0, relabel_min=0, batch=1, seed=0, exchange=1, exchange_every=1, rounds=0)
    if config.rounds:
        rounds.check(config)
    if not FINEST <= config.tolerance < 1:
        raise ConfigError(f"tolerance must lie in [{FINEST}, 1), got {config.tolerance}")
    for d in config.goals:
        cycles = config.cycles_of(d)
        with settings():
            check_settings(cycles, config.steps, config.samples, config.temperature, config.cooling)
        if config.exchange > 1 and (cycles == 1 or config.cooling == 1):
            raise ConfigError("exchange spans the temperatures of a cooling: give cycles above 1 and cooling below 1")


def run(config: Config, world: World, data: gpuion.Dataset, net: Model | None, goal: objectives.Objective) -> int:
    """Anneal this rank's chains in a direction; leave their state in files and return the proposals made."""
    d, mine = goal.direction, f"{goal.direction}-{world.rank}of{world.size}.pt"
    for other in config.out.glob("state-*.pt"):
        if not other.stem.endswith(f"of{world.size}"):
            raise ConfigError(f"{other} is of another number of processes; start as many again to go on")
    score, cycles = score_of(net, data, goal, config.batch, config.tolerance), config.cycles_of(d)
    heat = ladders.fit(  # between the first and the last temperature of a cooling
        config.out / f"ladder-{d}.json", score, data, goal, world, replicas=config.exchange, high=config.temperature,
        low=config.temperature * config.cooling ** (cycles - 1), steps=max(50, config.steps // 20), seed=config.seed,
    )  # fmt: skip
    ids, path = config.ids(world, d), config.out / f"state-{mine}"
    if not len(ids):
        return 0  # more processes than chains
    state = load_state(path, world.device) if path.exists() else None
    done, proposals = 0 if state is None else state.cycles, config.steps * len(ids)
    first = starts_of(config.out / f"start-{mine}", data, ids, config.start, goal, seed=config.seed, net=net)
    with tqdm(
        total=cycles * proposals, initial=done * proposals, desc=d, unit=" proposals", unit_scale=True,
        disable=None if world.is_main else True,
    ) as bar:  # fmt: skip
        anneal(
            score, first, box=data.box, diameter=data.diameter, cycles=cycles, steps=config.steps, seed=config.seed,
            maximize=goal.maximize, temperature=config.temperature if heat is None else heat,
            cooling=config.cooling if heat is None else 1.0, replicas=config.exchange, every=config.exchange_every,
            ids=ids, samples=config.samples, state=state, progress=bar.update,
            save=lambda state: save_state(path, state, first=state.cycles - 1),
        )  # fmt: skip
    return (cycles - done) * proposals


if __name__ == "__main__":
    run_script(main)
