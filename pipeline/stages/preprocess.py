"""Stage: raw Parquet → feature Parquet, schema and fitted state."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from core.console import say, table
from core.errors import UserError
from pipeline.params import Params


def preprocess(
    recipe: str,
    input: str | Path,
    output: str | Path,
    params: Params | None = None,
    grow: Literal["split", "train"] | None = None,
) -> dict[str, Any]:
    """Fits the recipe's workflow on the training split and applies it to every split.

    Args:
        recipe: ``ranking``, ``sessions`` or ``interactions``.
        input: a folder that ``ingest`` wrote.
        output: becomes ``train/ valid/ test/`` (Parquet), ``schema.json``, ``state/`` and
            ``manifest.json``, which is written last and is what this returns.
        grow: ``output`` are features already, and ``input`` is added to them: cut by the split
            settings (split), or all of it for training (train). Ranking only.
    """
    params = params or Params.read()
    settings, cluster = params.section(f"{recipe}.preprocess"), params.section("cluster")
    if grow and recipe != "ranking":
        raise UserError("--grow: only the features of 'ranking' can grow")
    if grow:
        from pipeline.grow import grow_ranking

        manifest = grow_ranking(input, output, settings, cluster, all_train=grow == "train")
    else:
        manifest = _work(recipe)(input, output, settings, cluster)
    _show(manifest, recipe, output)
    return manifest


def _work(recipe: str) -> Callable[..., dict[str, Any]]:
    if recipe == "interactions":
        from pipeline.preprocess_interactions import preprocess_interactions

        return preprocess_interactions
    from pipeline.preprocess import preprocess_ranking, preprocess_sessions

    return preprocess_ranking if recipe == "ranking" else preprocess_sessions


def _show(manifest: dict[str, Any], recipe: str, output: str | Path) -> None:
    unit = manifest["unit"]
    rows = []
    for split, found in manifest["splits"].items():
        rates = sorted(found["oov_rate"].items(), key=lambda entry: -entry[1])
        unseen = ", ".join(f"{name} {rate:.1%}" for name, rate in rates[:3] if rate)
        rows.append([split, found[unit], unseen or "none"])
    table(f"{recipe} features", ["split", unit, "largest out-of-vocabulary rates"], rows)
    say(f"preprocess: {sum(manifest['cardinality'].values()):,} codes → {output}")
