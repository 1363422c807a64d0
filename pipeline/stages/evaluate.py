"""Stage: a trained model on the test split → metrics, plots, and the distance to the best score."""

import csv
from pathlib import Path
from typing import Any

from core import gpu, kinds
from core.artifacts import read_json, write_json
from core.console import place, say
from core.errors import UserError
from core.metrics_output import claimed_metrics
from core.sums import Contents, reading
from pipeline.evaluation import remarks
from pipeline.evaluation.baselines import below, click_baselines, session_baselines
from pipeline.evaluation.best_possible import NotMatched, best_of_clicks, best_of_sessions
from pipeline.evaluation.made_of import Points, made_of
from pipeline.evaluation.metric_names import headlines, once
from pipeline.evaluation.metric_table import show_metrics
from pipeline.evaluation.training_summary import UNITS
from pipeline.feature_folder import MANIFEST, open_features
from pipeline.params import Params
from pipeline.protocols import session_evaluation
from pipeline.small_splits import few
from pipeline.stages.train import (
    HISTORY_FILE,
    load_model,
    model_columns,
    read_schema,
    rows_of,
)
from training.sessions.settings import shown_length

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
    baselines: bool = True,
    quiet: bool = False,
) -> dict[str, Any]:
    """Scores ``split`` of the features with a trained model.

    Args:
        features: a folder that ``preprocess`` wrote.
        model: a folder that ``train`` wrote.
        metrics: JSON file to write: what this returns.
        plots: folder of JSON files to write, as DVC plots them; ``summary.json`` in it holds the
            main metrics for DVC's tables.
        baselines: whether the model is compared with simple ones.
        quiet: whether no table is printed, nor where the metrics are: for one model of many.
    """
    params = params or Params.read()
    inputs = [features, model]
    with claimed_metrics(metrics, plots, kinds.PLOTS, inputs, METRICS_KEYS) as claim:
        computed, points = reading(
            lambda: _evaluated(recipe, Path(features), Path(model), params, split, baselines)
        )

        def write_plots(folder: Path) -> None:
            for name, rows in points.items():
                write_json(folder / f"{name}.json", rows)

        claim.publish(computed, write_plots)
    if not quiet:
        show_metrics(computed)
    known = [key for key in headlines(computed) if computed[key] is not None]
    shown = ", ".join(f"{key} {computed[key]:.4f}" for key in known)
    shown = shown or computed.get("undefined_because", "no metric is defined")
    written = f" → {place(metrics)}, {place(plots)}" if not quiet else ""
    say(f"evaluate: {split}: {shown}{written}")
    return computed


SUMMARY = "summary"
"""Name of the file of the main metrics, which DVC's tables show."""


def _evaluated(
    recipe: str, features: Path, model: Path, params: Params, split: str, baselines: bool
) -> tuple[dict[str, Any], Points]:
    """The metrics and the plots' points."""
    with open_features(features, recipe).watched() as contents:
        return _judged(recipe, contents, model, params, split, baselines)


