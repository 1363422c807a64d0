"""How far predicted ratings are from the true ones."""

from typing import Any

import torch


class RatingAccumulator:
    """Pools squared and absolute errors of a whole split."""

    def __init__(self) -> None:
        self._squares = self._absolute = 0.0
        self._rows = 0

    def update(self, prediction: torch.Tensor, batch: Any) -> None:
        """Takes a batch's predictions ``(batch,)``; the ratings are the batch's targets."""
        errors = prediction.double() - batch[1].double()
        self._squares += float(errors.square().sum())
        self._absolute += float(errors.abs().sum())
        self._rows += len(errors)

    def compute(self) -> dict[str, float | None]:
        """``rmse`` and ``mae`` of all rows so far; None before the first."""
        if not self._rows:
            return {"rmse": None, "mae": None}
        return {
            "rmse": (self._squares / self._rows) ** 0.5,
            "mae": self._absolute / self._rows,
        }
