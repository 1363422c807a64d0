"""Stage: the chosen models on the same features and seeds → tables and plots."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core import console, kinds
from core.artifacts import write_json
from core.console import counted, say
from core.errors import UserError
from core.metrics_output import claimed_metrics
from core.outputs import claimed
from pipeline.compare.plan import (
    Entry,
    chosen,
    entries,
    judged_splits,
    suitable,
    write_plan,
)
from pipeline.compare.run import Runs, remove_checkpoints, run
from pipeline.compare.settings import CompareSettings
from pipeline.compare.summary import TITLES, curves, summarise
from pipeline.compare.tables import flat, markdown, notes, tables
from pipeline.evaluation.baselines import Baselines, click_baselines, session_baselines
from pipeline.feature_folder import features_identity, open_features, read_schema
from pipeline.params import Params
from pipeline.protocols import session_evaluation

METRICS_KEYS = ("recipe", "metrics", "headlines", "entries")
"""Keys by which an earlier metrics file is known."""


def plan(
    recipe: str, features: str | Path, output: str | Path, params: Params | None = None
) -> list[Entry]:
    """Builds every model once, and writes ``output/plan/ENTRY.json``: what its runs depend on.

    Raises:
        UserError: an entry that does not fit the features, naming it.
    """
    params = params or Params.read()
    settings = params.section(f"{recipe}.compare")
    with claimed(output, kinds.COMPARISON, [features]) as claim:
        claim.add()
        selected = suitable(recipe, entries(recipe, params), Path(features), settings)
        write_plan(selected, judged_splits(Path(features), settings), claim.folder / "plan")
    say(f"compare: {len(selected)} entries → {Path(output) / 'plan'}")
    return selected


def compare(
    recipe: str,
    features: str | Path,
    output: str | Path,
    params: Params | None = None,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> list[str]:
    """Trains and judges what ``RECIPE.compare`` names, each entry once with each seed.

    Runs that are finished are not done again, and one that was stopped goes on. Each has a folder
    ``output/runs/ENTRY/seed-N``.

    Args:
        only: names of entries; none: all.
        seeds: of those in ``RECIPE.compare.seeds``; none: all.

    Returns:
        What went wrong in which run, such as a training that diverged; the others were done.

    Raises:
        UserError: before anything is trained, an entry that does not fit the features.
    """
    params = params or Params.read()
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError("compare trains in one process: start it without torchrun")
    settings: CompareSettings = params.section(f"{recipe}.compare")
    others = [str(seed) for seed in seeds if seed not in settings.seeds]
    if others:
        known = ", ".join(map(str, settings.seeds))
        raise UserError(f"compare: seed {', '.join(others)} is not in {recipe}.compare: {known}")
    selected = entries(recipe, params)
    selected = chosen(selected, only) if only else selected
    with claimed(output, kinds.COMPARISON, [features]) as claim:
        claim.add()
        selected = suitable(recipe, selected, Path(features), settings)
        runs = Runs(Path(features), claim.folder, judged_splits(Path(features), settings))
        return _run_all(selected, seeds or settings.seeds, runs, settings)


def _run_all(
    selected: list[Entry], seeds: Sequence[int], runs: Runs, settings: CompareSettings
) -> list[str]:
    """Does the runs that are not finished; what went wrong in which."""
    wanted = [(entry, seed) for entry in selected for seed in seeds]
    left = [(entry, seed) for entry, seed in wanted if runs.result(entry, seed) is None]
    for entry, seed in wanted:
        if (entry, seed) not in left:  # It may have been killed before this.
            remove_checkpoints(runs.folder(entry, seed))
    if len(left) < len(wanted):
        say(f"compare: {len(wanted) - len(left)} of {len(wanted)} runs are finished already")
    faults = []
    for number, (entry, seed) in enumerate(left, 1):
        say(f"compare: {entry.name}, seed {seed} ({number} of {len(left)})")
        try:
            run(entry, seed, runs, settings)
        except UserError as error:
            faults.append(f"{entry.name}, seed {seed}: {error}")
            say(f"compare: {faults[-1]}")
    return faults


def check_outputs(
    features: str | Path, output: str | Path, metrics: str | Path, plots: str | Path
) -> None:
    """Checks, before anything is trained, that :func:`summary` may write its outputs.

    Raises:
        UserError: it may not.
    """
    with claimed_metrics(metrics, plots, kinds.COMPARISON_PAGE, [features, output], METRICS_KEYS):
        pass


def summary(
    recipe: str,
    features: str | Path,
    output: str | Path,
    metrics: str | Path,
    plots: str | Path,
    params: Params | None = None,
) -> dict[str, Any]:
    """Puts the finished runs together; those that are missing are named.

    Args:
        output: the folder that :func:`compare` wrote.
        metrics: JSON file to write: what this returns.
        plots: folder to write: ``index.html``, ``tables.md``, ``table.csv``, ``curves.json``.

    Raises:
        UserError: no run is finished.
    """
    from pipeline.compare.page import page

    params = params or Params.read()
    settings: CompareSettings = params.section(f"{recipe}.compare")
    splits = judged_splits(Path(features), settings)
    runs, selected = Runs(Path(features), Path(output), splits), entries(recipe, params)
    results, missing = [], []
    for entry in selected:
        for seed in settings.seeds:
            result = runs.result(entry, seed)
            if result is not None:
                results.append(result)
            elif settings.entries:
                missing.append(f"{entry.name} seed {seed}")
    if not results:
        raise UserError(
            f"{output}: no run of these settings is finished there; run "
            f"'merlin-pipeline compare {recipe}' first"
        )
    if missing:
        say(f"compare: not finished, and left out: {', '.join(missing)}")
    baselines = _baselines(recipe, Path(features), splits[-1], params)
    report = summarise(recipe, selected, results, splits, settings, baselines)
    report["of_features"] = features_identity(features)
    shown = tables(report)

    def write_plots(folder: Path) -> None:
        (folder / "index.html").write_text(page(report, shown, results), encoding="utf-8")
        (folder / "tables.md").write_text(markdown(shown, notes(report)), encoding="utf-8")
        (folder / "table.csv").write_text(flat(report), encoding="utf-8")
        write_json(folder / "curves.json", curves(results))

    inputs = [features, output]
    with claimed_metrics(metrics, plots, kinds.COMPARISON_PAGE, inputs, METRICS_KEYS) as claim:
        claim.publish(report, write_plots)
    console.table(TITLES[recipe], shown[0].header, shown[0].rows)
    say(shown[0].meaning)
    for note in notes(report, report["headlines"]):
        say(note)
    say(f"compare: {counted(len(results), 'run')} → {metrics}, {Path(plots) / 'index.html'}")
    return report


def _baselines(recipe: str, features: Path, split: str, params: Params) -> Baselines:
    """What any model has to beat on ``split``."""
    from training.ranking.click_model import click_target

    with open_features(features, recipe).watched():
        schema = read_schema(features)
        if recipe == "ranking":
            return click_baselines(features, schema, split, click_target(schema).first.name)
        settings = session_evaluation(params, features)
        size = params.engine(recipe).valid_batch_size
        return session_baselines(features, schema, split, settings, size)
