"""Stage: raw Parquet → feature Parquet, schema and fitted state."""

from pathlib import Path
from typing import Any

from core.console import say, table
from pipeline.params import Params


def preprocess(
    recipe: str, input: str | Path, output: str | Path, params: Params | None = None
) -> dict[str, Any]:
    """Fits the recipe's workflow on the training split and applies it to every split.

    Args:
        recipe: ``ranking`` or ``sessions``.
        input: a folder that ``ingest`` wrote.
        output: becomes ``train/ valid/ test/`` (Parquet), ``schema.json``, ``state/`` and
            ``manifest.json``, which is written last and is what this returns.
    """
    from pipeline.preprocess import preprocess_ranking, preprocess_sessions

    params = params or Params.read()
    work = preprocess_ranking if recipe == "ranking" else preprocess_sessions
    settings, cluster = params.section(f"{recipe}.preprocess"), params.section("cluster")
    manifest = work(input, output, settings, cluster)
    _show(manifest, recipe, output)
    return manifest


def _show(manifest: dict[str, Any], recipe: str, output: str | Path) -> None:
    unit = manifest["unit"]
    rows = []
    for split, found in manifest["splits"].items():
        rates = sorted(found["oov_rate"].items(), key=lambda entry: -entry[1])
        unseen = ", ".join(f"{name} {rate:.1%}" for name, rate in rates[:3] if rate)
        rows.append([split, found[unit], unseen or "none"])
    table(f"{recipe} features", ["split", unit, "largest out-of-vocabulary rates"], rows)
    say(f"preprocess: {sum(manifest['cardinality'].values()):,} codes → {output}")
