"""What every process of tests/training/test_distributed.py runs: trainings, as JSON says."""

import json
import os
import signal
import sys
from pathlib import Path

from core.errors import UserError
from tests.training import click_log
from tests.training.session_examples import session_schema
from training import ranking, sessions
from training.batches import Batches
from training.distributed import ranks
from training.engine import EngineSettings, fit, seed_all
from training.ranking.dlrm import DLRMSettings
from training.ranking.fm import FMSettings
from training.ranking.mmoe import MMoESettings
from training.tables.storage import tables_in

BATCH, VALID_BATCH = 32, 64


def model_and_schema(family):
    seed_all(3)
    if family == "sessions":
        schema = session_schema("category", "price")
        small = {"d_model": 16, "layers": 1, "heads": 2, "dropout": 0.0, "max_length": 6}
        small["side_features"] = None
        model = sessions.build("xlnet", schema, small)
        return model, schema, model.columns
    if family == "richer":
        schema = click_log.richer_schema()
        small = MMoESettings(embedding_dim=8, experts=2, expert_mlp=[16], dropout=0.0)
        return ranking.build("mmoe", schema, small), schema, schema.column_names
    if family == "linear":
        schema = click_log.schema()
        return ranking.build("fm", schema, FMSettings(embedding_dim=8)), schema, schema.column_names
    normalisation = "batch" if family == "normalised" else "none"
    small = DLRMSettings(
        embedding_dim=8,
        bottom_mlp=[16],
        top_mlp=[16],
        dropout=0.0,
        normalisation=normalisation,
    )
    schema = click_log.schema()
    return ranking.build("dlrm", schema, small), schema, schema.column_names


def train(run):
    """One training, in this process's share of it; what it found."""
    # Each process has its own files of what it holds of the tables, as a stage gives them.
    scratch = Path(run["folder"], f"process-{ranks.rank()}")
    with tables_in(scratch if run["settings"].get("tables_out_of_core") else None):
        return fitted(run)


def fitted(run):
    model, schema, columns = model_and_schema(run["family"])
    processes = {"rank": ranks.rank(), "world_size": ranks.world_size()}
    base = {"device": "cpu", "epochs": 2, "batch_size": BATCH, "validate_every_steps": 3}
    base |= {"patience": None, "checkpoint_every_steps": 4, "threads": 1}
    settings = EngineSettings(**{**base, **run["settings"]})
    splits = [Path(run["features"]) / name for name in ("train", "valid")]
    batches = Batches(splits[0], schema, BATCH, columns, chunk_rows=100, **processes)
    valid = Batches(splits[1], schema, VALID_BATCH, columns, shuffle=False, **processes)
    disturb(model, **run.get("disturb", {}))
    result = fit(model, batches, valid, settings, run["folder"])
    return {"history": result.history, "best_step": result.best_step}


def disturb(model, step=None, rank=None, how=None):
    """Has this process killed, stopped or fail while it computes a step's loss."""
    if rank != ranks.rank():
        return
    steps, loss = [], model.loss

    def disturbed(batch):
        steps.append(1)
        if len(steps) == step:
            if how == "fail":
                raise OSError(28, "No space left on device")
            if how == "nan":
                batch[0]["I2"][0] = float("nan")
            else:
                os.kill(os.getpid(), getattr(signal, how))
        return loss(batch)

    model.loss = disturbed


def main(runs):
    for run in runs:
        try:
            found = train(run)
        except UserError as error:
            if not run.get("refused"):
                raise
            found = {"error": str(error)}
        if ranks.is_first():
            Path(run["folder"]).mkdir(exist_ok=True)
            Path(run["folder"], "found.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    from core import console

    console.silence_other_ranks()
    try:
        with ranks.joined("cpu", timeout_minutes=1):
            main(json.loads(sys.argv[1]))
    except (UserError, OSError) as error:
        console.fail(str(error))
        sys.exit(1)
    except KeyboardInterrupt as error:
        console.fail(str(error))
        sys.exit(130)
