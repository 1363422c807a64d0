"""Lays a recipe over params.yaml, keeping the comments that are there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from core.artifacts import atomic_path
from core.console import say
from core.settings import read_yaml
from pipeline.params import PARAMS_FILE, Params


def use(recipe: str | Path, params_file: str | Path = PARAMS_FILE) -> None:
    """Writes the settings of the file ``recipe`` into ``params_file``; others stay as they are.

    Raises:
        UserError: the recipe has an unknown or wrong setting; nothing is written then.
    """
    params_file = Path(params_file)
    over = read_yaml(recipe)
    Params(over, str(recipe))
    yaml = YAML()
    yaml.width = 100
    tree = CommentedMap()
    if params_file.exists():
        read_yaml(params_file)  # a broken file is named here
        tree = yaml.load(params_file.read_text(encoding="utf-8"))
    _lay(tree, over)
    Params(tree, f"{recipe} over {params_file}").check()
    with atomic_path(params_file) as partial, open(partial, "w", encoding="utf-8") as file:
        yaml.dump(tree, file)
    say(f"use: {recipe} → {params_file}")


def _lay(tree: Any, over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), Mapping):
            _lay(tree[key], value)
        else:
            tree[key] = _written(value)


def _written(value: Any) -> Any:
    """``value`` as it is to stand in the file: lists in a line, what is shared written out."""
    if isinstance(value, Mapping):
        return CommentedMap({key: _written(below) for key, below in value.items()})
    if not isinstance(value, list):
        return value
    line = CommentedSeq(map(_written, value))
    if not any(isinstance(below, Mapping) for below in value):
        line.fa.set_flow_style()
    return line
