"""The weights of a model for the features of one window, carried over to those of the next.

Each window has codes of its own. A row of an embedding table belongs to a value, so it is found
again by that value; rows of values that the earlier window did not know stay as they were drawn.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch

from core.errors import UserError
from core.names import key_of
from pipeline.vocabularies import vocabularies


@dataclass(frozen=True)
class Moved:
    """How the codes of a column changed.

    Attributes:
        sizes: codes before and after.
        old: the code before of each code after, ``(sizes[1],)``; -1 for a value that was unknown.
    """

    sizes: tuple[int, int]
    old: torch.Tensor


def moved_codes(before: Path, after: Path) -> dict[str, Moved]:
    """How the codes of every column with a vocabulary changed between two folders of features."""
    earlier, later = vocabularies(before), vocabularies(after)
    found = {}
    for name, (first, values) in later.items():
        old_first, old_values = earlier[name]
        known = pc.index_in(values.cast(old_values.type), value_set=old_values)
        codes = np.asarray(pc.fill_null(pc.add(known, old_first), -1)).astype(np.int64)
        # The codes before the vocabulary mean the same in both: settings decide them.
        old = torch.from_numpy(np.concatenate([np.arange(first), codes]))
        found[name] = Moved((old_first + len(old_values), first + len(values)), old)
    return found


def carry_over(
    old: torch.nn.Module, new: torch.nn.Module, moved: Mapping[str, Moved], item: str
) -> None:
    """Gives ``new`` the parameters of ``old``, the same model for the codes of another window.

    Args:
        item: name of the item column. What has a row an item need not be named after it; what has
            a row a code of another column is under that column's key.

    Raises:
        UserError: a parameter has another shape for a reason other than the codes.
    """
    given = dict(old.named_parameters())
    with torch.no_grad():
        for name, weight in new.named_parameters():
            source = given[name].detach()
            for dim in range(weight.dim()):
                sizes = source.shape[dim], weight.shape[dim]
                codes = _codes_of(name, weight.dim(), sizes, moved, item)
                if codes is not None:
                    source = _placed(source, weight, dim, codes)
                elif sizes[0] != sizes[1]:
                    raise UserError(
                        f"windows: {name} of {type(new).__name__} has {sizes[0]} rows for one day "
                        f"and {sizes[1]} for the next, which no column's codes explain; set "
                        "sessions.windows.modes to [scratch]"
                    )
            weight.copy_(source)


def _codes_of(
    name: str, dims: int, sizes: tuple[int, int], moved: Mapping[str, Moved], item: str
) -> torch.Tensor | None:
    fitting = {column: one.old for column, one in moved.items() if one.sizes == sizes}
    module = name.split(".")[-2:][0]
    named = next((column for column in fitting if key_of(column) == module), None)
    if named is not None:
        return fitting[named]
    # A bias has a value an item; a matrix that is square by chance has not.
    if item in fitting and (sizes[0] != sizes[1] or dims == 1):
        return fitting[item]
    return None


def _placed(
    source: torch.Tensor, fresh: torch.Tensor, dim: int, codes: torch.Tensor
) -> torch.Tensor:
    """``source`` with its rows along ``dim`` where their values stand now, new rows ``fresh``."""
    codes = codes.to(source.device)
    rows = source.index_select(dim, codes.clamp(min=0))
    unknown = (codes < 0).nonzero().squeeze(1)
    if len(unknown):
        return rows.index_copy(dim, unknown, fresh.detach().index_select(dim, unknown))
    return rows
