"""params.yaml, recipes and ``--set key=value`` → validated, frozen settings.

Each component declares its own ``Settings`` class beside its code, with a docstring under every
field. Later ones go over earlier ones: defaults of the code, files in their order, command line.
"""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from core.errors import UserError

Tree = dict[str, Any]
MOST_FAULTS = 20
"""Wrong settings that a message names."""
LONGEST_VALUE = 120
"""Characters of a wrong value that a message shows."""
SettingsType = TypeVar("SettingsType", bound="Settings")


class Settings(BaseModel):
    """Base of every settings class: frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True
    )


def read_yaml(path: str | Path) -> Tree:
    """Reads one settings file as a plain mapping."""
    path = Path(path)
    try:
        tree = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such settings file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; name a settings file") from None
    except (YAMLError, UnicodeDecodeError) as error:
        text = str(error).replace('in "<unicode string>", ', "")
        raise UserError(f"{path}: not valid YAML: {text}") from None
    if tree is None:
        return {}
    _check_text(tree, str(path))
    if not isinstance(tree, dict):
        raise UserError(f"{path}: no settings file: expected 'key: value' lines, got {shown(tree)}")
    return tree


def _check_text(value: Any, origin: str) -> None:
    """Checks that all texts of settings can be written as UTF-8; escapes of YAML (``\\ud800``) and
    bytes of a command line may give ones that cannot."""
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set):
        for item in value:
            _check_text(item, origin)
    elif isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{origin}: {value!a}: no valid text: half of a pair of UTF-16 is at character "
                f"{error.start + 1}; write the character itself"
            ) from None


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    """``base`` with ``over`` laid on top, section by section; lists are replaced whole."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def parse_override(text: str) -> Tree:
    """``a.b=3`` → ``{"a": {"b": 3}}``; the value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {text}: expected key=value, such as ranking.train.epochs=2")
    try:
        tree: Any = YAML(typ="safe").load(value)
    except YAMLError as error:
        raise UserError(f"--set {text}: {_not_yaml(key, value, error)}") from None
    _check_text([key, tree], f"--set {ascii(text)[1:-1]}")
    for part in reversed(key.strip().split(".")):
        tree = {part: tree}
    return tree


def _not_yaml(key: str, value: str, error: YAMLError) -> str:
    """Why the value of an override cannot be read, in a line, and how one with marks is written."""
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    said = f"the value is not valid YAML: {problem}"
    if any(mark in value for mark in "'\"[]{}\n"):
        return f"{said}; close all quotes and brackets, and quote the whole for the shell"
    return f"{said}; put quotes around a text with marks in it: --set '{key}=\"{value}\"'"


def read_tree(
    files: Iterable[str | Path], overrides: Iterable[str] = (), whole: Iterable[str] = ()
) -> tuple[Tree, str]:
    """Settings files, later ones over earlier, then ``key=value`` overrides.

    Args:
        whole: dotted names of blocks that a later file replaces rather than adds to.

    Returns:
        The merged settings, and where they are from, for messages.
    """
    tree: Tree = {}
    origin = []
    for path in files:
        over = read_yaml(path)
        for name in whole:
            tree = _cleared(tree, over, name.split("."))
        tree = merge(tree, over)
        origin.append(str(path))
    overrides = list(overrides)
    for text in overrides:
        tree = merge(tree, parse_override(text))
    if overrides:
        origin.append("--set")
    return tree, " + ".join(origin) or "defaults"


def _cleared(tree: Tree, over: Any, name: list[str]) -> Tree:
    """``tree`` without the block ``name``, if ``over`` has it."""
    first, *rest = name
    if not isinstance(over, Mapping) or first not in over or first not in tree:
        return tree
    if not rest:
        return {key: value for key, value in tree.items() if key != first}
    below = tree[first]
    return {**tree, first: _cleared(below, over[first], rest)} if isinstance(below, dict) else tree


def validate(
    settings_class: type[SettingsType], tree: Mapping[str, Any], origin: str
) -> SettingsType:
    """A mapping → settings; every fault is named in one UserError."""
    try:
        return settings_class.model_validate(tree)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        lines = [_explain(settings_class, fault) for fault in faults[:MOST_FAULTS]]
        if len(faults) > MOST_FAULTS:
            lines.append(f"and {len(faults) - MOST_FAULTS:,} more")
        raise UserError("\n".join(f"{origin}: {line}" for line in lines)) from None


def _explain(settings_class: type[Settings], fault: Any) -> str:
    location = ".".join(str(part) for part in fault["loc"]) or "(top level)"
    if fault["type"] == "extra_forbidden":
        known = _fields_at(settings_class, fault["loc"][:-1])
        name = str(fault["loc"][-1])
        near = difflib.get_close_matches(name, known, n=1) or _deeper(settings_class, name)
        hint = f"; did you mean '{near[0]}'?" if near else f"; known here: {', '.join(known)}"
        return f"unknown setting '{location}'{hint}"
    message = fault["msg"].removeprefix("Value error, ").partition(", unable to parse")[0]
    if fault["type"] == "missing":
        return f"{location}: this setting is required"
    fault_text = f"{location}: {message[0].lower()}{message[1:]}"
    if isinstance(fault["input"], Mapping) and fault["type"] == "value_error":
        return fault_text  # what is wrong between the settings of a block is named
    return f"{fault_text}, got {shown(fault['input'])}"


def shown(value: Any) -> str:
    """A wrong value as messages have it, in YAML's words, cut where it is long."""
    if value is None:
        return "null"
    text = " ".join(repr(value).split())
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]} …"


def _deeper(settings_class: Any, name: str, before: str = "") -> list[str]:
    """Dotted names of the settings called ``name`` in the blocks of a class."""
    deeper = []
    for block, field in settings_class.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            if name in field.annotation.model_fields:
                deeper.append(f"{before}{block}.{name}")
            deeper += _deeper(field.annotation, name, f"{before}{block}.")
    return deeper


def _fields_at(settings_class: Any, location: tuple[Any, ...]) -> list[str]:
    """Names of the settings under ``location``, as far as the classes tell."""
    for part in location:
        field = getattr(settings_class, "model_fields", {}).get(part)
        if field is None:
            return []
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        settings_class = next((c for c in candidates if hasattr(c, "model_fields")), None)
    return list(getattr(settings_class, "model_fields", {}))
