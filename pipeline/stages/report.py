"""The table at the end: for each recipe what was trained, how good it is, and where things are.

Metrics, plots, pages and bundles are shown where they are of the model and features that are there
now; what is of others is named, and left out.
"""

from pathlib import Path
from typing import Any

from core.artifacts import read_json
from core.console import counted, say, table
from core.errors import UserError
from core.sums import CHECKSUM, read_manifest
from pipeline import layout
from pipeline.evaluation.baselines import LABELS, others
from pipeline.evaluation.made_of import digest_of
from pipeline.evaluation.metric_names import headlines, share_meanings, worse
from pipeline.evaluation.metric_table import number, percent, tested
from pipeline.feature_folder import MANIFEST, PLAN, features_identity
from pipeline.model_folder import MODEL_FILE
from pipeline.params import Params
from pipeline.preprocess import log_digest
from pipeline.sections import READ_RECIPES

HEADER = ["recipe", "model", "trained on", "tested on", "metric", "reached", "best baseline",
          "best possible", "share of best"]  # fmt: skip
UNKNOWN = "unknown"


def report(params: Params | None = None) -> None:
    """Prints what ``metrics/*.json`` say."""
    files = {recipe: layout.metrics_file(recipe) for recipe in READ_RECIPES}
    by_recipe = {recipe: read_json(file) for recipe, file in files.items() if file.is_file()}
    if not by_recipe:
        places = ", ".join(str(file) for file in files.values())
        raise UserError(
            f"no metrics yet: none of {places} is in this folder, where 'make repro', 'dvc repro' "
            "and, without --metrics, 'merlin-pipeline evaluate' write them"
        )
    params = params or Params.read()
    rows, shares, notes = [], [], []
    for recipe, metrics in by_recipe.items():
        faults = foreign(recipe, metrics)
        if faults:
            notes += [f"{recipe}: left out: {files[recipe]} {fault}" for fault in faults]
            continue
        places, of_others = belonging(recipe, metrics)
        say(f"{recipe}: {', '.join(str(place) for place in places)}")
        notes += [f"{recipe}: {place} {fault}" for place, fault in of_others]
        notes += [f"{recipe}: {note}" for note in other_settings(recipe, metrics, params)]
        notes += [f"{recipe}: {remark}" for remark in metrics.get("remarks", ())]
        rows += _rows(recipe, metrics)
        shares += metrics.get("share_of_best") or {}
        if "no_best_possible" in metrics:
            notes.append(f"{recipe}: no best possible score: {metrics['no_best_possible']}")
    say("'dvc plots show' makes a page of the curves; 'dvc metrics show' prints the main metrics")
    if rows:
        # The best possible score is known of logs that were made here, not of others.
        best = HEADER.index("best possible")
        shown = len(HEADER) if any(row[best] != UNKNOWN for row in rows) else best
        table("What was learned", HEADER[:shown], [row[:shown] for row in rows])
    if shares:
        say(share_meanings(shares))
    for note in notes:
        say(f"note: {note}")
    if not rows:
        raise UserError(
            "metrics/: none is of the models in data/; run 'dvc repro', or 'merlin-pipeline "
            "evaluate' for each recipe"
        )


def foreign(recipe: str, metrics: dict[str, Any]) -> list[str]:
    """Why metrics are not those of the model and features that are there now; empty where they
    are, or where nothing is there to tell."""
    made_of = _made_of(metrics)
    if not made_of:
        return [f"is of an older version; run 'merlin-pipeline evaluate {recipe}' again"]
    again = f"; run 'merlin-pipeline evaluate {recipe}' again"
    faults = []
    model, features = layout.folder(recipe, "model"), layout.folder(recipe, "features")
    now = _checksum(model / MODEL_FILE)
    if now is not None and now != made_of.get("model"):
        faults.append(f"is of another model than {model} holds{again}")
    elif _identity(features) not in (None, made_of.get("features")):
        faults.append(f"is of other features than {features} holds{again}")
    return faults


