"""Stage: raw Parquet → feature Parquet, schema and fitted state."""

import importlib
from pathlib import Path
from typing import Any

from core.console import counted, say, table
from pipeline.doubts import WARNINGS
from pipeline.params import Params


def preprocess(
    recipe: str,
    input: str | Path,
    output: str | Path,
    params: Params | None = None,
    grow: bool = False,
) -> dict[str, Any]:
    """Fits the recipe's workflow on the training split and applies it to every split.

    Args:
        recipe: ``ranking``, ``sessions`` or ``interactions``.
        input: a folder that ``ingest`` wrote.
        output: becomes ``train/ valid/ test/`` (Parquet), ``schema.json``, ``state/``,
            ``held_out/`` and ``manifest.json``, which is written last and is what this returns.
        grow: ``output`` are features already, and ``input`` is added to them; see
            :func:`pipeline.grow.grow`. False: what the setting ``RECIPE.preprocess.grow`` says.
    """
    params = params or Params.read()
    settings, cluster = params.section(f"{recipe}.preprocess"), params.section("cluster")
    if grow or _takes_in(recipe, input, output, settings):
        from pipeline.grow import grow as add

        manifest = add(recipe, input, output, settings, cluster)
    else:
        from pipeline import preprocess as shared

        prepare = importlib.import_module(f"pipeline.preprocess_{recipe}").prepare
        manifest = shared.preprocess(recipe, prepare, input, output, settings, cluster)
    _show(manifest, recipe, output)
    return manifest


def _takes_in(recipe: str, raw: str | Path, features: str | Path, settings: Any) -> bool:
    """Whether ``features`` take in what is new in ``raw``, rather than be made anew of it."""
    from pipeline.grow_or_fit import anew_because, check_nothing_is_lost

    if not settings.grow:
        check_nothing_is_lost(raw, features, recipe)
        return False
    why = anew_because(raw, features, settings)
    if why and Path(features).exists():  # The first time there is nothing to grow.
        say(f"preprocess: making the features of all rows, as {why}")
    return why is None


def _show(manifest: dict[str, Any], recipe: str, output: str | Path) -> None:
    unit = manifest["unit"]
    rows = []
    for split, found in manifest["splits"].items():
        rates = sorted(found["oov_rate"].items(), key=lambda entry: -entry[1])
        unseen = ", ".join(f"{name} {_percent(rate)}" for name, rate in rates[:3] if rate)
        rows.append([split, found[unit], unseen or "none"])
    table(f"{recipe} features", ["split", unit, "largest out-of-vocabulary rates"], rows)
    kept, read = sum(row[1] for row in rows), manifest.get("sessions_read", 0)
    if read > kept:
        say(
            f"{read - kept:,} of {counted(read, 'session')} of the log are left out as too short: "
            f"see min_length, drop_repeats and min_item_support of {recipe}.preprocess.sessions"
        )
    for warning in manifest.get(WARNINGS, ()):
        say(f"warning: {warning}")
    coded = manifest["cardinality"]
    codes, columns = counted(sum(coded.values()), "code"), counted(len(coded), "column")
    say(f"preprocess: {codes} in {columns} → {output}")


def _percent(rate: float) -> str:
    """A rate that is not 0, and is not shown as 0."""
    return f"{rate:.1%}" if rate >= 0.0005 else "<0.1%"
