"""Round after round: anneal, label what was met, learn from that, anneal again, until what is predicted holds.

    python anneal.py --rounds 4 --data data/study --out runs/rounds
    torchrun --nproc-per-node 8 anneal.py --rounds 4 --data data/study --out runs/rounds

A round anneals on the network of the round before into `round-<k>`, and trains that network further, on the data and
on all rounds so far, into `model-<k>`. The loop ends when the winners, the best structure of each chain as the network
sees them, are predicted to within the network's own error: their MAPE is, in each direction, at most its MAPE on the
test part of the data that it was trained on. Each round begins with a seed of its own. rounds.json has a row for each
that is finished; stopped, the same command goes on within the one that is not, and more --rounds go on after the last.
"""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gpuion import files
from gpuion.checkpoints import PRETRAINED, fingerprint, load_surrogate
from gpuion.dataset import Dataset, open_dataset
from gpuion.distributed import World, start
from gpuion.errors import CheckpointError, ConfigError, DatasetError
from gpuion.training import metrics

NAME = "rounds.json"
_KEPT = ("model", "hidden", "pool", "voxels", "batch", "weight_decay", "precision")  # of the first training


def run(config: Any, search: Callable[[Any], None], train: Any) -> list[dict[str, Any]]:
    """Search and learn in turn; return the rows of rounds.json.

    Parameters
    ----------
    config : anneal.Config
        Of each search but for data, checkpoint, folder and seed.
    search : callable
        Makes a folder of labelled structures of such a configuration.
    train : module
        With `Config` and `learn`: train.py.

    Raises
    ------
    ConfigError
        Without a surrogate, with too few structures a round to learn from, or in a folder of another run.
    CheckpointError
        For a checkpoint that does not say how it was trained and how large its error is.
    """
    check(config)
    world, first = start(config.device), config.checkpoint or str(PRETRAINED)
    content = {"data": open_dataset(config.data).fingerprint, "checkpoint": fingerprint(load_surrogate(first))}
    with files.claim_folder(config.out, "anneal --rounds", config, world, content):
        path = config.out / NAME
        rows = _rows(path)
        for k in range(len(rows) + 1, config.rounds + 1):
            if rows and rows[-1]["agreed"]:
                break
            rows.append(_round(config, search, train, world, k, first))
            if world.is_main:
                files.write_json(path, rows)
                print(_line(rows[-1]))
            world.barrier()
        if world.is_main:
            ending = "agree" if rows[-1]["agreed"] else "do not agree yet"
            print(f"after {len(rows)} rounds predicted and exact D* of the winners {ending}; {config.out / NAME}")
    world.close()
    return rows


def check(config: Any) -> None:
    """Raise ConfigError for what rounds cannot do."""
    if config.score != "surrogate":
        raise ConfigError("rounds train a surrogate, and --score exact has none: leave out one of the two")
    if config.force:
        raise ConfigError("rounds train a surrogate of the data's cell: leave out --force, or --rounds")
    if config.objective != "mean":
        raise ConfigError(
            f"rounds learn D*, and judge winners by its mean, not by objective {config.objective!r}: leave out "
            "--rounds, anneal once, and train with train.py on what was labelled"
        )
    made = len(config.goals) * config.chains  # in each round, at least
    if made < 5:
        raise ConfigError(
            f"rounds learn from 5 structures or more each, and {config.chains} chains each way have {made} winners: "
            f"give --chains {math.ceil(5 / len(config.goals))} or more"
        )


