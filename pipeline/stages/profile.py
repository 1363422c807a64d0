"""Stage: a few training steps → where their time goes, as a table, JSON and a trace."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from core import kinds
from core.artifacts import write_json
from core.console import say, table
from core.errors import UserError
from core.outputs import Claim, claimed
from core.sums import Contents
from pipeline.evaluation.training_summary import UNITS
from pipeline.feature_folder import open_features
from pipeline.params import Params
from pipeline.stages.train import build, model_columns, read_schema

OPERATORS_SHOWN = 12


def profile(
    recipe: str,
    input: str | Path,
    output: str | Path,
    params: Params | None = None,
    steps: int = 100,
) -> dict[str, Any]:
    """Trains the recipe's model for ``steps`` steps on the features in ``input``.

    Writes to ``output``: ``profile.json`` (what is printed and more) and ``trace.json`` (for
    chrome://tracing or https://ui.perfetto.dev). No model is kept.

    Returns:
        What ``profile.json`` holds; times are seconds of a step.

    Raises:
        UserError: ``steps`` is less than 1, or the model does not learn by gradient.
    """
    if steps < 1:
        raise UserError(f"--steps {steps}: expected at least 1")
    params = params or Params.read()
    input, output = Path(input), Path(output)
    with (
        claimed(output, kinds.PROFILE, [input]) as claim,
        open_features(input, recipe).watched() as features,
    ):
        record = _profiled(recipe, features, claim, params, steps)
    _show(record, output)
    return record


def _profiled(
    recipe: str, features: Contents, claim: Claim, params: Params, steps: int
) -> dict[str, Any]:
    from training.batches import Batches
    from training.engine import prepare
    from training.profiling import profile_training
    from training.sessions.fitting import observe

    input = features.folder
    name, settings = params.model(recipe)
    engine = params.engine(recipe)
    schema = read_schema(input)
    model = build(recipe, name, schema, settings, engine.seed)
    if not getattr(model, "learns_by_gradient", True):
        raise UserError(f"{recipe}.model: {name} does not learn by gradient: it has no steps")
    columns = model_columns(recipe, model, schema)
    batches = Batches(
        input / "train", schema, engine.batch_size, columns=columns, shuffle=True, seed=engine.seed
    )
    if getattr(model, "observes_first", False):
        observe(model, batches)
    engine = prepare(model, batches, None, engine)
    with claim.replaced() as folder:
        found = profile_training(model, batches, engine, steps, folder / "trace.json")
        record = {"recipe": recipe, "model": name, "precision": engine.precision, **asdict(found)}
        write_json(folder / "profile.json", record)
        features.settle()
    return record


def _show(record: dict[str, Any], output: Path) -> None:
    step, measured = record["step"], record["measured_step"]
    unit = UNITS[record["recipe"]]
    rows = [
        [name, f"{1000 * seconds:.3f}", f"{seconds / measured:.1%}"]
        for name, seconds in record["parts"].items()
    ]
    title = (
        f"{record['model']} on {record['device']}, {record['precision']}: a step of "
        f"{record['batch_size']:,} {unit}, mean of {record['steps']}"
    )
    table(title, ["part", "ms", "share"], rows)
    speed = record["batch_size"] / step
    say(
        f"a step takes {1000 * step:.2f} ms undisturbed ({speed:,.0f} {unit}/s)"
        f", {1000 * measured:.2f} ms with a clock at every part"
    )
    total = sum(row["seconds"] for row in record["operators"])
    rows = [
        [
            row["name"],
            f"{row['calls']:.1f}",
            f"{1000 * row['seconds']:.3f}",
            f"{row['seconds'] / total:.1%}",
        ]
        for row in record["operators"][:OPERATORS_SHOWN]
    ]
    table("PyTorch's operators, own time", ["operator", "calls", "ms", "share"], rows)
    say(f"profile: {output / 'profile.json'}, {output / 'trace.json'} (for ui.perfetto.dev)")
