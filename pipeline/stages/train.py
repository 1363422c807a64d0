"""Stage: feature Parquet → a trained model."""

import contextlib
from pathlib import Path
from typing import Any

from core import gpu, kinds
from core.artifacts import digest, read_json
from core.console import say
from core.errors import UserError
from core.outputs import Claim, claimed, unlist_absent
from core.settings import Settings
from core.sums import CHECKSUM, Contents, read_manifest, sums_of, write_manifest
from pipeline.feature_folder import VIEW_OF, open_features
from pipeline.params import Params
from pipeline.protocols import session_evaluation
from training.engine_settings import EngineSettings

MODEL_FILE, WEIGHTS_FILE, HISTORY_FILE = "model.json", "model.safetensors", "history.csv"


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
        open_features(input).watched() as features,
    ):
        # Of several processes the first one writes.
        folder = ranks.on_first(lambda: _claimed(held, claim, output, input))
        record, result = _train(recipe, features, Path(folder), params, engine, model)
        best = f", best at step {result.best_step:,}: {_metrics(result.metrics)}"
        say(
            f"train: {result.steps:,} steps in {result.seconds:.0f} s "
            f"({result.samples_per_second:,.0f} rows/s){best if result.metrics else ''} → {output}"
        )
        return {**record, "samples_per_second": result.samples_per_second}


def _claimed(
    held: contextlib.ExitStack, claim: Claim | None, output: str | Path, input: str | Path
) -> str:
    """Claims the output, unless the caller has, and clears what vouched for it; its path."""
    claim = claim or held.enter_context(claimed(output, kinds.MODEL, [input]))
    claim.remove(MODEL_FILE)
    claim.add(MODEL_FILE, WEIGHTS_FILE, HISTORY_FILE)
    return str(claim.folder)


def _train(
    recipe: str,
    features: Contents,
    output: Path,
    params: Params,
    engine: EngineSettings,
    model: Any,
) -> tuple[dict[str, Any], Any]:
    """What each process does; the first one alone prints and writes.

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
        say("no validation split (split.valid is 0): the weights of the last step are kept")
    parameters = sum(weight.numel() for weight in model.parameters())
    say(f"training {name}: {training.rows:,} rows, {parameters:,} parameters")
    learn = fit_session_model if recipe == "sessions" else fit
    identity = features_identity(input)
    smaller = f"lower {recipe}.train.batch_size (now {engine.batch_size}) or valid_batch_size"
    if recipe == "ranking":
        smaller += ", or set ranking.train.tables_out_of_core to true"
    with tables_in(scratch), gpu.named_shortage("training", smaller):
        result = learn(model, training, valid, engine, output, identity=identity)
    features.confirm()
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


def _metrics(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if value is not None)


def build(recipe: str, name: str, schema: Any, settings: Settings, seed: int) -> Any:
    """The untrained model; its initial weights come from ``seed``."""
    from training import interactions, ranking, sessions
    from training.engine import seed_all

    seed_all(seed)
    families = {"ranking": ranking, "sessions": sessions, "interactions": interactions}
    return families[recipe].build(name, schema, settings)


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


def features_identity(features: str | Path) -> str:
    """What the features were made from and what they hold, as one hash."""
    features = Path(features)
    record = read_manifest(features / "manifest.json")
    of_older = digest(features / "plan.json", features / "manifest.json")
    return record.get(VIEW_OF) or record.get(CHECKSUM) or of_older


def read_schema(features: Path) -> Any:
    """The schema of a features folder; a folder that is not whole is a UserError."""
    from core.merlin import schema_from_json

    if not (features / "manifest.json").is_file():
        raise UserError(
            f"{features}: no manifest.json there; this is not the output of a finished "
            "preprocess. Run 'merlin-pipeline preprocess' first"
        )
    return schema_from_json((features / "schema.json").read_text(encoding="utf-8"))


def load_model(
    folder: str | Path, schema: Any, features: str | Path | None = None
) -> tuple[Any, dict[str, Any]]:
    """A trained model with its weights, and what ``model.json`` says of it.

    Raises:
        UserError: there is none, or it was trained on other features than ``features``.
    """
    from pipeline.params import settings_class
    from training.checkpoints import load_weights
    from training.tables.storage import tables_in

    folder = Path(folder)
    if not (folder / MODEL_FILE).is_file():
        raise UserError(
            f"{folder}: no {MODEL_FILE} there; this is not the output of a finished training. "
            "Run 'merlin-pipeline train' first"
        )
    record = read_json(folder / MODEL_FILE)
    if features is not None and record["features"] != features_identity(features):
        raise UserError(
            f"{folder}: this model was trained on other features than {features} holds: its codes "
            "would mean other values. Run 'merlin-pipeline train' on these features first"
        )
    recipe, name = record["recipe"], record["model"]
    settings = settings_class(f"{recipe}.{name}")(**record["settings"])
    with tables_in(folder if record["train"]["tables_out_of_core"] else None):
        model = build(recipe, name, schema, settings, record["train"]["seed"])
    load_weights(folder / WEIGHTS_FILE, model)
    model.eval()
    return model, record