def other_settings(recipe: str, metrics: dict[str, Any], params: Params) -> list[str]:
    """What was trained or computed with other settings than those of now, or from another log."""
    notes = []
    if recipe == "sessions":
        wanted = params.section("sessions.evaluate").model_dump(mode="json")
        given = _made_of(metrics).get("settings") or {}
        changed = [f"sessions.evaluate.{k}" for k, v in wanted.items() if given.get(k) != v]
        if changed:
            notes.append(f"evaluated with another {', '.join(changed)} than the settings have now")
    trained = layout.folder(recipe, "model") / MODEL_FILE
    if trained.is_file():
        record = read_json(trained)
        name, settings = params.model(recipe)
        if record["model"] != name:
            notes.append(f"the settings name the model {name} now; {record['model']} was trained")
        else:
            changed = _changed(
                f"{recipe}.{name}", settings.model_dump(mode="json"), record["settings"]
            )
            engine = params.engine(recipe)
            now = {
                key: engine.model_dump(mode="json")[key] for key in engine.that_shape_the_result()
            }
            changed += _changed(f"{recipe}.train", now, record["train"])
            if changed:
                notes.append(
                    f"trained with another {', '.join(changed)} than the settings have now"
                )
    features, raw = layout.folder(recipe, "features"), layout.folder(recipe, "raw")
    if (features / PLAN).is_file() and (raw / MANIFEST).is_file():
        plan = read_json(features / PLAN)
        if log_digest(read_json(raw / MANIFEST)) not in (plan["raw"], *plan.get("grown", ())):
            notes.append(f"{features} were made of another log than {raw} holds now")
    return notes


def _changed(block: str, now: dict[str, Any], then: dict[str, Any]) -> list[str]:
    """Names of the settings of a block that differ; one that was not there then is passed over."""
    names = (name for name in now if name != "train" and name in then)
    return [f"{block}.{name}" for name in names if then[name] != now[name]]


def belonging(recipe: str, metrics: dict[str, Any]) -> tuple[list[Path], list[tuple[Path, str]]]:
    """The files and folders that belong to metrics, and those that do not, with what they are."""
    made_of = _made_of(metrics)
    model, bundle = layout.folder(recipe, "model"), layout.folder(recipe, "bundle")
    plots, page = layout.plots_folder(recipe), layout.plots_folder(f"{recipe}-data") / "index.html"
    shown, others = [layout.metrics_file(recipe)], []

    def take(place: Path, same: bool, fault: str) -> None:
        if place.exists():
            (shown if same else others).append(place if same else (place, fault))

    take(plots, _digest(plots) == made_of.get("plots"), "is of other metrics")
    data = layout.metrics_file(f"{recipe}-data")
    inspected = read_json(data).get("of_features") if data.is_file() else None
    same = inspected is not None and inspected == made_of.get("features")
    take(page, same, f"is a page of other data; 'merlin-pipeline inspect {recipe}' makes it anew")
    take(model, _checksum(model / MODEL_FILE) == made_of.get("model"), "holds another model")
    same = _checksum(bundle / MODEL_FILE) == made_of.get("model")
    take(bundle, same, f"holds another model; 'merlin-pipeline export {recipe}' makes it anew")
    return shown, others


def _made_of(metrics: dict[str, Any]) -> dict[str, Any]:
    entries = metrics.get("made_of")
    return {e["what"]: e["is"] for e in entries} if isinstance(entries, list) else {}


def _checksum(manifest: Path) -> str | None:
    """The checksum of a manifest; None where there is none, or an altered one."""
    try:
        return read_manifest(manifest).get(CHECKSUM)
    except (UserError, OSError):
        return None


def _identity(features: Path) -> str | None:
    if not (features / MANIFEST).is_file():
        return None
    try:
        return features_identity(features)
    except UserError:
        return ""


def _digest(plots: Path) -> str | None:
    """Of the points in a folder of plots, as ``evaluate`` takes it."""
    try:
        return digest_of({file.stem: read_json(file) for file in sorted(plots.glob("*.json"))})
    except UserError:
        return None


def _rows(recipe: str, metrics: dict[str, Any]) -> list[list[Any]]:
    unit = metrics.get("trained_unit", "rows").removesuffix("s")
    first = [
        recipe,
        metrics["model"]["name"],
        counted(metrics["trained_rows"], unit),
        tested(metrics),
    ]
    baselines = others(metrics["model"]["name"], metrics, metrics.get("baselines", {}))
    rows = []
    for at, name in enumerate(headlines(metrics)):
        best = (metrics.get("best_possible") or {}).get(name)
        share = (metrics.get("share_of_best") or {}).get(name)
        rows.append(
            [
                *(first if at == 0 else [""] * 4),
                name,
                "undefined" if metrics[name] is None else number(metrics[name]),
                _best_baseline(name, baselines),
                UNKNOWN if best is None else number(best),
                percent(share),
            ]
        )
    return rows


def _best_baseline(name: str, baselines: dict[str, Any]) -> str:
    """The baseline that is best by a metric, and what it reaches."""
    best = ""
    for key, metrics in baselines.items():
        value = metrics.get(name)
        if value is not None and (not best or worse(name, baselines[best][name], value)):
            best = key
    return f"{number(baselines[best][name])} {LABELS[best]}" if best else ""
