"""What of a log or its splits makes metrics doubtful: sentences in the features' manifest."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from pipeline.small_splits import few, few_of_a_class

WARNINGS = "warnings"
"""The key of the manifest that holds them."""
TARGETS = "targets"
"""The key of a split that holds, of each target, its least and greatest value and its ones."""
SHARED = ("fraction", "random")
"""Kinds of split of which a share tests, or none."""
FIRST_VALUE = 3
"""Codes of a column before those of its values."""

Target = dict[str, float]


def target_names(schema: Iterable[Any]) -> list[str]:
    """The columns of features that are targets."""
    from core.merlin import Tags  # All of Merlin; a command's --help does not wait for it.

    return [column.name for column in schema if Tags.TARGET in column.tags and not column.is_list]


def describe_targets(names: list[str], values: Callable[[str], Any]) -> dict[str, Target]:
    """Least, greatest value and ones of each target of some rows; empty where there are no rows."""
    described = {}
    for name in names:
        array = values(name)
        if len(array):
            ones = int(np.count_nonzero(array == 1))
            described[name] = {"min": float(array.min()), "max": float(array.max()), "ones": ones}
    return described


def joined_targets(parts: Iterable[Mapping[str, Target]]) -> dict[str, Target]:
    """The same of the rows of several parts together."""
    whole: dict[str, Target] = {}
    for part in parts:
        for name, target in part.items():
            before = whole.get(name, target | {"ones": 0})
            whole[name] = {
                "min": min(before["min"], target["min"]),
                "max": max(before["max"], target["max"]),
                "ones": before["ones"] + target["ones"],
            }
    return whole


def doubts(manifest: Mapping[str, Any], split: Mapping[str, Any]) -> list[str]:
    """Sentences on what makes metrics of features with ``manifest`` doubtful.

    Args:
        split: the settings of the split.
    """
    unit, warnings = manifest["unit"], []
    train = manifest["splits"]["train"]
    pairs = manifest["recipe"] == "interactions"
    for name, target in train.get(TARGETS, {}).items():
        # A target of ones says of pairs of users and items that they were chosen.
        if target["min"] == target["max"] and not (pairs and target["min"] == 1):
            warnings.append(
                f"{name} is {target['min']:g} in all {train[unit]:,} {unit} that train: there is "
                "nothing to learn from it; check the column and how it is read"
            )
    clicks = manifest["recipe"] == "ranking"
    items = math.inf if clicks else manifest["cardinality"].get("item_id", math.inf)
    if items <= FIRST_VALUE + 1 and train[unit]:
        warnings.append("all that train have one and the same item: there is nothing to learn")
    rare = [name for name, share in train.get("oov_rate", {}).items() if share == 1]
    if rare and clicks:
        warnings.append(
            f"{', '.join(rare)}: no value trains as often as freq_threshold asks, so none has a "
            "code of its own and models cannot tell them apart"
        )
    for name in ("valid", "test"):
        warnings += _of_split(name, manifest["splits"][name], unit, split, classes=not pairs)
    return warnings


def _of_split(
    split: str, held_out: Mapping[str, Any], unit: str, settings: Mapping[str, Any], classes: bool
) -> list[str]:
    """``classes``: whether those of 0/1 targets count."""
    rows = held_out[unit]
    if not rows:
        asked = settings["valid"] if split == "valid" else settings["test"]
        chosen = not asked and (split == "valid" or settings["kind"] in SHARED)
        return [] if chosen else [f"the {split} split is empty: nothing can be evaluated on it"]
    warnings = few(split, rows, unit.removesuffix("s"))
    for name, target in held_out.get(TARGETS, {}).items() if classes else ():
        if {target["min"], target["max"]} <= {0.0, 1.0}:
            warnings += few_of_a_class(split, name, int(target["ones"]), rows)
    return warnings
