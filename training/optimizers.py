"""Optimizers of tables and of dense layers, their learning rates over time, and clipping."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from training.engine_settings import EngineSettings


def table_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The weights of ``nn.Embedding`` and ``nn.EmbeddingBag`` modules, each once."""
    tables = (m.weight for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag))
    return [weight for weight in dict.fromkeys(tables) if weight.requires_grad]


def make_optimizers(model: nn.Module, settings: EngineSettings) -> list[torch.optim.Optimizer]:
    """One optimizer for the dense layers and one for the tables, where the model has both."""
    tables = table_parameters(model)
    known = set(tables)
    dense = [p for p in model.parameters() if p.requires_grad and p not in known]
    sparse = {m.weight for m in model.modules() if getattr(m, "sparse", False)}
    if sparse:
        # torch's Adagrad builds a sparse tensor a step and warns unless told whether to check it.
        torch.sparse.check_sparse_tensor_invariants.disable()
    optimizers = []
    if dense:
        optimizers.append(
            _optimizer(
                settings.optimizer, dense, settings.learning_rate, settings.weight_decay, False
            )
        )
    for is_sparse in (False, True):
        weights = [p for p in tables if (p in sparse) == is_sparse]
        if weights:
            name = settings.table_optimizer or settings.optimizer
            rate = settings.table_learning_rate or settings.learning_rate
            optimizers.append(_optimizer(name, weights, rate, 0.0, is_sparse))
    return optimizers


def _optimizer(
    name: str, weights: list[nn.Parameter], rate: float, decay: float, sparse: bool
) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(weights, rate, weight_decay=decay)
    if name == "adagrad":
        return torch.optim.Adagrad(weights, rate, weight_decay=decay)
    if sparse:
        # Adam's moments are then kept and moved for the rows of a batch only.
        return torch.optim.SparseAdam(weights, rate)
    adam = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    return adam(weights, rate, weight_decay=decay)


def rate_factor(step: int, total_steps: int, settings: EngineSettings) -> float:
    """What the learning rates are multiplied by at ``step``, counted from 0."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.decay == "constant":
        return 1.0
    done = (step - settings.warmup_steps) / max(1, total_steps - settings.warmup_steps)
    return 1 - done if settings.decay == "linear" else 0.5 * (1 + math.cos(math.pi * done))


def set_rates(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Sets every group's learning rate to ``factor`` times the one it was made with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group.setdefault("base_rate", group["lr"])
            group["lr"] = group["base_rate"] * factor


@torch.no_grad()
def decay_tables(weights: Iterable[nn.Parameter], decay: float) -> None:
    """Adds ``decay * weight`` to the gradients of those rows of tables that a batch uses."""
    for weight in weights:
        if weight.grad is None:
            continue
        if not weight.grad.is_sparse:
            used = (weight.grad != 0).any(dim=1, keepdim=True)
            weight.grad.add_(weight * used, alpha=decay)
            continue
        grad = weight.grad.coalesce()
        rows = weight.index_select(0, grad.indices()[0])
        grad.values().add_(rows, alpha=decay)
        weight.grad = grad


@torch.no_grad()
def clip_gradients(weights: Iterable[nn.Parameter], largest: float) -> None:
    """Scales all gradients so that their common norm is at most ``largest``; sparse ones too."""
    gradients = []
    for weight in weights:
        if weight.grad is None:
            continue
        if weight.grad.is_sparse:
            weight.grad = weight.grad.coalesce()
        gradients.append(weight.grad.values() if weight.grad.is_sparse else weight.grad)
    if not gradients:
        return
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
    scale = (largest / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale)
