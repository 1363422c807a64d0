"""Splits too small to tell models apart: one rule, for preprocessing and for evaluation."""

import math

from core.console import counted

FEW, FEW_OF_A_CLASS = 200, 30
"""Fewer rows, sessions or users, or rows of one class, than this say little."""


def few(split: str, number: int, noun: str) -> list[str]:
    """A warning of a split that has few of a noun; an empty one is another matter."""
    if not 0 < number < FEW:
        return []
    return [
        f"the {split} split has only {counted(number, noun)}: a share of them is known to "
        f"±{1 / math.sqrt(number):.2f}, and smaller differences between models are chance"
    ]


def few_of_a_class(split: str, label: str, ones: int, rows: int) -> list[str]:
    """A warning of a split with few rows of one class of a label of 0 and 1, or with none."""
    least, value = min((ones, 1), (rows - ones, 0))
    if least == 0:
        return [
            f"the {split} split has no row with {label} = {value} (of {rows:,}): there is no auc, "
            f"and always saying {1 - value} would be right"
        ]
    if least >= FEW_OF_A_CLASS:
        return []
    return [
        f"the {split} split has only {least:,} of {rows:,} rows with {label} = {value}: metrics "
        "depend on these few"
    ]
