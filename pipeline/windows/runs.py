"""A model of one window: from scratch as a comparison's run, or trained further."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import kinds
from core.artifacts import digest, read_json, write_json
from core.errors import UserError
from core.marker import unlist_absent
from core.outputs import claimed
from pipeline.compare.plan import Entry
from pipeline.compare.run import MADE_OF, RESULT, Runs, remove_checkpoints, run, start
from pipeline.compare.settings import CompareSettings
from pipeline.evaluation.metric_table import tested
from pipeline.stages.evaluate import evaluate
from pipeline.stages.train import (
    MODEL_FILE,
    WEIGHTS_FILE,
    build,
    load_model,
    read_schema,
    splits,
    train,
)
from pipeline.windows import days
from pipeline.windows.carry import carry_over, moved_codes


@dataclass(frozen=True)
class Window:
    """One window: its day, its features, and where its models lie."""

    day: int
    features: Path
    folder: Path

    @property
    def scratch(self) -> Runs:
        """The runs of fresh models."""
        return Runs(self.features, self.folder / "scratch", ("test",))

    def incremental(self, entry: Entry, seed: int) -> Path:
        """The folder of a model that was trained further."""
        return self.folder / "incremental" / entry.name / f"seed-{seed}"


@dataclass(frozen=True)
class Judged:
    """A model of a window, and its metrics on the day that tests."""

    folder: Path
    features: Path
    metrics: dict[str, float]
    tested: str
    """What the metrics are over, counted."""


def from_scratch(window: Window, entry: Entry, seed: int, settings: CompareSettings) -> Judged:
    """Trains and judges a fresh model, unless that is done."""
    runs = window.scratch
    result = runs.result(entry, seed) or run(entry, seed, runs, settings)
    remove_checkpoints(runs.folder(entry, seed))  # A run that was killed may have left them.
    metrics, counts = result["metrics"]["test"], result["tested"]["test"]
    return Judged(runs.folder(entry, seed), window.features, metrics, counts)


def trained_further(window: Window, entry: Entry, seed: int, before: Judged) -> Judged:
    """Carries the model of the window ``before`` over and trains it on the sessions that are new,
    unless that is done."""
    folder = window.incremental(entry, seed)
    made_of = {
        **window.scratch.made_of(entry, seed),
        "before": digest(before.folder / WEIGHTS_FILE, before.folder / MODEL_FILE),
    }
    if not _is_done(folder, made_of):
        with claimed(folder, kinds.RUN, [window.features]) as claim:
            start(claim, made_of)
            model_folder = folder / "model"
            _train_further(window, entry, seed, before, model_folder)
            place = folder / "test"
            params = entry.of_seed(seed)
            file = place / RESULT
            where = (window.features, model_folder, file, place)
            evaluate("sessions", *where, params, baselines=False, quiet=True)
            remove_checkpoints(folder)
            metrics = read_json(place / RESULT)
            claim.add(RESULT)
            kept = {name: value for name, value in metrics.items() if "@" in name}
            write_json(
                folder / RESULT, {"metrics": {"test": kept}, "tested": {"test": tested(metrics)}}
            )
            unlist_absent(folder)
    remove_checkpoints(folder)
    result = read_json(folder / RESULT)
    metrics, counts = result["metrics"]["test"], result["tested"]["test"]
    return Judged(folder / "model", window.features, metrics, counts)


def _train_further(window: Window, entry: Entry, seed: int, before: Judged, output: Path) -> None:
    from training.sessions.fitting import observe

    schema, params = read_schema(window.features), entry.of_seed(seed)
    name, settings = params.model("sessions")
    old, _ = load_model(before.folder, read_schema(before.features), before.features)
    model = build("sessions", name, schema, settings, seed)
    carry_over(old, model, moved_codes(before.features, window.features), model.item)
    view = days.newest(window.features, before.features, window.folder / "newest")
    if view is None:
        raise UserError(
            f"{window.features}: every session that trains did so in the window before; raise "
            "sessions.windows.first_test_day, or set sessions.windows.modes to [scratch]"
        )
    if model.observes_first:  # what it counts, it counts over all days
        training, _ = splits("sessions", model, schema, window.features, params.engine("sessions"))
        observe(model, training)
    train("sessions", view, output, params, model)


def _is_done(folder: Path, made_of: dict[str, Any]) -> bool:
    return (folder / RESULT).is_file() and read_json(folder / MADE_OF) == made_of
