"""Stage: a trained model on the test split → metrics, plots, and the distance to the best score."""

from pathlib import Path
from typing import Any

from core import gpu, kinds
from core.artifacts import write_json
from core.console import say
from core.errors import UserError
from core.metrics_output import claimed_metrics
from core.sums import Contents, reading
from pipeline.best_possible import NotMatched, best_of_clicks, best_of_sessions
from pipeline.feature_folder import open_features
from pipeline.params import Params
from pipeline.protocols import session_evaluation
from pipeline.stages.train import load_model, model_columns, read_schema, rows_of

HEADLINES = {
    "ranking": ("auc", "logloss"),
    "sessions": ("recall@20", "ndcg@20", "mrr@20"),
    "interactions": ("recall@20", "ndcg@20", "rmse", "auc", "logloss"),
}
"""The metrics that are compared with the best possible, and that the report shows."""
METRICS_KEYS = ("rows", "model", "trained_rows")
"""Keys by which an earlier metrics file is known."""


def evaluate(
    recipe: str,
    features: str | Path,
    model: str | Path,
    metrics: str | Path,
    plots: str | Path,
    params: Params | None = None,
    split: str = "test",
) -> dict[str, Any]:
    """Scores ``split`` of the features with a trained model.

    Args:
        features: a folder that ``preprocess`` wrote.
        model: a folder that ``train`` wrote.
        metrics: JSON file to write: what this returns.
        plots: folder of JSON files to write, as DVC plots them.
    """
    params = params or Params.read()
    inputs = [features, model]
    with claimed_metrics(metrics, plots, kinds.PLOTS, inputs, METRICS_KEYS) as claim:
        found, points = reading(
            lambda: _evaluated(recipe, Path(features), Path(model), params, split)
        )

        def write_plots(folder: Path) -> None:
            for name, rows in points.items():
                write_json(folder / f"{name}.json", rows)

        claim.publish(found, write_plots)
    known = [key for key in HEADLINES[recipe] if found.get(key) is not None]
    shown = ", ".join(f"{key} {found[key]:.4f}" for key in known)
    shown = shown or found.get("undefined_because", "no metric is defined")
    say(f"evaluate: {split}: {shown} → {metrics}, {plots}")
    return found


Points = dict[str, list[dict[str, Any]]]
"""Rows of each plot by its name."""


def _evaluated(
    recipe: str, features: Path, model: Path, params: Params, split: str
) -> tuple[dict[str, Any], Points]:
    """The metrics and the plots' points."""
    with open_features(features).watched() as contents:
        return _judged(recipe, contents, model, params, split)


def _judged(
    recipe: str, contents: Contents, model: Path, params: Params, split: str
) -> tuple[dict[str, Any], Points]:
    features = contents.folder
    schema = read_schema(features)
    if not rows_of(features, split):
        raise UserError(
            f"{features}: the {split} split has no rows; raise preprocess.split.{split} and "
            "run 'merlin-pipeline preprocess' again, or evaluate another split"
        )
    trained, record = load_model(model, schema, features)
    # Tables out of core may be larger than a GPU, and what counts does so on the host.
    if not record["train"]["tables_out_of_core"] and getattr(trained, "learns_by_gradient", True):
        from training import hardware

        trained.to(hardware.resolve_device(params.engine(recipe).device))
    judge = {
        "ranking": evaluate_ranking,
        "sessions": evaluate_sessions,
        "interactions": evaluate_interactions,
    }[recipe]
    with gpu.named_shortage("evaluating", f"lower {recipe}.train.valid_batch_size"):
        found, points = judge(trained, schema, features, split, params)
    manifest = contents.record
    found["rows"] = manifest["splits"][split][manifest["unit"]]
    found["model"] = {"name": record["model"], "parameters": record["parameters"]}
    found["trained_rows"] = record["rows"]
    try:
        best = best_possible(recipe, features, manifest, split, trained, params)
    except NotMatched as reason:
        found["no_best_possible"] = str(reason)
        say(f"evaluate: no best possible score: {reason}")
    else:
        if best:
            found["best_possible"] = best
            found["share_of_best"] = share_of_best(recipe, found, best)
    return found, points


