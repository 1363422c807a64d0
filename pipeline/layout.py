"""Where each stage's output lies unless told otherwise, and what marks it as whole."""

from pathlib import Path

DATA = Path("data")


def folder(recipe: str, what: str) -> Path:
    """``data/<recipe>/<what>``, what being generated, raw, features, model, profile or bundle."""
    return DATA / recipe / what


def metrics_file(recipe: str) -> Path:
    return Path("metrics") / f"{recipe}.json"


def plots_folder(recipe: str) -> Path:
    return Path("plots") / recipe
