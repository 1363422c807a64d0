"""Stage: a trained model and its workflow → a bundle that scores or recommends on raw logs."""

import shutil
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

from core import kinds
from core.artifacts import read_json
from core.console import say
from core.errors import UserError
from core.outputs import Claim, claimed
from core.sums import Contents, Sums, files_below, reading, sum_of, write_manifest
from pipeline.feature_folder import MANIFEST, PLAN, SCHEMA, open_features, read_schema
from pipeline.model_folder import MODEL_FILE, WEIGHTS_FILE, load_model, open_model
from pipeline.params import Params

BUNDLE_FILE, STATE = "bundle.json", "state"
COUNTS_OF_ITEMS = "counts.item_id.parquet"
FILTERS = {"drop_repeats", "exclude_last_item", "exclude_seen"}
"""The settings ``sessions.evaluate`` that say what is recommended, not how it is measured."""


def export(
    recipe: str,
    features: str | Path,
    model: str | Path,
    output: str | Path,
    params: Params | None = None,
) -> dict[str, Any]:
    """Puts everything that ``score`` or ``recommend`` needs into one folder.

    The bundle holds the weights, the model's settings, the features' schema, the workflow's
    fitted state (vocabularies with the original ids) and the settings of ingest and workflow, of
    a session model also what the evaluation leaves out and how often each item was seen in
    training: JSON, Parquet and safetensors only.

    Args:
        features: a folder that ``preprocess`` wrote.
        model: a folder that ``train`` wrote.
        output: folder to write.
        params: the settings that the model was evaluated with.

    Returns:
        What ``bundle.json`` holds.

    Raises:
        UserError: there is no trained model, it was trained on other features, or a setting is
            wrong.
    """
    features, model = Path(features), Path(model)
    with claimed(output, kinds.BUNDLE, [features, model]) as claim:
        record = reading(lambda: _written(claim, recipe, features, model, params))
    size = sum(path.stat().st_size for path in Path(output).rglob("*") if path.is_file())
    shown = f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
    say(f"export: {shown} → {output}")
    return record


def _written(
    claim: Claim, recipe: str, features: Path, model: Path, params: Params | None
) -> dict[str, Any]:
    """Writes the bundle; what ``bundle.json`` holds."""
    with open_features(features, recipe).watched() as made, open_model(model).watched() as trained:
        # What cannot be loaded is not exported.
        load_model(model, read_schema(features, made), features)
        record = _record(recipe, made, params)
        with claim.replaced() as folder:
            sums = _copied(trained, (MODEL_FILE, WEIGHTS_FILE), folder)
            sums |= _copied(made, (SCHEMA, MANIFEST, *_state_files(recipe, made)), folder)
            made.settle()
            trained.settle()
            return write_manifest(folder / BUNDLE_FILE, record, sums)


def _record(recipe: str, features: Contents, params: Params | None) -> dict[str, Any]:
    """The settings that a bundle holds."""
    plan = read_json(features.check(PLAN))
    record = {
        "recipe": recipe,
        "preprocess": plan["settings"],
        "source": features.record["source"],
    }
    if recipe == "sessions":
        judged_by = (params or Params.read()).section("sessions.evaluate")
        record["evaluate"] = judged_by.model_dump(mode="json", include=FILTERS)
    return record


def _state_files(recipe: str, features: Contents) -> list[str]:
    """Names of the files of the workflow's state that apply it."""
    names = features.files
    if names is None:  # of an older version
        names = [f"{STATE}/{name}" for name in files_below(features.folder / STATE)]
    names = [name for name in names if PurePath(name).parts[0] == STATE]
    # Counts serve to extend a vocabulary, not to apply it; those of the items also say what a
    # session of unknown items is recommended.
    kept = COUNTS_OF_ITEMS if recipe == "sessions" else None
    return [n for n in names if not PurePath(n).match("counts.*") or PurePath(n).name == kept]


def _copied(contents: Contents, names: Iterable[str], folder: Path) -> Sums:
    """Copies files; the sums of the copies, which are those that were written."""
    sums: Sums = {}
    for name in names:
        source, target = contents.folder / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(source, target)
        except FileNotFoundError:
            raise UserError(
                f"{source}: is not there; run 'merlin-pipeline {contents.made_by}' again"
            ) from None
        sums[name] = sum_of(target)
        if contents.files is not None and contents.files.get(name, sums[name]) != sums[name]:
            contents.check(name)  # says what is wrong with it
    return sums
