"""Learning rates over time: warm-up, decay by step, and decay where validation stands still."""

import math
from collections.abc import Iterable

import torch

from training.engine_settings import EngineSettings


def rate_factor(step: int, total_steps: int, settings: EngineSettings) -> float:
    """What the learning rates are multiplied by at ``step``, counted from 0.

    Without what ``decay: plateau`` adds to it, which depends on how training goes.
    """
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.decay in ("constant", "plateau"):
        return 1.0
    done = (step - settings.warmup_steps) / max(1, total_steps - settings.warmup_steps)
    return 1 - done if settings.decay == "linear" else 0.5 * (1 + math.cos(math.pi * done))


def set_rates(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Sets every group's learning rate to ``factor`` times the one it was made with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group.setdefault("base_rate", group["lr"])
            group["lr"] = group["base_rate"] * factor
