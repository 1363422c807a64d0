"""One run of a comparison: an entry trained from one seed, judged, and its costs taken."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core import kinds
from core.artifacts import digest, read_json, write_json
from core.console import say
from core.errors import UserError
from core.marker import list_files, unlist_absent
from core.outputs import Claim, claimed
from core.sums import sums_of, write_manifest
from pipeline.compare import cost
from pipeline.compare.plan import Entry
from pipeline.compare.settings import AfterSettings, CompareSettings
from pipeline.evaluation.metric_names import SAME
from pipeline.evaluation.metric_table import tested
from pipeline.params import Params
from pipeline.protocols import session_evaluation
from pipeline.stages.evaluate import evaluate
from pipeline.stages.train import (
    MODEL_FILE,
    WEIGHTS_FILE,
    features_identity,
    load_model,
    read_schema,
    train,
)

MADE_OF, RESULT, TIMING = "run.json", "result.json", "timing.json"
ROOT = Path(__file__).parents[2]
CODE = (
    "training",
    "pipeline/stages/train.py",
    "pipeline/stages/evaluate.py",
    "pipeline/model_folder.py",
    "pipeline/evaluation",
    "pipeline/small_splits.py",
    "pipeline/vocabularies.py",
    "pipeline/synthetic/bayes.py",
    "pipeline/synthetic/session_truth.py",
    "pipeline/compare/run.py",
    "pipeline/compare/cost.py",
)
"""What a run's result depends on; its stage in compare/stages.yaml names the same."""
NOT_METRICS = ("positive_rate",)


@dataclass(frozen=True)
class Runs:
    """Where the runs of a comparison lie, and what they are made from.

    Args:
        features: a folder that ``preprocess`` wrote.
        output: the comparison's folder.
        splits: that every run is judged on.
    """

    features: Path
    output: Path
    splits: tuple[str, ...]

    def folder(self, entry: Entry, seed: int) -> Path:
        """The run's own folder."""
        return self.output / "runs" / entry.name / f"seed-{seed}"

    def made_of(self, entry: Entry, seed: int) -> dict[str, Any]:
        """All that the run's result depends on, but for the machine."""
        return {
            "seed": seed,
            **entry.describe(),
            "features": features_identity(self.features),
            "code": digest(*(ROOT / part for part in CODE)),
        }

    def result(self, entry: Entry, seed: int) -> dict[str, Any] | None:
        """What ``result.json`` holds, if the run is finished and made of what is there now."""
        found = self.trained(entry, seed)
        return None if found is None or set(self.splits) - set(found["metrics"]) else found

    def trained(self, entry: Entry, seed: int) -> dict[str, Any] | None:
        """The same of a run that may have been judged on other splits."""
        folder = self.folder(entry, seed)
        if not (folder / RESULT).is_file():
            return None
        if read_json(folder / MADE_OF) != self.made_of(entry, seed):
            return None
        return read_json(folder / RESULT)

    def whole(self, entry: Entry, seed: int) -> Path | None:
        """A finished run of the same training without what ``entry`` does after it."""
        wanted = self.made_of(replace(entry, after=None), seed)
        for file in sorted(self.output.glob(f"runs/*/seed-{seed}/{RESULT}")):
            if read_json(file.with_name(MADE_OF)) == wanted:
                return file.parent
        return None


@dataclass(frozen=True)
class Trained:
    """A trained model and what its training took.

    ``curve``: a row a validation, with ``samples`` seen, ``train_loss`` since the row before, and
    ``valid_…`` metrics.
    """

    folder: Path
    samples: int
    seconds: float | None
    curve: list[dict[str, float | None]]


def run(entry: Entry, seed: int, runs: Runs, settings: CompareSettings) -> dict[str, Any]:
    """Trains and judges ``entry`` from ``seed``; a run that was stopped goes on.

    Writes to its folder: what ``train`` writes, ``SPLIT/`` with metrics and plots of each split,
    and, last, ``result.json``: what this returns. Checkpoints are deleted then.
    """
    with claimed(runs.folder(entry, seed), kinds.RUN, [runs.features]) as claim:
        result = _run(entry, seed, runs, claim, settings)
        unlist_absent(claim.folder)
    return result


def _run(
    entry: Entry, seed: int, runs: Runs, claim: Claim, settings: CompareSettings
) -> dict[str, Any]:
    folder = claim.folder
    result = runs.trained(entry, seed)
    if result is None:
        start(claim, runs.made_of(entry, seed))
        trained = _trained(entry, seed, runs, claim)
        result = {
            "entry": entry.name,
            "seed": seed,
            "model": entry.model,
            **_costs(entry, seed, runs, trained, settings),
            "metrics": {},
            "share_of_best": {},
            "best_possible": {},
            "tested": {},
            "remarks": {},
            "curve": trained.curve,
        }
    for split in runs.splits:
        if split not in result["metrics"]:
            _judge(entry, seed, runs, split, result)
    claim.add(RESULT)
    write_json(folder / RESULT, result)
    remove_checkpoints(folder)
    return result


def remove_checkpoints(folder: Path) -> None:
    """Deletes the checkpoints in and below the folder of a finished run."""
    for file in folder.rglob("checkpoints/*.safetensors"):
        file.unlink()
    for checkpoints in folder.rglob("checkpoints"):
        unlist_absent(checkpoints.parent)
        checkpoints.rmdir()


def start(claim: Claim, made_of: dict[str, Any]) -> None:
    """Notes what the run in the claimed folder is made of.

    A folder that was made of something else is emptied: its checkpoints are of no use.
    """
    folder = claim.folder
    try:
        same = read_json(folder / MADE_OF) == made_of
    except UserError:
        same = False
    if not same and claim.marker.files:
        say(f"{folder}: of other settings, features or code; done afresh")
    if not same:
        claim.discard()
    claim.remove(RESULT)
    claim.add(MADE_OF)
    write_json(folder / MADE_OF, made_of)


