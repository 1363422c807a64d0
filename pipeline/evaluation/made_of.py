"""What an evaluation was made of: by this its metrics, plots, model and features are matched."""

import hashlib
import json
from pathlib import Path
from typing import Any

from core.sums import CHECKSUM, read_manifest
from pipeline.feature_folder import features_identity
from pipeline.model_folder import MODEL_FILE
from pipeline.params import Params

Points = dict[str, Any]
"""What the files of the folder of plots hold, by their names: the rows of a plot, or the main
metrics."""


def made_of(
    recipe: str, features: Path, model: Path, params: Params, points: Points
) -> list[dict[str, Any]]:
    """What metrics and plots depend on, by which ``report`` tells whether they belong together."""
    parts = [
        {"what": "features", "is": features_identity(features)},
        {"what": "model", "is": read_manifest(model / MODEL_FILE).get(CHECKSUM)},
        {"what": "plots", "is": digest_of(points)},
    ]
    if recipe == "sessions":
        settings = params.section("sessions.evaluate").model_dump(mode="json")
        parts.append({"what": "settings", "is": settings})
    return parts


def digest_of(points: Points) -> str:
    """A hash of the plots' points."""
    return hashlib.sha256(json.dumps(points, sort_keys=True).encode()).hexdigest()
