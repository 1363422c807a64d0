"""The table at the end: for each recipe what was trained, how good it is, and where things are."""

from pathlib import Path
from typing import Any

from core.artifacts import read_json
from core.console import say, table
from core.errors import UserError
from pipeline import layout
from pipeline.params import RECIPES
from pipeline.stages.evaluate import HEADLINES


def report() -> None:
    """Prints what ``metrics/*.json`` say."""
    found = {
        recipe: read_json(layout.metrics_file(recipe))
        for recipe in RECIPES
        if layout.metrics_file(recipe).is_file()
    }
    if not found:
        raise UserError("metrics/: no metrics yet; run 'make repro' or 'dvc repro' first")
    rows = [row for recipe, metrics in found.items() for row in _rows(recipe, metrics)]
    header = [
        "recipe",
        "model",
        "trained on",
        "tested on",
        "metric",
        "reached",
        "best possible",
        "share of best",
    ]
    table("What was learned", header, rows)
    for recipe, metrics in found.items():
        if recipe == "sessions" and metrics["popular"].get("recall@20"):
            floor, reached = metrics["popular"]["recall@20"], metrics["recall@20"]
            say(
                f"sessions: always the most popular items reaches recall@20 {floor:.4f}; "
                f"{metrics['model']['name']} {reached / floor:.1f} times that"
            )
        places = [layout.folder(recipe, "model"), layout.folder(recipe, "bundle")]
        page = layout.plots_folder(f"{recipe}-data") / "index.html"
        files = [layout.metrics_file(recipe), layout.plots_folder(recipe), page, *places]
        say(f"{recipe}: " + ", ".join(str(path) for path in files if Path(path).exists()))
    say("'dvc plots show' makes a page of the curves; 'dvc metrics show' prints all metrics")


def _rows(recipe: str, metrics: dict[str, Any]) -> list[list[Any]]:
    unit = "rows" if recipe == "ranking" else "sessions"
    rows = []
    for number, name in enumerate(HEADLINES[recipe]):
        best = (metrics.get("best_possible") or {}).get(name)
        share = (metrics.get("share_of_best") or {}).get(name)
        first = [
            recipe,
            metrics["model"]["name"],
            f"{metrics['trained_rows']:,} {unit}",
            f"{metrics['rows']:,} {unit}",
        ]
        rows.append(
            [
                *(first if number == 0 else [""] * 4),
                name,
                "undefined" if metrics.get(name) is None else f"{metrics[name]:.4f}",
                "unknown" if best is None else f"{best:.4f}",
                "" if share is None else f"{share:.1%}",
            ]
        )
    return rows
