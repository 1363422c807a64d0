"""What the subcommands of the command line have in common."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.params import RECIPES, Params

Stages = argparse._SubParsersAction


def add_stage(
    stages: Stages,
    name: str,
    summary: str,
    run: Callable[[argparse.Namespace], None],
    recipes: Sequence[str] = RECIPES,
    settings: bool = True,
) -> argparse.ArgumentParser:
    """A subcommand with its recipe and its settings, where it has them."""
    stage = stages.add_parser(name, help=summary, description=summary)
    stage.set_defaults(run=run)
    if recipes:
        stage.add_argument("recipe", choices=recipes, help="which road")
    if settings:
        stage.add_argument(
            "--settings", metavar="FILE", action="append", help="settings file; later ones win"
        )
        stage.add_argument(
            "--set", metavar="KEY=VALUE", action="append", default=[], help="one setting"
        )
    return stage


def add_path(stage: argparse.ArgumentParser, flag: str, meaning: str, default: str) -> None:
    """An optional file or folder."""
    stage.add_argument(flag, type=Path, metavar="PATH", help=f"{meaning} (default: {default})")


def read_params(options: argparse.Namespace) -> Params:
    """The settings that the command line names."""
    return Params.read(options.settings, options.set)
