"""Training from the first epoch to the last: what each met, the best network and the last one, and when to stop."""

import json
import math
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gpuion import events, files, training
from gpuion.baselines import Ridge
from gpuion.distributed import World
from gpuion.models import Model
from gpuion.predictor import Predictor, logarithm
from gpuion.training import Plan, Samples

Rows = list[dict[str, Any]]


def fit(
    net: Model, meta: dict[str, Any], parts: dict[str, Samples], plan: Plan, folder: Path, world: World,
    *, fresh: bool = True, patience: int = 0, tensorboard: bool = False,
) -> int:  # fmt: skip
    """Train from the start or from the last finished epoch; return how many samples were learnt from.

    Parameters
    ----------
    net : Model
        `fresh` if it is new; one that learnt before keeps its scales.
    meta : dict
        What checkpoints say about it.
    parts : dict of Samples
        `train` to learn from and `validation` to choose the best epoch by.
    folder : Path
        For `history.jsonl`, a row for each epoch as it ends, and the checkpoints `surrogate.pt` of the best and
        `last.pt` of the last one.
    patience : int
        Epochs without a better one after which to stop; 0 never does.
    tensorboard : bool
        Whether to write event files into the folder, too.
    """
    samples, validation, last = parts["train"], parts["validation"], folder / "last.pt"
    if fresh:
        training.calibrate(net, samples)
    optimizer = training.optimizer_for(net, plan)
    history: Rows = training.resume(last, net, optimizer) if last.exists() else []
    wrapped, before = training.parallel(net, world), len(history)
    tell = events.writer(folder, before) if tensorboard and world.is_main else None
    total, quiet = plan.epochs * len(samples), None if world.is_main else True
    with tqdm(total=total, initial=before * len(samples), unit=" samples", disable=quiet) as bar:
        while len(history) < plan.epochs and not _is_flat(history, patience):
            least = min((row["mse"] for row in history), default=math.inf)
            loss = training.train_epoch(
                wrapped, optimizer, samples, epoch=len(history), plan=plan, world=world, after=bar.update
            )
            found = training.metrics(training.predict(net, validation, world), validation.target)
            history.append({"epoch": len(history), "loss": loss, **found})
            bar.set_postfix(loss=f"{loss:.2e}", validation=f"{found['mse']:.2e}")
            if world.is_main:
                if found["mse"] < least:
                    training.save_checkpoint(folder / "surrogate.pt", net, {**meta, "metrics": found})
                # Through JSON, so that the file's bytes do not depend on where the run was taken up.
                rows = json.loads(json.dumps(history))
                training.save_checkpoint(last, net, meta, history=rows, optimizer=optimizer.state_dict())
                _write(history, folder)
                if tell:
                    tell(history[-1])
    if world.is_main:
        _write(history, folder)
    return (len(history) - before) * len(samples)


def solve(net: Ridge, meta: dict[str, Any], parts: dict[str, Samples], folder: Path, world: World) -> int:
    """Fit at once, each rank the same; return how many samples that took."""
    samples = parts["train"]
    with net.alone():
        loss = net.solve(samples.target, samples.inputs or net.prepare(samples.centers, samples.box, samples.diameter))
    found = training.metrics(training.predict(net, parts["validation"], world), parts["validation"].target)
    if world.is_main:
        training.save_checkpoint(folder / "surrogate.pt", net, {**meta, "metrics": found})
        _write([{"epoch": 0, "loss": loss, **found}], folder)
    return len(samples)


def doubt(net: Model, parts: dict[str, Samples], world: World) -> None:
    """Teach a trained model how sure it is, from its training and validation parts; image models stay without."""
    if isinstance(net, Predictor):
        validation = parts["validation"]
        with net.alone():
            net.doubt.measure(training.features(net, parts["train"]))
            error = logarithm(training.predict(net, validation, world)) - logarithm(validation.target)
            net.doubt.calibrate(training.features(net, validation), error)


def _write(history: Rows, folder: Path) -> None:
    """Write what was met in each epoch so far."""
    with files.atomic(folder / "history.jsonl") as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in history))


def _is_flat(history: Rows, patience: int) -> bool:
    """Return whether the last `patience` epochs were no better than the best one before them."""
    errors = [row["mse"] for row in history]
    return 0 < patience < len(errors) and min(errors[-patience:]) >= min(errors[:-patience])