def _trained(entry: Entry, seed: int, runs: Runs, claim: Claim) -> Trained:
    folder = claim.folder
    if entry.after is None:
        return _train(entry, runs.features, folder, entry.of_seed(seed), claim=claim)
    shared = runs.whole(entry, seed)
    if shared is not None:
        say(f"compare: {entry.name} starts from the model in {shared}")
        found = read_json(shared / RESULT)
        costs = found["cost"]
        whole = Trained(shared, costs["samples"], costs["seconds"], found["curve"])
    else:
        whole = _train(entry, runs.features, folder / "whole", entry.of_seed(seed))
    return _low_rank(entry, seed, runs.features, claim, whole, entry.after)


def _low_rank(
    entry: Entry, seed: int, features: Path, claim: Claim, whole: Trained, after: AfterSettings
) -> Trained:
    """``whole`` with its layers' factors in their place, fine-tuned where that is asked for."""
    from training.checkpoints import save_weights
    from training.ranking.low_rank import compress

    model, record = load_model(whole.folder, read_schema(features), features)
    thin = compress(model, after.low_rank, after.method, seed)
    tuning = entry.fine_tuning(seed)
    folder = claim.folder
    if tuning is None:
        claim.add(WEIGHTS_FILE, MODEL_FILE)
        save_weights(folder / WEIGHTS_FILE, thin)
        record["settings"] = thin.settings.model_dump(mode="json")
        record["parameters"] = sum(weight.numel() for weight in thin.parameters())
        write_manifest(folder / MODEL_FILE, record, sums_of(folder, [WEIGHTS_FILE]))
        return replace(whole, folder=folder)
    tuned = _train(entry, features, folder, tuning, thin, claim)
    known = whole.seconds is not None and tuned.seconds is not None
    later = [{**row, "samples": row["samples"] + whole.samples} for row in tuned.curve]
    return Trained(
        folder,
        whole.samples + tuned.samples,
        whole.seconds + tuned.seconds if known else None,
        [*whole.curve, *later],
    )


def _train(
    entry: Entry,
    features: Path,
    folder: Path,
    params: Params,
    model: Any = None,
    claim: Claim | None = None,
) -> Trained:
    record = train(entry.recipe, features, folder, params, model, claim)
    rate = record["samples_per_second"]
    if rate:
        # Kept apart, for a run that is killed after its training.
        list_files(folder, TIMING)
        write_json(folder / TIMING, {"samples_per_second": rate})
    elif (folder / TIMING).is_file():
        rate = read_json(folder / TIMING)["samples_per_second"]
    rows, batch = record["rows"], record["train"]["batch_size"]
    samples = rows_seen(record["learned"]["steps"], rows, batch)
    with open(folder / "history.csv", newline="", encoding="utf-8") as file:
        curve = [_point(row, rows, batch) for row in csv.DictReader(file)]
    return Trained(folder, samples, samples / rate if rate else None, curve)


def rows_seen(step: int, rows: int, batch: int) -> int:
    """Training rows behind ``step`` steps; the last batch of an epoch may be short."""
    epochs, steps = divmod(step, -(-rows // batch))
    return epochs * rows + steps * batch


def _point(row: Mapping[str, str], rows: int, batch: int) -> dict[str, float | None]:
    kept = {name: float(text) if text else None for name, text in row.items()}
    step = int(kept.pop("step") or 0)
    kept.pop("epoch")
    return {"samples": rows_seen(step, rows, batch), **kept}


def _judge(entry: Entry, seed: int, runs: Runs, split: str, result: dict[str, Any]) -> None:
    """Puts the metrics on ``split`` into ``result``."""
    folder, params = runs.folder(entry, seed), entry.of_seed(seed)
    file = folder / split / "metrics.json"
    place = (runs.features, folder, file, file.parent)
    metrics = evaluate(entry.recipe, *place, params, split, baselines=False, quiet=True)
    result["tested"][split] = tested(metrics)
    result["remarks"][split] = metrics["remarks"]
    result["metrics"][split] = {
        name: value
        for name, value in metrics.items()
        if (isinstance(value, float) or value is None) and name not in NOT_METRICS
    }
    if entry.recipe == "sessions":
        result["metrics"][split] |= _under_other_names(result["metrics"][split])
    for name in ("share_of_best", "best_possible"):
        result[name][split] = metrics.get(name) or {}


def _under_other_names(metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics that are the same number as another, which ``compare.metrics`` may name."""
    names = {name: f"{same}@" for name, same in SAME.items()}
    return {
        metric.replace(same, f"{name}@"): value
        for name, same in names.items()
        for metric, value in metrics.items()
        if metric.startswith(same)
    }


def _costs(
    entry: Entry, seed: int, runs: Runs, trained: Trained, settings: CompareSettings
) -> dict[str, Any]:
    """What the run took and what its model takes."""
    schema = read_schema(runs.features)
    model, record = load_model(trained.folder, schema, runs.features)
    params = entry.of_seed(seed)
    engine = params.engine(entry.recipe)
    if entry.recipe == "sessions":
        from training.sessions.evaluation import validation_settings

        model.evaluation = validation_settings(session_evaluation(params, runs.features))
    split = runs.features / runs.splits[-1]
    seconds = trained.seconds
    return {
        "learned": record["learned"],
        "cost": {
            "parameters": record["parameters"],
            "megabytes": cost.megabytes(trained.folder),
            "samples": trained.samples,
            "seconds": seconds,
            "samples_per_second": trained.samples / seconds if seconds else None,
            **cost.inference(entry.recipe, model, schema, split, engine, settings),
        },
    }
