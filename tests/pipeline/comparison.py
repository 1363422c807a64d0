"""Small features of both recipes, written by hand, for the tests of the comparison."""

from pathlib import Path

from core.artifacts import write_json
from core.merlin import schema_to_json
from tests.training import click_log
from tests.training.session_examples import random_sessions, session_schema, write_sessions

CLICK_ROWS = {"train": 600, "valid": 200, "test": 300}
SESSIONS = {"train": 60, "valid": 20, "test": 30}
CLICKS = {
    "dlrm": {"embedding_dim": 4, "bottom_mlp": [8], "top_mlp": [8]},
    "fm": {"embedding_dim": 4},
    "train": {"epochs": 2, "batch_size": 64, "validate_every": 0.5, "patience": None},
}
"""Settings under which a training takes a fraction of a second."""


def click_features(folder: Path) -> Path:
    """Features of a click log, as preprocess leaves them."""
    for seed, (split, rows) in enumerate(CLICK_ROWS.items(), 1):
        click_log.write(folder / split, rows, seed=seed)
    return _finish(folder, "rows", CLICK_ROWS, schema_to_json(click_log.schema()))


def session_features(folder: Path) -> Path:
    """Features of sessions, as preprocess leaves them."""
    for seed, (split, count) in enumerate(SESSIONS.items(), 1):
        write_sessions(folder / split, random_sessions(count, seed=seed))
    return _finish(folder, "sessions", SESSIONS, schema_to_json(session_schema()))


def _finish(folder: Path, unit: str, counts: dict[str, int], schema: str) -> Path:
    (folder / "schema.json").write_text(schema)
    write_json(folder / "plan.json", {})
    splits = {split: {unit: count} for split, count in counts.items()}
    write_json(folder / "manifest.json", {"unit": unit, "generated": None, "splits": splits})
    return folder
