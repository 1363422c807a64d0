"""What the two generators for systems work share: a teacher and Parquet shards of bags."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numba
import numpy as np
import pyarrow as pa
from pydantic import Field

from core.artifacts import write_json, write_parquet
from core.settings import Settings
from pipeline.synthetic.bayes import BayesMeter
from pipeline.synthetic.hashing import derive, normal, purpose_key

_VALUES_AT_ONCE = 20_000_000


class SystemsSettings(Settings):
    """What the *random* and the *trace* generator have in common."""

    rows: int = Field(100_000, ge=1)
    """Samples."""
    dense: int = Field(16, ge=0, le=10_000)
    """Dense features a sample, standard normal."""
    bag: int = Field(1, ge=1, le=10_000)
    """Ids in a bag; with ``bag_sizes: random``, at most so many."""
    bag_sizes: Literal["fixed", "random"] = "fixed"
    """``fixed``: every bag has ``bag`` ids; ``random``: uniformly 1 to ``bag``."""
    seed: int = Field(42, ge=0)
    """Draws and teacher; the same seed gives the same values."""
    shard_rows: int = Field(100_000, ge=1)
    """Most rows of one Parquet shard."""


Bag = tuple[np.ndarray, np.ndarray]
"""Offsets ``(rows + 1,)`` int32 and ids ``(offsets[-1],)`` int64."""


def shard_sizes(settings: SystemsSettings, tables: int) -> Iterator[int]:
    """Rows of each shard: at most ``shard_rows``, and 20 million values."""
    values = max(1, settings.dense + tables * settings.bag)
    step = min(settings.shard_rows, max(1, _VALUES_AT_ONCE // values))
    for first in range(0, settings.rows, step):
        yield min(step, settings.rows - first)


def draw_offsets(settings: SystemsSettings, random: np.random.Generator, rows: int) -> np.ndarray:
    """Offsets of ``rows`` bags, ``(rows + 1,)`` int32."""
    sizes = np.full(rows, settings.bag)
    if settings.bag_sizes == "random":
        sizes = random.integers(1, settings.bag + 1, rows)
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)


def write_shards(
    settings: SystemsSettings,
    tables: int,
    draw: Callable[[np.random.Generator, int], list[Bag]],
    folder: str | Path,
    advance: Callable[[float], None],
    described: dict[str, Any],
) -> dict[str, Any]:
    """Draws and writes every shard, then the manifest, which it returns.

    Columns: ``label`` int8, ``dense`` fixed-size list of float32 (if any), and ``C1`` to
    ``C<tables>``, lists of int64. The label is Bernoulli of a teacher: half of the logit's
    variance is linear in the dense features, half the sum over all bags of an effect that each id
    of each table has, so that a model can learn from either.

    Args:
        settings: sizes and seed.
        tables: number of bags a sample.
        draw: random state and a number of rows → a bag for each table; called shard by shard.
        folder: where to write; made if absent.
        advance: called with the number of rows written after each shard.
        described: what the manifest says besides.
    """
    folder = Path(folder)
    key = purpose_key(settings.seed, "systems effects")
    random = np.random.default_rng(np.random.SeedSequence(settings.seed))
    meter, shards = BayesMeter(), []
    for rows in shard_sizes(settings, tables):
        dense = random.standard_normal((rows, settings.dense), dtype=np.float32)
        bags = draw(random, rows)
        probability = _teach(key, dense, bags)
        label = (random.random(rows) < probability).astype(np.int8)
        meter.add(probability, label)
        columns: dict[str, pa.Array] = {"label": pa.array(label)}
        if settings.dense:
            columns["dense"] = pa.FixedSizeListArray.from_arrays(dense.ravel(), settings.dense)
        for table, (offsets, ids) in enumerate(bags):
            columns[f"C{table + 1}"] = pa.ListArray.from_arrays(offsets, ids)
        name = f"part-{len(shards):05d}.parquet"
        write_parquet(folder / name, pa.table(columns))
        shards.append({"file": name, "rows": rows})
        advance(rows)
    manifest = {
        **described,
        "settings": settings.model_dump(mode="json"),
        "rows": settings.rows,
        "shards": shards,
        "bayes": {"all": meter.scores()},
    }
    write_json(folder / "manifest.json", manifest)
    return manifest


def _teach(key: int, dense: np.ndarray, bags: list[Bag]) -> np.ndarray:
    """Probability of each row's label, ``(rows,)`` float32."""
    linear = np.zeros(len(dense))
    if dense.shape[1]:
        weights = np.array([normal(key, column) for column in range(dense.shape[1])])
        linear = dense @ (weights / np.sqrt((weights**2).sum()))
    effect = np.zeros(len(dense))
    for table, (offsets, ids) in enumerate(bags):
        effect += _bag_effects(key, 1_000_000 + table, offsets, ids)
    logit = 1.2 * linear + 1.2 * effect / np.sqrt(len(bags))
    return (1 / (1 + np.exp(-logit))).astype(np.float32)


@numba.njit(cache=True)
def _bag_effects(key, table, offsets, ids):
    """Sum of the ids' effects over the root of the bag's size, ``(rows,)``: variance 1."""
    table_key = derive(key, table)
    effects = np.empty(len(offsets) - 1)
    for row in range(len(effects)):
        total = 0.0
        for at in range(offsets[row], offsets[row + 1]):
            total += normal(table_key, ids[at])
        effects[row] = total / np.sqrt(offsets[row + 1] - offsets[row])
    return effects
