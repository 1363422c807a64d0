"""The subcommand ``windows``."""

import argparse

from core.failures import RESUMES
from pipeline import layout
from pipeline.arguments import TRAIN_MEMORY, Stages, add_path, add_stage, read_params

ABOUT = """
For each day of a raw clickstream: trains on the days before it, judges on it, and writes the means
over the days. Features, models and metrics of each window are kept, so that a run that was stopped
goes on, and further models can be added. sessions.compare names the models and seeds,
sessions.windows the days.
"""
EXAMPLE = """
For example:
  merlin-pipeline windows sessions --set 'sessions.compare.entries=[popular]'
"""


def add_windows(stages: Stages) -> None:
    """Adds it to the command line."""
    stage = add_stage(
        stages,
        "windows",
        "train up to each day of a clickstream, evaluate on the next",
        _run,
        recipes=("sessions",),
        module="pipeline.stages.windows",
        interrupted=RESUMES,
        lower=TRAIN_MEMORY,
    )
    stage.description, stage.epilog = ABOUT, EXAMPLE
    add_path(stage, "--input", "folder that ingest wrote", "data/sessions/raw")
    add_path(stage, "--output", "folder of features and runs", "data/sessions/windows")
    add_path(stage, "--metrics", "JSON file to write", "metrics/sessions-windows.json")
    add_path(stage, "--plots", "folder to write", "plots/sessions-windows")


def _run(options: argparse.Namespace) -> None:
    from pipeline.stages.windows import windows

    windows(
        options.input or layout.folder("sessions", "raw"),
        options.output or layout.folder("sessions", "windows"),
        options.metrics or layout.metrics_file("sessions-windows"),
        options.plots or layout.plots_folder("sessions-windows"),
        read_params(options),
    )
