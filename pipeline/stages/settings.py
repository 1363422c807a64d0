"""Tool: settings with their meanings and values; a check of all; what training depends on."""

import difflib
import re
import shutil
import textwrap
from pathlib import Path
from typing import Any

from core import console
from core.artifacts import write_json
from core.console import say
from core.errors import UserError
from core.kinds import has_keys
from core.outputs import claimed_file
from core.settings import Settings
from pipeline.params import Params
from pipeline.sections import MODELS, SECTIONS, settings_class
from pipeline.setting_names import Named, near, plain, settings_of, suggestions, value_of
from pipeline.yaml_text import in_flow

WIDEST = 100
TRAINED_BY = ("protocol", "ks", "drop_repeats", "exclude_last_item", "exclude_seen")
"""Of ``sessions.evaluate``: how a model is validated while it is trained."""


def show_settings(params: Params, name: str | None = None, search: str | None = None) -> None:
    """Checks all settings and prints some: a block or one setting, those that a word is in, or,
    without either, the blocks with what is set otherwise than by default.

    Raises:
        UserError: one of ``params`` is wrong; there is no block or setting called ``name``, or none
            with the word.
    """
    params.check()
    if search:
        _show_matches(params, search.lower().replace("_", " ").split())
    elif name:
        _show_named(params, name)
    else:
        _show_blocks(params)


def write_training_settings(recipe: str, params: Params, output: str | Path) -> None:
    """Writes all that training of the recipe's model depends on as JSON, checked.

    A stage that reads it is run again where one of these has changed, not for other models'.
    """
    params.check()
    model, settings = params.model(recipe)
    written: dict[str, Any] = {
        "model": model,
        model: settings.model_dump(mode="json", exclude={"train"}),
        "train": params.engine(recipe).model_dump(mode="json"),
    }
    if recipe == "sessions":
        judged_by = params.section("sessions.evaluate").model_dump(mode="json")
        written["evaluate"] = {name: judged_by[name] for name in TRAINED_BY}
    # By these an earlier output is known: nothing else is written over.
    keys = ("model", "train")
    with claimed_file(output, replaceable=lambda path: has_keys(path, keys)) as file:
        write_json(file, written)
    say(f"settings: {recipe}.model {model} → {output}")


def _show_blocks(params: Params) -> None:
    say(f"device: {params.tree.get('device') or 'auto'}")
    for recipe in MODELS:
        say(f"{recipe}.model: {params.model(recipe)[0]}")
    for section in SECTIONS:
        if not _is_shown(section, params):
            continue
        meaning = plain((settings_class(section).__doc__ or "").partition("\n\n")[0])
        _wrap(f"{section}: {meaning}", "", "    ")
        for setting in settings_of(section):
            value, default = _values(params, section, setting)
            if value != default:
                _wrap(f"{setting.name}: {in_flow(value)}", "    ", "      ")
    say("")
    say("The values are those that differ from the defaults. Meanings and all values of a block:")
    say("merlin-pipeline settings sessions.train; of all settings with a word: --search rate")


def _show_named(params: Params, name: str) -> None:
    if name in SECTIONS:
        _show_block(params, name, settings_of(name))
        return
    if name in MODELS:
        for section in SECTIONS:
            if section.startswith(f"{name}.") and _is_shown(section, params):
                _show_block(params, section, settings_of(section))
        return
    for section in SECTIONS:
        inner = name.removeprefix(f"{section}.")
        if inner != name:
            settings = settings_of(section)
            chosen = [s for s in settings if s.name == inner or s.name.startswith(f"{inner}.")]
            if chosen:
                _show_block(params, section, chosen)
                return
    blocks = [section for section in SECTIONS if "." in section] if "." in name else []
    meant = difflib.get_close_matches(name, blocks, n=1, cutoff=0.85)
    meant = meant or suggestions(name) or near(name)
    hint = "'merlin-pipeline settings' lists them"
    if meant:
        hint = f"did you mean {' or '.join(meant)}?"
    raise UserError(f"settings: there is no block or setting {name!r}; {hint}")


def _show_matches(params: Params, words: list[str]) -> None:
    any_shown = False
    for section in SECTIONS:
        chosen = [
            setting
            for setting in settings_of(section)
            if all(_has_word(setting, word) for word in words)
        ]
        if chosen:
            any_shown = True
            for setting in chosen:
                _show_setting(params, section, setting, f"{section}.", short=True)
    if not any_shown:
        raise UserError(f"settings: no setting has {' and '.join(map(repr, words))} in its text")


def _has_word(setting: Named, word: str) -> bool:
    """Whether a word of a setting's name or meaning begins so."""
    text = f"{setting.name} {setting.meaning}".lower().replace("_", " ")
    return re.search(rf"\b{re.escape(word)}", text) is not None


def _show_block(params: Params, section: str, settings: list[Named]) -> None:
    recipe, _, block = section.partition(".")
    say(f"{section}, of model {params.model(recipe)[0]}:" if block == "train" else f"{section}:")
    for setting in settings:
        _show_setting(params, section, setting)


def _show_setting(
    params: Params, section: str, setting: Named, before: str = "  ", short: bool = False
) -> None:
    value, default = _values(params, section, setting)
    line = f"{before}{setting.name}: {in_flow(value)}"
    if value != default:
        line += f"    # default: {in_flow(default)}"
    _wrap(line, "", "      ")
    meaning = setting.meaning.partition(". ")[0] if short else setting.meaning
    if meaning:
        _wrap(meaning, "      ", "      ")


def _values(params: Params, section: str, setting: Named) -> tuple[Any, Any]:
    """The value of this run, and the default."""
    recipe = section.partition(".")[0]
    chosen = {recipe: {"model": params.model(recipe)[0]}} if recipe in MODELS else {}
    return tuple(value_of(_section(of, section), setting.name) for of in (params, Params(chosen)))


def _section(params: Params, section: str) -> Settings:
    """A block as it is used: how the recipe's model is trained holds that model's own defaults."""
    recipe, _, block = section.partition(".")
    if block == "train":
        return params.engine(recipe)
    if section in ("random", "trace") and section not in params.tree:
        return settings_class(section).model_construct()
    return params.section(section)


def _is_shown(section: str, params: Params) -> bool:
    """Whether a block is among all: those of the systems generators only where they are set."""
    return "." in section or section == "cluster" or section in params.tree


def _wrap(text: str, first: str, later: str) -> None:
    width = min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns)
    if not console.out.is_terminal:
        width = WIDEST
    for line in textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=later, break_on_hyphens=False
    ):
        say(line)
