"""What went wrong where a number is no longer finite: the columns and weights at fault."""

import torch
from torch import nn

from core.errors import UserError
from training.batches import Batch
from training.columns import table_slices
from training.distributed import ranks

ROWS_NAMED = 3
ROWS_LOOKED_AT = 1 << 16
ELEMENTS_LOOKED_AT = 1 << 22

ADVICE = (
    "training diverged; lower learning_rate or set gradient_clip. The last good checkpoint is kept"
)


def not_finite_loss(value: float, step: int, batch: Batch, model: nn.Module) -> UserError:
    """The error for a step whose loss is NaN or infinite.

    It names the input columns that hold such values or, where the input is finite, the weights
    that do: of tables the column and the codes.
    """
    columns = [
        name.removesuffix("__values")
        for name, tensor in batch[0].items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    columns = [name for names in ranks.gathered(columns) for name in names]
    if columns:
        what = f"{', '.join(dict.fromkeys(columns))} hold NaN or infinite values"
        return UserError(f"step {step}: the loss is {value}: {what}")
    weights = not_finite_weights(model)
    where = f"; not finite: {'; '.join(weights)}" if weights else ""
    return UserError(
        f"step {step}: the loss is {value}, though the input is finite{where}: {ADVICE}"
    )


def check_weights(model: nn.Module, step: int) -> None:
    """Before weights are kept: they are all finite.

    Raises:
        UserError: some are not; it names them, of tables the columns and codes.
    """
    weights = not_finite_weights(model)
    if weights:
        raise UserError(f"step {step}: weights are NaN or infinite: {'; '.join(weights)}: {ADVICE}")


@torch.no_grad()
def not_finite_weights(model: nn.Module) -> list[str]:
    """Each weight that holds NaN or infinity, as a few words; a table's by column and code."""
    found = []
    slices = table_slices(model)
    weights = {weight: name for name, weight in model.named_parameters()}
    weights |= {part.parameter: part.name for part in slices}
    for weight, name in weights.items():
        if weight.is_floating_point() and not _finite(weight):
            found += _columns(name, weight, slices) or [name]
    # Every process has the dense weights, and its own shards of tables.
    return list(dict.fromkeys(each for those in ranks.gathered(found) for each in those))


def _columns(name: str, weight: torch.Tensor, slices: list) -> list[str]:
    found = []
    for part in slices:
        if part.parameter is not weight:
            continue
        bad = _bad_rows(weight[part.first : part.first + part.rows])
        if bad:
            named = [str(part.code + row) for row in bad[:ROWS_NAMED]]
            codes = ", ".join(named) + (" …" if len(bad) > ROWS_NAMED else "")
            found.append(f"table of {part.column}, {len(bad):,} of its rows (codes {codes})")
    return found


def _bad_rows(weight: torch.Tensor) -> list[int]:
    rows = []
    for start in range(0, len(weight), ROWS_LOOKED_AT):
        finite = torch.isfinite(weight[start : start + ROWS_LOOKED_AT]).flatten(1).all(dim=1)
        rows += [start + row for row in (~finite).nonzero().squeeze(1).tolist()]
    return rows


def _finite(weight: torch.Tensor) -> bool:
    """In pieces, and without a copy of them: a table may be larger than memory."""
    pieces = weight.detach().reshape(-1).split(ELEMENTS_LOOKED_AT)
    extremes = (extreme for piece in pieces if piece.numel() for extreme in piece.aminmax())
    # Of NaN and numbers, NaN is both the least and the greatest.
    return all(bool(torch.isfinite(extreme)) for extreme in extremes)
