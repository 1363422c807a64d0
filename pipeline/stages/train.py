"""Stage: feature Parquet → a trained model."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core import gpu, kinds
from core.artifacts import read_json
from core.console import counted, place, say
from core.errors import UserError
from core.marker import unlist_absent
from core.outputs import Claim, claimed
from core.sums import Contents, sums_of, write_manifest
from pipeline.evaluation import training_summary
from pipeline.feature_folder import features_identity, open_features, read_schema
from pipeline.model_folder import HISTORY_FILE, MODEL_FILE, WEIGHTS_FILE, build
from pipeline.model_folder import load_model as load_model
from pipeline.params import Params
from pipeline.protocols import session_evaluation
from training.engine_settings import EngineSettings


def train(
    recipe: str,
    input: str | Path,
    output: str | Path,
    params: Params | None = None,
    model: Any = None,
    claim: Claim | None = None,
) -> dict[str, Any]:
    """Trains the recipe's model on the features in ``input``.

    Writes to ``output``: ``model.safetensors`` (best weights), ``history.csv`` (curves),
    ``checkpoints/`` and, last, ``model.json`` (what is needed to build the model again). A run
    that was stopped goes on from its last checkpoint.

    Args:
        model: one of the recipe's kind to train further; None: a fresh one.
        claim: of ``output``, where the caller has it.

    Returns:
        What ``model.json`` holds, and what no two runs have in common: ``samples_per_second`` of
        training in this process, 0 where it had nothing left to train.
    """
    from training import hardware
    from training.distributed import ranks

    params = params or Params.read()
    engine = params.engine(recipe)
    device = hardware.resolve_device(engine.device)
    with (
        ranks.joined(device, engine.process_timeout_minutes),
        contextlib.ExitStack() as held,
        open_features(input, recipe).watched() as features,
    ):
        claims: list[Claim] = []  # Of several processes the first one writes.

        def claim_output() -> str:
            claims.append(claim or held.enter_context(claimed(output, kinds.MODEL, [input])))
            claims[0].add(WEIGHTS_FILE)
            return str(claims[0].folder)

        def begin() -> None:
            claims[0].remove(MODEL_FILE)
            claims[0].add(MODEL_FILE, WEIGHTS_FILE, HISTORY_FILE)

        folder = Path(ranks.on_first(claim_output))
        record, result = _train(recipe, features, folder, params, engine, model, begin)
        say(f"train: {training_summary.in_words(recipe, record, result)} → {place(output)}")
        return {**record, "samples_per_second": result.samples_per_second}


def _train(
    recipe: str,
    features: Contents,
    output: Path,
    params: Params,
    engine: EngineSettings,
    model: Any,
    begin: Callable[[], None],
) -> tuple[dict[str, Any], Any]:
    """What each process does; the first one alone prints and writes.

    Args:
        begin: called once, in the first process, before anything is written: what vouched for the
            output goes.

    Returns:
        What ``model.json`` holds, and the :class:`~training.run.FitResult`.
    """
    from training.distributed import ranks
    from training.engine import fit
    from training.sessions.evaluation import validation_settings
    from training.sessions.fitting import fit_session_model
    from training.tables.storage import tables_in

    input = features.folder
    name, settings = params.model(recipe)
    schema = read_schema(input)
    judged_by = session_evaluation(params, input) if recipe == "sessions" else None
    scratch = output if engine.tables_out_of_core else None
    if model is None:
        with tables_in(scratch):
            model = build(recipe, name, schema, settings, engine.seed)
    if judged_by:
        model.evaluation = validation_settings(judged_by)
    training, valid = splits(recipe, model, schema, input, engine)
    if valid is None and getattr(model, "learns_by_gradient", True):
        say(
            "no validation split (split.valid is 0): nothing stops the training early, and the "
            "weights of its last step are kept; give it the epochs that were best with one "
            f"({recipe}.train.epochs, now {engine.epochs:,})"
        )
    parameters = sum(weight.numel() for weight in model.parameters())
    unit = training_summary.UNITS[recipe].removesuffix("s")
    size = f", {parameters:,} parameters" if parameters else ""
    say(f"training {name}: {counted(training.rows, unit)}{size}")
    learn = fit_session_model if recipe == "sessions" else fit
    identity = features_identity(input)
    smaller = f"lower {recipe}.train.batch_size (now {engine.batch_size}) or valid_batch_size"
    if recipe == "ranking":
        smaller += ", or set ranking.train.tables_out_of_core to true"
    ranks.on_first(begin)
    with tables_in(scratch), gpu.named_shortage("training", smaller):
        result = learn(model, training, valid, engine, output, identity=identity)
    features.settle()
    record = {
        "recipe": recipe,
        "model": name,
        "settings": model.settings.model_dump(mode="json"),
        "train": engine.model_dump(mode="json"),
        "features": identity,
        "parameters": parameters,
        "rows": training.rows,
        "learned": {
            "steps": result.steps,
            "best_step": result.best_step,
            "stopped": result.stopped,
            "planned_steps": result.planned_steps,
            "still_improving": result.still_improving,
            "valid": result.metrics,
        },
    }
    ranks.on_first(lambda: _write_record(output, record))
    return record, result


def _write_record(output: Path, record: dict[str, Any]) -> None:
    """Writes ``model.json``, which vouches for the weights and the history."""
    sums = sums_of(output, (WEIGHTS_FILE, HISTORY_FILE))
    write_manifest(output / MODEL_FILE, record, sums)
    unlist_absent(output)


def splits(
    recipe: str, model: Any, schema: Any, features: Path, engine: EngineSettings
) -> tuple[Any, Any]:
    """The training and the validation split, as the model reads them; None where none validates."""
    from training.batches import Batches
    from training.distributed import ranks

    processes = {"rank": ranks.rank(), "world_size": ranks.world_size()}
    if processes["world_size"] > 1 and (
        recipe == "interactions" or not getattr(model, "learns_by_gradient", True)
    ):
        raise UserError(
            f"{type(model).__name__} of {recipe} trains in one process: start it without torchrun"
        )
    size, valid_size = engine.batch_size, engine.valid_batch_size
    if recipe == "interactions":
        from training.interactions.splits import judged_batches, training_batches

        training = training_batches(model, features, schema, engine)
        if not rows_of(features, "valid"):
            return training, None
        return training, judged_batches(model, features, schema, "valid", valid_size)
    columns = model_columns(recipe, model, schema)
    train, valid = features / "train", features / "valid"
    observed = getattr(model, "observed", ())
    training = Batches(
        train,
        schema,
        size,
        columns=[*columns, *observed],
        shuffle=getattr(model, "learns_by_gradient", True),
        seed=engine.seed,
        **processes,
    )
    if not rows_of(features, "valid"):
        return training, None
    return training, Batches(valid, schema, valid_size, columns=columns, shuffle=False, **processes)


def rows_of(features: Path, split: str) -> int:
    """Rows (of sessions: sessions) of a split of finished features."""
    manifest = read_json(features / "manifest.json")
    return manifest["splits"][split][manifest["unit"]]


def model_columns(recipe: str, model: Any, schema: Any) -> list[str]:
    """The feature columns that the model reads; a click model reads all of them."""
    return schema.column_names if recipe == "ranking" else list(model.columns)