def _round(
    config: Any, search: Callable[[Any], None], train: Any, world: World, k: int, first: str
) -> dict[str, Any]:  # fmt: skip
    """Anneal, label and learn once more, the k-th time; return what came of it."""
    found = [str(config.out / f"round-{j}") for j in range(1, k + 1)]
    before = first if k == 1 else str(config.out / f"model-{k - 1}" / "surrogate.pt")
    old = load_surrogate(before)
    limit = _own_error(old.meta, before)
    again = {"data": (*config.data, *found[:-1]), "checkpoint": before, "out": Path(found[-1])}
    search(dataclasses.replace(config, **again, seed=config.seed + k - 1, rounds=0))
    world.barrier()  # rank 0 has written the last of it
    model = config.out / f"model-{k}"
    train.learn(learning(train.Config, old.meta, config, (*config.data, *found), before, model))
    world.barrier()
    labelled = dataclasses.replace(open_dataset(found[-1]), d_reference=old.meta["d_reference"])
    held, told = files.read_json(model / "metrics.json"), files.read_json(model / "predictions.json")
    name = f"test of {found[-1]}"
    apart = torch.tensor([i for i, part in zip(told["id"], told["split"], strict=True) if part == name])
    won = winners(labelled, config)
    return {
        "round": k,
        "own_mape": limit,
        "winners": won,
        "agreed": all(row["mape"] <= limit for row in won.values()),
        "annealed": {"structures": len(labelled), **_errors(labelled.subset(labelled.settled))},
        "held_out": {"structures": len(apart), "before": _errors(labelled.subset(apart)), "after": held[name]},
        "test_mape": held["test"]["mape"],
    }


def _rows(path: Path) -> list[dict[str, Any]]:
    """Return the rounds that are finished."""
    rows: list[dict[str, Any]] = files.read_json(path, list) if path.exists() else []
    if not all(isinstance(row, dict) and isinstance(row.get("agreed"), bool) for row in rows):
        raise DatasetError(f"{path} is damaged; choose another --out or remove {path.parent}")
    return rows


def learning(kind: Any, meta: dict[str, Any], config: Any, data: tuple[str, ...], before: str, out: Path) -> Any:
    """Return the configuration of a training like the one that made a network, from its weights, on other data."""
    held = meta["config"]
    kept = {name: held[name] for name in _KEPT if name in held} | {"widths": tuple(held.get("widths", ()))}
    return kind(
        **kept, data=data, checkpoint=before, out=out, epochs=config.epochs, learning_rate=config.learning_rate,
        seed=config.seed, device=config.device,
    )  # fmt: skip


def winners(found: Dataset, config: Any) -> dict[str, dict[str, float]]:
    """Return for each direction how far off the predictions of the chains' best are, and the best of them.

    A selection has the chains' best first. `predicted` is the best predicted D* and `exact` that structure's own;
    `best` is the best exact D*.
    """
    rows = {}
    for d, goal in config.goals.items():
        kind = torch.from_numpy(found.family == f"annealed-{goal.family}").nonzero()[: config.chains, 0]
        part = found.subset(kind[found.settled[kind]])
        assert part.predicted is not None
        most = torch.argmax if goal.maximize else torch.argmin
        top = int(most(part.predicted))
        rows[d] = {
            "mape": _errors(part)["mape"], "predicted": float(part.predicted[top]), "exact": float(part.d_star[top]),
            "best": float(part.d_star[most(part.d_star)]),
        }  # fmt: skip
    return rows


def _own_error(meta: dict[str, Any], path: str) -> float:
    """Return a network's MAPE on its test part, %."""
    test = meta.get("metrics", {}).get("test", {})
    if "mape" not in test or "config" not in meta:
        raise CheckpointError(
            f"{path} does not say how it was trained and tested; rounds begin with what a finished train.py wrote"
        )
    return float(test["mape"])


def _errors(found: Dataset) -> dict[str, float]:
    assert found.predicted is not None
    return metrics(found.predicted, found.d_star)


def _line(row: dict[str, Any]) -> str:
    """Return a round in words."""
    ways = "; ".join(
        f"{d}: best predicted {x['predicted']:.4f}, exact {x['exact']:.4f}, winners' MAPE {x['mape']:.2f}%"
        for d, x in row["winners"].items()
    )
    apart, all_ = row["held_out"], row["annealed"]
    old, new = apart["before"], apart["after"]
    return (
        f"round {row['round']}: {ways}; the network's own error {row['own_mape']:.2f}%\n"
        f"  {all_['structures']} annealed: MAPE {all_['mape']:.2f}%, R {all_['r']:.4f}; {apart['structures']} of them "
        f"held out: MAPE {old['mape']:.2f}% before learning and {new['mape']:.2f}% after, R {old['r']:.4f} and "
        f"{new['r']:.4f}; the data's test part {row['test_mape']:.2f}%"
    )
