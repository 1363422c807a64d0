"""What the subcommands of the command line have in common."""

import argparse
import difflib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from core import failures
from pipeline.params import Params, shared_files
from pipeline.sections import RECIPES

Stages = argparse._SubParsersAction
TRAIN_MEMORY = "lower RECIPE.train.batch_size or valid_batch_size, or the model's embedding_dim"


class Parser(argparse.ArgumentParser):
    """Parser of a command line that suggests what a wrong word may mean, and says of a wrong
    argument how the subcommand is called that it was given to."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        options, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return options, rest

    def _check_value(self, action: argparse.Action, value: object) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            near = difflib.get_close_matches(str(value), map(str, action.choices or ()), n=1)
            if near:
                error.message += f"; did you mean '{near[0]}'?"
            raise


class Help(argparse.HelpFormatter):
    """Help with wrapped paragraphs; indented lines, such as a command to copy, stay as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = []
        for kept, lines in itertools.groupby(text.strip().splitlines(), lambda s: s[:1] == " "):
            block = list(lines)
            parts += block if kept else [super()._fill_text(" ".join(block), width, indent)]
        return "\n".join(parts)


def add_stage(
    stages: Stages,
    name: str,
    summary: str,
    run: Callable[[argparse.Namespace], None],
    recipes: Sequence[str] = RECIPES,
    settings: bool = True,
    module: str = "",
    interrupted: str = failures.INTERRUPTED,
    lower: str = failures.Command.lower,
) -> argparse.ArgumentParser:
    """A subcommand with its recipe and its settings, where it has them.

    Args:
        module: what ``run`` imports, loaded before anything has begun.
        interrupted: the message when it was interrupted.
        lower: what to do where memory is short.
    """
    stage = stages.add_parser(name, help=summary, description=summary, formatter_class=Help)
    stage.set_defaults(stage=name, run=run, module=module, interrupted=interrupted, lower=lower)
    if recipes:
        stage.add_argument("recipe", choices=recipes, help="the recipe to run")
    if settings:
        stage.add_argument(
            "--settings",
            metavar="FILE",
            action="append",
            help="settings file, over params.yaml; later ones win",
        )
        stage.add_argument(
            "--set",
            metavar="KEY=VALUE",
            action="append",
            default=[],
            help="one setting, over all files; may be given more than once",
        )
    return stage


def add_path(stage: argparse.ArgumentParser, flag: str, meaning: str, default: str) -> None:
    """An optional file or folder."""
    stage.add_argument(flag, type=Path, metavar="PATH", help=f"{meaning} (default: {default})")


def read_params(options: argparse.Namespace) -> Params:
    """The settings of a command: ``params.yaml`` where there is one, over it the files that it
    names, over these its single settings."""
    return Params.read([*shared_files(), *(options.settings or ())], options.set)
