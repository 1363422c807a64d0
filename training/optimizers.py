"""Optimizers of tables and of dense layers, decay of table rows, and clipping."""

from collections.abc import Iterable

import torch
from torch import nn

from training.distributed import ranks
from training.engine_settings import EngineSettings
from training.tables.fused import FusedEmbedding
from training.tables.optimizers import RowWiseAdagrad
from training.tables.place import place_tables


def table_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The weights of embedding tables, each once."""
    kinds = (nn.Embedding, nn.EmbeddingBag, FusedEmbedding)
    tables = (module.weight for module in model.modules() if isinstance(module, kinds))
    return [weight for weight in dict.fromkeys(tables) if weight.requires_grad]


def make_optimizers(
    model: nn.Module, settings: EngineSettings, device: torch.device
) -> list[torch.optim.Optimizer]:
    """Optimizers for the dense layers and for the tables, where the model has both.

    Table groups are moved to their store on the way, see :func:`place_tables`.
    """
    placed = place_tables(model, settings, device)
    done = {weight for optimizer in placed for weight in _weights(optimizer)}
    tables = [weight for weight in table_parameters(model) if weight not in done]
    dense = [
        weight
        for weight in model.parameters()
        if weight.requires_grad and weight not in done and weight not in set(tables)
    ]
    optimizers = []
    if dense:
        rate, decay = settings.learning_rate, settings.weight_decay
        optimizers.append(_optimizer(settings.optimizer, dense, rate, decay))
    # Tables outside of groups; one tied to the output layer has dense gradients.
    sparse = {m.weight for m in model.modules() if getattr(m, "sparse", False)}
    if sparse:
        # torch warns at each sparse tensor that Adagrad makes, unless told whether to check it.
        torch.sparse.check_sparse_tensor_invariants.disable()
    for is_sparse in (False, True):
        weights = [weight for weight in tables if (weight in sparse) == is_sparse]
        if weights:
            name = settings.table_optimizer or settings.optimizer
            rate = settings.table_learning_rate or settings.learning_rate
            optimizers.append(_optimizer(name, weights, rate, 0.0, is_sparse))
    return [*optimizers, *placed]


def _weights(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def _optimizer(
    name: str, weights: list[nn.Parameter], rate: float, decay: float, sparse: bool = False
) -> torch.optim.Optimizer:
    # One pass over all weights; torch has it for each of them on the CPU, and never chooses it.
    fused = True if not sparse and weights[0].device.type == "cpu" else None
    if name == "sgd":
        return torch.optim.SGD(weights, rate, weight_decay=decay, fused=fused)
    if name == "adagrad":
        return torch.optim.Adagrad(weights, rate, weight_decay=decay, fused=fused)
    if name == "rowwise_adagrad":
        return RowWiseAdagrad(weights, rate)
    if sparse:
        # Adam's moments are then kept and moved for the rows of a batch only.
        return torch.optim.SparseAdam(weights, rate)
    adam = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    return adam(weights, rate, weight_decay=decay, fused=fused)


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
def clip_gradients(
    weights: Iterable[nn.Parameter], largest: float, shards: Iterable[nn.Parameter] = ()
) -> None:
    """Scales all gradients so that their common norm is at most ``largest``; sparse ones too.

    Args:
        weights: of which every process has the same gradients.
        shards: of which every process has its own.
    """
    weights = list(weights)
    gradients, parts = _gradients(weights), _gradients(shards)
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
    if ranks.world_size() > 1:
        squares = sum(float(torch.linalg.vector_norm(part)) ** 2 for part in parts)
        norms.append(next(iter(weights)).new_tensor(ranks.total(squares) ** 0.5))
    if not norms:
        return
    norm = torch.linalg.vector_norm(torch.stack(norms))
    scale = (largest / (norm + 1e-6)).clamp(max=1.0)
    for gradient in [*gradients, *parts]:
        gradient.mul_(scale)


def _gradients(weights: Iterable[nn.Parameter]) -> list[torch.Tensor]:
    found = []
    for weight in weights:
        if weight.grad is None:
            continue
        if weight.grad.is_sparse:
            weight.grad = weight.grad.coalesce()
        found.append(weight.grad.values() if weight.grad.is_sparse else weight.grad)
    return found
