"""Stage: a trained model and its workflow → a bundle that scores or recommends on raw logs."""

import shutil
from pathlib import Path
from typing import Any

from core import kinds
from core.artifacts import read_json, write_json
from core.console import say
from core.outputs import claimed
from pipeline.params import Params
from pipeline.stages.train import MODEL_FILE, WEIGHTS_FILE, load_model, read_schema

BUNDLE_FILE = "bundle.json"
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
    load_model(model, read_schema(features), features)  # what cannot be loaded is not exported
    with claimed(output, kinds.BUNDLE, [features, model]) as claim, claim.replaced() as folder:
        for name in (MODEL_FILE, WEIGHTS_FILE):
            shutil.copyfile(model / name, folder / name)
        for name in ("schema.json", "manifest.json"):
            shutil.copyfile(features / name, folder / name)
        # The counts serve to extend a vocabulary, not to apply it.
        shutil.copytree(
            features / "state", folder / "state", ignore=shutil.ignore_patterns("counts.*")
        )
        if recipe == "sessions":
            # Those of the items also say what a session of unknown items is recommended.
            for counts in (features / "state").glob("*/counts.item_id.parquet"):
                shutil.copyfile(counts, folder / counts.relative_to(features))
        plan = read_json(features / "plan.json")
        source = read_json(features / "manifest.json")["source"]
        record = {"recipe": recipe, "preprocess": plan["settings"], "source": source}
        if recipe == "sessions":
            judged_by = (params or Params.read()).section("sessions.evaluate")
            record["evaluate"] = judged_by.model_dump(mode="json", include=FILTERS)
        write_json(folder / BUNDLE_FILE, record)
    size = sum(path.stat().st_size for path in Path(output).rglob("*") if path.is_file())
    say(f"export: {size / 1e6:.1f} MB → {output}")
    return record
