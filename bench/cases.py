"""All cases by name. A case is a function from a setting to rows; its first line is what --list says."""

from collections.abc import Callable, Iterable

import cases_anneal
import cases_data
import cases_gpu
import cases_medium
import cases_models
import cases_solve
import cases_walk
from measure import Row, Setting

CASES: dict[str, Callable[[Setting], Iterable[Row]]] = {
    "place": cases_medium.place,
    "voxelize": cases_medium.voxelize,
    "medium": cases_medium.medium,
    "label": cases_data.label,
    "images": cases_data.images,
    "anneal": cases_anneal.anneal,
    "walk": cases_walk.walk,
    "sass": cases_walk.machine_code,
    "one-percent": cases_walk.one_percent,
    "solve-64": cases_solve.solve_64,
    "solve-100": cases_solve.solve_100,
    "solve-150": cases_solve.solve_150,
    "solve-200": cases_solve.solve_200,
    "pores-100": cases_solve.pores_100,
    "size": cases_solve.by_size,
    "memory": cases_solve.memory,
    "models": cases_models.rates,
    "models-images": cases_models.images,
    "models-precision": cases_models.precision,
    "models-memory": cases_models.memory,
    "models-malloc": cases_models.malloc,
    "models-ranks": cases_models.ranks,
    "gpu-tests": cases_gpu.tests,
    "walk-ladder": cases_gpu.walk_ladder,
    "solve-ladder": cases_gpu.solve_ladder,
    "train": cases_gpu.train,
    "chains": cases_anneal.chains,
}
