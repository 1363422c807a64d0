"""Stage: feature Parquet → a trained model."""

from pathlib import Path
from typing import Any

from core.artifacts import digest, read_json, write_json
from core.console import say
from core.errors import UserError
from core.settings import Settings
from pipeline.params import Params

MODEL_FILE, WEIGHTS_FILE = "model.json", "model.safetensors"


def train(
    recipe: str, input: str | Path, output: str | Path, params: Params | None = None
) -> dict[str, Any]:
    """Trains the recipe's model on the features in ``input``.

    Writes to ``output``: ``model.safetensors`` (best weights), ``history.csv`` (curves),
    ``checkpoints/`` and, last, ``model.json`` (what is needed to build the model again). A run
    that was stopped goes on from its last checkpoint.

    Returns:
        What ``model.json`` holds.
    """
    from training.batches import Batches
    from training.engine import fit
    from training.sessions.fitting import fit_session_model

    params = params or Params.read()
    input, output = Path(input), Path(output)
    name, settings = params.model(recipe)
    engine = params.section(f"{recipe}.train")
    schema = read_schema(input)
    (output / MODEL_FILE).unlink(missing_ok=True)
    model = build(recipe, name, schema, settings, engine.seed)
    columns = model_columns(recipe, model, schema)
    training = Batches(
        input / "train", schema, engine.batch_size, columns=columns, shuffle=True, seed=engine.seed
    )
    valid = Batches(
        input / "valid", schema, engine.valid_batch_size, columns=columns, shuffle=False
    )
    parameters = sum(weight.numel() for weight in model.parameters())
    say(f"training {name}: {training.rows:,} rows, {parameters:,} parameters")
    learn = fit if recipe == "ranking" else fit_session_model
    identity = features_identity(input)
    result = learn(model, training, valid, engine, output, identity=identity)
    say(
        f"train: {result.steps:,} steps in {result.seconds:.0f} s "
        f"({result.samples_per_second:,.0f} rows/s), best at step {result.best_step:,}: "
        f"{_metrics(result.metrics)} → {output}"
    )
    record = {
        "recipe": recipe,
        "model": name,
        "settings": settings.model_dump(mode="json"),
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
    write_json(output / MODEL_FILE, record)
    return record


def _metrics(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if value is not None)


def build(recipe: str, name: str, schema: Any, settings: Settings, seed: int) -> Any:
    """The untrained model; its initial weights come from ``seed``."""
    from training import ranking, sessions
    from training.engine import seed_all

    seed_all(seed)
    family = ranking if recipe == "ranking" else sessions
    return family.build(name, schema, settings)


def model_columns(recipe: str, model: Any, schema: Any) -> list[str]:
    """The feature columns that the model reads; a click model reads all of them."""
    return schema.column_names if recipe == "ranking" else list(model.columns)


def features_identity(features: str | Path) -> str:
    """What the features were made from and what they hold, as one hash."""
    return digest(Path(features) / "plan.json", Path(features) / "manifest.json")


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
    model = build(recipe, name, schema, settings, record["train"]["seed"])
    load_weights(folder / WEIGHTS_FILE, model)
    model.eval()
    return model, record
