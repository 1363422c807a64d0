"""Every setting by its dotted name: to describe it, to find it, to suggest it for a wrong one."""

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from core.settings import Settings
from pipeline.sections import SECTIONS, settings_class

MOST_SUGGESTED = 4
REQUIRED = "required"
"""In the place of a value that has no default."""


class Named(NamedTuple):
    """One setting of a section."""

    name: str
    """Dotted, within the section."""
    meaning: str


def settings_of(section: str) -> list[Named]:
    """The settings of a section, those of blocks in it by dotted names."""
    return list(_below(settings_class(section), ""))


def _below(kind: type[Settings], before: str) -> Iterator[Named]:
    for name, field in kind.model_fields.items():
        block = field.annotation
        if isinstance(block, type) and issubclass(block, Settings):
            yield from _below(block, f"{before}{name}.")
        else:
            yield Named(before + name, plain(field.description or ""))


def plain(docstring: str) -> str:
    """A docstring in plain words: names of classes without their modules, no marks of markup."""
    text = re.sub(r":\w+:`~?([^`]*)`", lambda match: match[1].rpartition(".")[2], docstring)
    return " ".join(text.replace("`", "").split())


def value_of(settings: Settings, name: str) -> Any:
    """The value of a setting by its dotted name, as plain JSON."""
    *blocks, last = name.split(".")
    for block in blocks:
        settings = getattr(settings, block)
    value = getattr(settings, last, REQUIRED)
    if value is REQUIRED:  # a block that is not set, of which only the defaults are known
        return value
    if isinstance(value, Settings):
        return value.model_dump(mode="json")
    return settings.model_dump(mode="json").get(last, value)


def suggestions(wrong: str) -> list[str]:
    """Settings that a wrong dotted name may mean: those that end in it, of the recipe that it
    names, if it names one."""
    known, wanted = _candidates(wrong)
    return _in_order(name for name in known if name.endswith(f".{wanted}"))


def near(wrong: str) -> list[str]:
    """Settings whose own name is like that of a wrong dotted one."""
    known, wanted = _candidates(wrong)
    lasts = sorted({name.rpartition(".")[2] for name in known})
    like = difflib.get_close_matches(wanted.rpartition(".")[2], lasts, n=1, cutoff=0.75)
    return _in_order(name for name in known if like and name.endswith(f".{like[0]}"))


def _candidates(wrong: str) -> tuple[list[str], str]:
    """All settings that may be meant, and what is written of the one that is."""
    top, _, rest = wrong.partition(".")
    recipe = top if any(name.startswith(f"{top}.") for name in SECTIONS) else ""
    known = [
        f"{section}.{setting.name}"
        for section in SECTIONS
        if not recipe or section.startswith(f"{recipe}.")
        for setting in settings_of(section)
    ]
    return known, rest if recipe and rest else wrong


def _in_order(names: Iterable[str]) -> list[str]:
    """The first few; blocks that every recipe has come first: a model's own have the same names."""
    return sorted(names, key=lambda name: (not _common(name), name.count(".")))[:MOST_SUGGESTED]


def _common(name: str) -> bool:
    parts = name.split(".")
    return len(parts) > 1 and parts[1] in ("source", "preprocess", "train", "evaluate", "generate")