def _judged(
    recipe: str, contents: Contents, model: Path, params: Params, split: str, baselines: bool
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
        metrics, points = judge(trained, schema, features, split, params, baselines)
    if recipe == "sessions":
        points["validation"] = validations(model)
    manifest = contents.record
    metrics["split"] = split
    metrics["rows"] = manifest["splits"][split][manifest["unit"]]
    metrics["unit"] = manifest["unit"]
    metrics["model"] = {"name": record["model"], "parameters": record["parameters"]}
    metrics["trained_rows"] = record["rows"]
    reads_users = recipe == "interactions" and trained.reads_users
    metrics["trained_unit"] = "users" if reads_users else UNITS[recipe]
    points[SUMMARY] = summary(metrics)
    metrics["made_of"] = made_of(recipe, features, model, params, points)
    metrics["still_improving"] = bool(record.get("learned", {}).get("still_improving"))
    metrics["remarks"] = [
        *below(record["model"], metrics, metrics.get("baselines", {})),
        *metrics["remarks"],
        *remarks.of_training(recipe, record),
    ]
    try:
        best = best_possible(recipe, features, manifest, split, trained, params)
    except NotMatched as reason:
        metrics["no_best_possible"] = str(reason)
        say(f"evaluate: no best possible score: {reason}")
    else:
        if best:
            metrics["best_possible"] = {name: best[name] for name in best if name in metrics}
            metrics["share_of_best"] = share_of_best(recipe, metrics, best)
    return metrics, points


def summary(metrics: dict[str, Any]) -> dict[str, float | None]:
    """The main metrics, few enough for a line of ``dvc metrics show``."""
    names = [*headlines(metrics), "normalized_entropy", "calibration"]
    return {name: metrics[name] for name in names if name in metrics}


def evaluate_ranking(
    model: Any, schema: Any, features: Path, split: str, params: Params, baselines: bool
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
    metrics: dict[str, Any] = dict(binary.binary_metrics(labels, probabilities))
    for name, other in getattr(pooled, "others", {}).items():
        of_label = binary.binary_metrics(*other.pooled())
        metrics |= {f"{name}_{key}": value for key, value in of_label.items()}
    reason = binary.why_undefined(labels)
    if reason:
        metrics["undefined_because"] = reason
    metrics["positive_rate"] = float(labels.mean())
    metrics["remarks"] = remarks.of_clicks(metrics, split, probabilities, labels, model.label)
    if baselines:
        metrics["baselines"] = click_baselines(features, schema, split, model.label)
    points = {
        "roc": binary.roc_points(labels, probabilities),
        "precision_recall": binary.precision_recall_points(labels, probabilities),
        "reliability": binary.reliability_points(labels, probabilities),
    }
    return metrics, points


def evaluate_sessions(
    model: Any, schema: Any, features: Path, split: str, params: Params, baselines: bool
) -> tuple[dict[str, Any], Points]:
    """Full-ranking metrics of a session model, with those of the baselines."""
    from training import sessions
    from training.batches import Batches
    from training.sessions.evaluation import evaluate_sessions as judge
    from training.sessions.fitting import observe

    settings = session_evaluation(params, features)
    settings = settings.model_copy(update={"metrics": tuple(once(settings.metrics))})
    size = params.engine("sessions").valid_batch_size

    def batches(which: str, columns: list[str]) -> Batches:
        return Batches(features / which, schema, size, columns=columns, shuffle=False)

    popular = sessions.build("popular", schema)
    observe(popular, batches("train", popular.columns))
    read = batches(split, model_columns("sessions", model, schema))
    metrics = judge(model, read, settings, popular.counts)
    metrics["remarks"] = remarks.of_sessions(metrics, split, read.rows)
    if baselines:
        others = session_baselines(features, schema, split, settings, size, popular)
        metrics["baselines"] = others
        metrics["popular"] = others["popular"]
    by_k = f"@{shown_length(settings.ks)}"
    points = {
        f"by_{by}": [
            {by: name, "k": shown_length(settings.ks), **_at(group, by_k), **group}
            for name, group in metrics.pop(f"by_{by}", {}).items()
        ]
        for by in ("session_length", "popularity")
    }
    return metrics, points


def validations(model: Path) -> list[dict[str, Any]]:
    """The validations of a training, at the length of list that stops it: ``step``, ``k``, and the
    metrics without it in their names."""
    if not (model / HISTORY_FILE).is_file():
        return []
    with open(model / HISTORY_FILE, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = rows[0] if rows else ()
    names = [name.removeprefix("valid_") for name in columns if name.startswith("valid_")]
    first = headlines(names)
    return [
        {
            "step": int(row["step"]),
            "k": int(first[0].partition("@")[2]),
            **{name.partition("@")[0]: float(row[f"valid_{name}"]) for name in first},
        }
        for row in rows
        if first and row[f"valid_{first[0]}"]
    ]


def _at(metrics: dict[str, Any], suffix: str) -> dict[str, Any]:
    """The metrics at one length of list, without it in their names."""
    return {
        name.removesuffix(suffix): value for name, value in metrics.items() if name.endswith(suffix)
    }


def evaluate_interactions(
    model: Any, schema: Any, features: Path, split: str, params: Params, baselines: bool
) -> tuple[dict[str, Any], Points]:
    """Metrics of a model of users and items, with those of the baselines."""
    from core.console import progress
    from training.evaluation import pooled
    from training.interactions.splits import always_the_mean, judged_batches, popular_metrics

    size = params.engine("interactions").valid_batch_size
    batches = judged_batches(model, features, schema, split, size)
    with progress("evaluating", len(batches), "batches") as advance:
        accumulator = pooled(model, batches, "fp32", advance)
    metrics: dict[str, Any] = dict(accumulator.compute())
    if model.ranks_items:
        metrics["users"] = accumulator.pooled.users
        rates = read_json(features / MANIFEST)["splits"][split].get("oov_rate", {})
        unseen = rates.get(model.columns.user, 0.0)
        metrics["remarks"] = remarks.of_users(split, metrics["users"], batches.rows, unseen)
        if not metrics["users"]:
            metrics["undefined_because"] = "no user has an item held out that is new to the user"
        if baselines:
            metrics["popular"] = popular_metrics(model, batches)
            metrics["baselines"] = {"popular": metrics["popular"]}
        return metrics, {}
    metrics["ratings"] = batches.rows
    metrics["remarks"] = few(split, batches.rows, "rating")
    if baselines:
        mean = always_the_mean(model, features, schema, batches)
        metrics["baselines"] = {"always_the_mean": mean}
    return metrics, {}


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
    recipe: str, metrics: dict[str, Any], best: dict[str, float]
) -> dict[str, float | None]:
    """How much of what can be learned was learned: 1 is all.

    AUC counts from 0.5, logloss from always predicting the mean label, the ranking metrics from 0.
    """
    if recipe == "sessions":
        defined = [name for name in best if metrics.get(name) is not None]
        return {name: _ratio(metrics[name], best[name]) for name in defined}
    if metrics["auc"] is None or best["auc"] is None:
        return {"auc": None, "logloss": None}
    nothing = metrics["logloss"] / metrics["normalized_entropy"]
    return {
        "auc": _ratio(metrics["auc"] - 0.5, best["auc"] - 0.5),
        "logloss": _ratio(nothing - metrics["logloss"], nothing - best["logloss"]),
    }


def _ratio(reached: float, possible: float) -> float | None:
    """None where there is nothing to reach."""
    return reached / possible if possible > 0 else None