def evaluate_ranking(
    model: Any, schema: Any, features: Path, split: str, params: Params
) -> tuple[dict[str, Any], Points]:
    """Pooled exact metrics of a click model; ROC, precision–recall and reliability points."""
    import torch

    from core.console import progress
    from training.batches import Batches
    from training.hardware import to_device
    from training.metrics import binary

    device = next(model.parameters()).device
    size = params.engine("ranking").valid_batch_size
    batches = Batches(features / split, schema, size, shuffle=False)
    pooled = model.metrics()
    with torch.inference_mode(), progress("evaluating", batches.rows, "rows") as advance:
        for batch in batches:
            batch = to_device(batch, device)
            pooled.update(model.predict(batch), batch)
            advance(len(binary.target_of(batch[1], model.label)))
    labels, probabilities = pooled.pooled()
    found: dict[str, Any] = dict(binary.binary_metrics(labels, probabilities))
    for name, other in getattr(pooled, "others", {}).items():
        metrics = binary.binary_metrics(*other.pooled())
        found |= {f"{name}_{key}": value for key, value in metrics.items()}
    reason = binary.why_undefined(labels)
    if reason:
        found["undefined_because"] = reason
    found["positive_rate"] = float(labels.mean())
    points = {
        "roc": binary.roc_points(labels, probabilities),
        "precision_recall": binary.precision_recall_points(labels, probabilities),
        "reliability": binary.reliability_points(labels, probabilities),
    }
    return found, points


def evaluate_sessions(
    model: Any, schema: Any, features: Path, split: str, params: Params
) -> tuple[dict[str, Any], Points]:
    """Full-ranking metrics of a session model, beside those of always naming the popular items."""
    from training import sessions
    from training.batches import Batches
    from training.sessions.evaluation import evaluate_sessions as judge
    from training.sessions.fitting import observe

    settings = session_evaluation(params, features)
    engine = params.engine("sessions")

    def batches(which: str, columns: list[str]) -> Batches:
        folder = features / which
        return Batches(folder, schema, engine.valid_batch_size, columns=columns, shuffle=False)

    popular = sessions.build("popular", schema)
    observe(popular, batches("train", popular.columns))
    read = batches(split, model_columns("sessions", model, schema))
    found = judge(model, read, settings, popular.counts)
    main = settings.model_copy(update={"lists": False})
    floor = judge(popular, batches(split, popular.columns), main)
    found["popular"] = {name: floor[name] for name in HEADLINES["sessions"] if name in floor}
    points = {
        f"by_{by}": [{by: name, **group} for name, group in found.pop(f"by_{by}").items()]
        for by in ("session_length", "popularity")
    }
    return found, points


def evaluate_interactions(
    model: Any, schema: Any, features: Path, split: str, params: Params
) -> tuple[dict[str, Any], Points]:
    """Metrics of a model of users and items, beside those of always naming the popular items."""
    from training.engine import evaluate as judge
    from training.interactions.splits import judged_batches, popular_metrics

    size = params.engine("interactions").valid_batch_size
    batches = judged_batches(model, features, schema, split, size)
    found: dict[str, Any] = dict(judge(model, batches))
    found["users" if model.ranks_items else "ratings"] = batches.rows
    if model.ranks_items:
        found["popular"] = popular_metrics(model, batches)
    return found, {}


def best_possible(
    recipe: str, features: Path, manifest: dict[str, Any], split: str, model: Any, params: Params
) -> dict[str, float] | None:
    """The best score that any model could have on this split, over the rows or steps that the
    metrics are over; None for a real log.

    Raises:
        NotMatched: the log was generated, but these are not known to be its rows.
    """
    if recipe == "interactions":
        return None
    if recipe == "ranking":
        return best_of_clicks(features, manifest, split, model.label)
    settings = session_evaluation(params, features)
    return best_of_sessions(features, manifest, split, model.item, settings)


def share_of_best(
    recipe: str, found: dict[str, Any], best: dict[str, float]
) -> dict[str, float | None]:
    """How much of what can be learned was learned: 1 is all.

    AUC counts from 0.5, logloss from always predicting the mean label, the ranking metrics from 0.
    """
    if recipe == "sessions":
        return {
            name: _ratio(found[name], best[name]) for name in best if found.get(name) is not None
        }
    if found["auc"] is None or best["auc"] is None:
        return {"auc": None, "logloss": None}
    nothing = found["logloss"] / found["normalized_entropy"]
    return {
        "auc": _ratio(found["auc"] - 0.5, best["auc"] - 0.5),
        "logloss": _ratio(nothing - found["logloss"], nothing - best["logloss"]),
    }


def _ratio(reached: float, possible: float) -> float | None:
    """None where there is nothing to reach."""
    return reached / possible if possible > 0 else None
