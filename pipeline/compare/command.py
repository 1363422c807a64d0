"""The subcommand ``compare``."""

import argparse

from core.errors import UserError
from core.failures import RESUMES
from pipeline import layout
from pipeline.arguments import TRAIN_MEMORY, Stages, add_path, add_stage, read_params

ABOUT = """
Trains each entry of RECIPE.compare.entries once with each of RECIPE.compare.seeds on the same
features, judges every model on the splits that RECIPE.compare.splits names, and writes tables and
plots. Runs that are finished are not done again, and one that was stopped goes on. All models are
built before the first is trained, so that an entry that does not fit the features is named at once.
"""
EXAMPLE = """
For example:
  merlin-pipeline compare ranking --set 'ranking.compare.entries=[dlrm, deepfm]'
"""


def add_compare(stages: Stages) -> None:
    """Adds it to the command line."""
    stage = add_stage(
        stages,
        "compare",
        "train several models on the same features and compare them",
        _run,
        module="pipeline.stages.compare",
        interrupted=RESUMES,
        lower=TRAIN_MEMORY,
    )
    stage.description, stage.epilog = ABOUT, EXAMPLE
    add_path(stage, "--features", "folder that preprocess wrote", "data/RECIPE/features")
    add_path(stage, "--output", "folder of the runs", "data/RECIPE/compare")
    add_path(stage, "--metrics", "JSON file to write", "metrics/RECIPE-compare.json")
    add_path(stage, "--plots", "folder to write", "plots/RECIPE-compare")
    stage.add_argument(
        "--only", metavar="ENTRY", nargs="+", help="train these entries alone; no tables"
    )
    stage.add_argument(
        "--seed", metavar="N", type=int, nargs="+", help="train with these seeds alone; no tables"
    )
    apart = stage.add_mutually_exclusive_group()
    apart.add_argument(
        "--plan", action="store_true", help="only build the models, and write what runs depend on"
    )
    apart.add_argument(
        "--summary", action="store_true", help="only put the finished runs into tables and plots"
    )


def _run(options: argparse.Namespace) -> None:
    from pipeline.stages.compare import check_outputs, compare, plan, summary

    recipe, params = options.recipe, read_params(options)
    features = options.features or layout.folder(recipe, "features")
    output = options.output or layout.folder(recipe, "compare")
    if options.plan:
        plan(recipe, features, output, params)
        return
    metrics = options.metrics or layout.metrics_file(f"{recipe}-compare")
    plots = options.plots or layout.plots_folder(f"{recipe}-compare")
    shown = not (options.only or options.seed)
    if shown:
        check_outputs(features, output, metrics, plots)
    faults = []
    if not options.summary:
        faults = compare(recipe, features, output, params, options.only or (), options.seed or ())
    if shown:
        summary(recipe, features, output, metrics, plots, params)
    if faults:
        raise UserError("\n".join(faults))
