"""Golden loss curves: the first losses of every model on a small log, as JSON files.

    python -m tests.golden.curves              # says what differs
    python -m tests.golden.curves --write dlrm # writes those curves anew

A change that should not change what is learned has to reproduce them. Where one should, write them
anew and say so in the commit.
"""

import argparse
import itertools
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from core.artifacts import read_json, write_json
from core.merlin import ColumnSchema, Schema, Tags
from tests.training import click_log
from tests.training.session_examples import random_sessions, session_schema, write_sessions
from training import ranking, sessions
from training.batches import Batches
from training.engine import EngineSettings, prepare, seed_all
from training.schedule import rate_factor
from training.sessions.fitting import observe
from training.sessions.neural_settings import NextItemSettings
from training.step import Step

FOLDER = Path(__file__).parent
STEPS = 20
TOLERANCE = 1e-5
"""Relative, of each loss: what another CPU's order of additions may change."""

SMALL = {"embedding_dim": 8, "dropout": 0.1}
RANKING = {
    "dlrm": {**SMALL, "bottom_mlp": [16], "top_mlp": [16, 8]},
}
"""Click models with settings; those that are not named here have their defaults."""
SESSIONS = {"d_model": 16, "layers": 1, "heads": 2, "max_length": 8, "side_features": None}
"""Settings of session models, as far as a model has them."""
TASKS = {"xlnet_plm": ("xlnet", {"masking": "plm"}), "xlnet_rtd": ("xlnet", {"masking": "rtd"})}
"""Curves of a session model's other training tasks."""


def names() -> list[str]:
    """Every model that learns by gradient."""
    learning = [
        name
        for name in sessions.MODELS
        if issubclass(sessions.settings_class(name), NextItemSettings)
    ]
    return [*ranking.MODELS, *learning, *TASKS]


def losses(name: str, folder: Path, epochs: int = 1) -> list[float]:
    """The losses of the first steps, made in the engine's way on one thread.

    Args:
        folder: an empty one, for the log.
        epochs: of ``STEPS`` steps each, over the same rows.
    """
    threads = torch.get_num_threads()
    try:
        make = _ranking if name in ranking.MODELS else _sessions
        return _train(*make(name, folder), epochs)
    finally:
        torch.set_num_threads(threads)


def _ranking(name: str, folder: Path) -> tuple[torch.nn.Module, Batches, EngineSettings]:
    schema = click_log.schema()
    click_log.write(folder / "train", STEPS * 32, seed=1)
    kind = ranking.settings_class(name)
    if "objectives" in kind.model_fields:
        schema = _with_second_label(schema, folder / "train")
    settings = EngineSettings(batch_size=32, seed=1, threads=1, warmup_steps=5)
    model = ranking.build(name, schema, kind(**RANKING.get(name, {})), seed=1)
    return model, Batches(folder / "train", schema, 32, seed=1), settings


def _with_second_label(schema: Schema, split: Path) -> Schema:
    """Adds ``bought``: a click whose first number is positive."""
    for file in split.glob("*.parquet"):
        log = pq.read_table(file)
        bought = pc.and_(pc.equal(log["label"], 1), pc.greater(log["I1"], 0)).cast("int8")
        pq.write_table(log.append_column("bought", bought), file, row_group_size=64)
    tags = [Tags.TARGET, Tags.BINARY_CLASSIFICATION]
    return Schema([*schema, ColumnSchema("bought", dtype="int8", tags=tags)])


def _sessions(curve: str, folder: Path) -> tuple[torch.nn.Module, Batches, EngineSettings]:
    name, task = TASKS.get(curve, (curve, {}))
    schema = session_schema("category", "price")
    write_sessions(folder / "train", random_sessions(STEPS * 16, seed=1))
    rates = {"learning_rate": 2e-3, "table_learning_rate": 1e-2, "warmup_steps": 5}
    usual = {**sessions.ENGINE_DEFAULTS, **rates, "epochs": 8, "batch_size": 16, "seed": 1}
    settings = EngineSettings(**usual, threads=1)
    seed_all(1)
    known = sessions.settings_class(name).model_fields
    small = {key: value for key, value in SESSIONS.items() if key in known}
    model = sessions.build(name, schema, {**small, **task})
    batches = Batches(folder / "train", schema, 16, columns=model.columns, seed=1)
    if model.observes_first:
        observe(model, batches)
    return model, batches, settings


def _train(
    model: torch.nn.Module, batches: Batches, settings: EngineSettings, epochs: int
) -> list[float]:
    settings = prepare(model, batches, None, settings.model_copy(update={"device": "cpu"}))
    step = Step(model, settings)
    model.train(True)
    curve: list[float] = []
    for batch in itertools.chain.from_iterable(itertools.repeat(batches, epochs)):
        batch = step.prepare(batch, rate_factor(len(curve), epochs * STEPS, settings))
        loss = step.forward(batch)
        curve.append(loss.item())
        step.backward(loss)
        step.update()
    return curve


def file_of(name: str) -> Path:
    """Where a model's curve stands."""
    return FOLDER / f"{name}.json"


def difference(name: str, found: list[float]) -> str:
    """Where a curve leaves the golden one; empty if it does not."""
    if not file_of(name).is_file():
        return f"no curve yet; write it: python -m tests.golden.curves --write {name}"
    golden = read_json(file_of(name))["losses"]
    if len(golden) != len(found):
        return f"{len(found)} losses, {len(golden)} expected"
    for step, (now, then) in enumerate(zip(found, golden, strict=True)):
        if not math.isclose(now, then, rel_tol=TOLERANCE):
            return f"step {step + 1}: loss {now:.8f}, {then:.8f} expected"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", nargs="*", metavar="MODEL", help="no name: all of them")
    options = parser.parse_args(arguments)
    bad = 0
    for name in options.write or names():
        with tempfile.TemporaryDirectory() as folder:
            found = losses(name, Path(folder))
        if options.write is not None:
            write_json(file_of(name), {"model": name, "losses": found})
            print(f"{name}: written, {found[0]:.4f} to {found[-1]:.4f}")
            continue
        fault = difference(name, found)
        bad += bool(fault)
        print(f"{name}: {fault or 'as before'}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
