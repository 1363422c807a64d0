"""Labels with values that are not 0 or 1: which these are, and what to set for them."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.parquet import read_footer
from pipeline.ingest.labels import NOT_A_LABEL
from pipeline.ingest.times import NUMBER

SETTING = "ranking.source.label_values"


def wrong_labels(label: str, reasons: Mapping[str, int]) -> dict[str, int]:
    """The values of a label that are not 0 or 1, the most frequent first, and how many have each.

    Args:
        reasons: why lines are bad, and how many are.
    """
    start, values = f"{label}: {NOT_A_LABEL}: ", {}
    for reason, count in sorted(reasons.items(), key=lambda entry: -entry[1]):
        if reason.startswith(start):
            values[reason.removeprefix(start).strip("'")] = count
    return values


def check_classes(
    labels: Iterable[str], shards: Sequence[Path], reasons: Mapping[str, int]
) -> None:
    """Checks that no class of a label was set aside as bad lines, however few they are.

    Raises:
        UserError: all rows have one value of a label, and others were not read.
    """
    for label in labels:
        wrong = wrong_labels(label, reasons)
        if sum(wrong.values()) < 2:  # A single bad line is let through, whatever it is.
            continue
        values = {value for shard in shards for value in _bounds(shard, label)}
        if len(values) == 1:
            raise UserError(
                f"label {label}: all rows that were read have {values.pop()}, and "
                f"{sum(wrong.values()):,} lines with another value ({', '.join([*wrong][:5])}) "
                f"were not read; {advice(label, [*wrong])}"
            )


def _bounds(shard: Path, column: str) -> Iterator[int]:
    """The least and greatest value of a column, by the file's statistics."""
    footer = read_footer(shard)
    place = footer.schema.names.index(column)
    for group in range(footer.num_row_groups):
        statistics = footer.row_group(group).column(place).statistics
        yield from (statistics.min, statistics.max)


def advice(label: str, wrong: Sequence[str]) -> str:
    """What to set for a label with values that are not 0 or 1.

    Args:
        wrong: the values, the most frequent first, as texts.
    """
    points = [text.replace(",", ".") for text in wrong]
    numbers = sorted({float(text) for text in points if re.match(NUMBER, text)})
    if len(numbers) > 1 and len(numbers) == len({*wrong}):
        middle = numbers[len(numbers) // 2]
        commas = ' and ranking.source.decimal: ","' if points != [*wrong] else ""
        return (
            f"set the number from which on it is 1, as ranking.source.label_thresholds: "
            f"{{{label}: {middle:g}}}{commas}"
        )
    if numbers and len(wrong) == 1:
        [number] = numbers
        positive, negative = max(number, 1), min(number, 1)
        return f"say which is 1 and which 0, as {setting(label, [positive], [negative])}"
    yes, no = _likely(wrong)
    return f"say which is 1 and which 0, as {setting(label, yes, no)}"


def _likely(wrong: Sequence[str]) -> tuple[list[Any], list[Any]]:
    """The values in two: those that begin with a word for no, and the others. Where all do or none
    does, the most frequent one is apart, as clicks are rare."""
    no = [text for text in wrong if re.match(r"(?i)\s*(no|un|dis|neg|skip|impress)", text)]
    yes = [text for text in wrong if text not in no]
    if len(wrong) > 1 and not (yes and no):
        no, yes = [wrong[0]], [*wrong[1:]]
    return (yes or [1])[:3], (no or [0])[:3]


def setting(label: str, positive: Sequence[Any], negative: Sequence[Any]) -> str:
    """The setting to paste."""

    def listed(values: Sequence[Any]) -> str:
        texts = (f"{v:g}" if isinstance(v, float | int) else f'"{v}"' for v in values)
        return f"[{', '.join(texts)}]"

    return f"{SETTING}: {{{label}: {{positive: {listed(positive)}, negative: {listed(negative)}}}}}"
