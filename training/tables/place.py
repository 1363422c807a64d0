"""Which store a model's tables get, and the optimizers that go with it."""

from collections.abc import Collection, Iterable
from typing import Protocol, TypeVar

import torch
from torch import nn

from core.errors import UserError
from core.merlin import fbgemm
from training.embeddings import TableGroup
from training.engine_settings import EngineSettings
from training.tables.fused import ON_CPU, WIDTHS, FusedEmbedding, FusedOptimizer
from training.tables.lookup import CompiledEmbedding, SparseEmbedding
from training.tables.optimizers import CompiledOptimizer, RowWiseAdagrad
from training.tables.storage import allocator, in_memory


class HasWidth(Protocol):
    """A group of tables, in one process or sharded."""

    width: int


Group = TypeVar("Group", bound=HasWidth)


def table_groups(model: nn.Module) -> list[TableGroup]:
    """The model's groups of tables, each once; those that are sharded already are left out."""
    groups = (module for module in model.modules() if isinstance(module, TableGroup))
    return [group for group in groups if hasattr(group.table, "weight")]


def place_tables(
    model: nn.Module, settings: EngineSettings, device: torch.device
) -> list[torch.optim.Optimizer]:
    """Moves the model's table groups to the store that ``settings.tables`` names.

    Args:
        model: on ``device`` already; its weights are kept.

    Returns:
        The optimizers of these tables, none where the model has none.

    Raises:
        UserError: a store that the settings, the device or this machine do not allow.
    """
    groups = table_groups(model)
    if not groups:
        return []
    kind = optimizer_kind(settings)
    widths = {group.table.weight.shape[1] for group in groups}
    store = choose_store(settings, kind, device, widths)
    for group in groups:
        group.table = new_store(store, group.table.weight.detach(), settings, device)
    return [
        store_optimizer(store, [group.table for group in alike], settings, rate)
        for rate, alike in by_rate(groups, settings)
    ]


def new_store(
    store: str, weight: torch.Tensor, settings: EngineSettings, device: torch.device
) -> nn.Module:
    """A table with ``weight``, held as ``store`` says."""
    if store == "fused":
        kind, rate = optimizer_kind(settings), table_rate(settings, weight.shape[1])
        return FusedEmbedding(weight, kind, rate, device, settings.tables_out_of_core)
    table = CompiledEmbedding if store == "compiled" else SparseEmbedding
    return table(*weight.shape, weight)


def store_optimizer(
    store: str, tables: list[nn.Module], settings: EngineSettings, rate: float
) -> torch.optim.Optimizer:
    """The optimizer of tables that :func:`new_store` made, all of one learning rate."""
    kind = optimizer_kind(settings)
    if store == "fused":
        return FusedOptimizer(tables, rate)
    weights = [table.weight for table in tables]
    if store == "compiled":
        return CompiledOptimizer(weights, kind, rate, allocator())
    # torch warns at each sparse tensor that Adagrad makes, unless told whether to check it.
    torch.sparse.check_sparse_tensor_invariants.disable()
    plain = {
        "sgd": torch.optim.SGD,
        "adagrad": torch.optim.Adagrad,
        "rowwise_adagrad": RowWiseAdagrad,
        "adam": torch.optim.SparseAdam,
    }
    return plain[kind](weights, rate)


def by_rate(groups: Iterable[Group], settings: EngineSettings) -> list[tuple[float, list[Group]]]:
    """The groups of tables by their learning rate, as they come in the model."""
    rates: dict[float, list[Group]] = {}
    for group in groups:
        rates.setdefault(table_rate(settings, group.width), []).append(group)
    return list(rates.items())


def table_rate(settings: EngineSettings, width: int) -> float:
    """The learning rate of tables of a width; the weights of single codes may have their own."""
    linear = settings.linear_learning_rate if width == 1 else None
    return linear or settings.table_learning_rate or settings.learning_rate


def optimizer_kind(settings: EngineSettings) -> str:
    """The tables' optimizer; AdamW is Adam here, as tables have a decay of their own."""
    kind = settings.table_optimizer or settings.optimizer
    return "adam" if kind == "adamw" else kind


def choose_store(
    settings: EngineSettings, kind: str, device: torch.device, widths: Collection[int] = ()
) -> str:
    """``plain``, ``compiled`` or ``fused``: as ``settings.tables`` says; for auto, the fastest.

    Args:
        kind: of the tables' optimizer.
        widths: of the model's tables.
    """
    on_gpu = device.type != "cpu"
    if settings.tables == "compiled" and on_gpu:
        raise UserError(
            f"train.tables: compiled works on CPU, but the device is {device}; "
            "set tables to fused, plain or auto"
        )
    if settings.tables == "auto" and not on_gpu:
        return "compiled"
    if settings.tables in ("plain", "compiled"):
        return settings.tables
    against = _against_fused(settings, kind, on_gpu, widths)
    if against and settings.tables == "fused":
        raise UserError(f"train.tables: fused {against}; set tables to auto or plain")
    return "plain" if against else "fused"


def _against_fused(
    settings: EngineSettings, kind: str, on_gpu: bool, widths: Collection[int]
) -> str:
    """Why FBGEMM's tables cannot be used; empty where they can."""
    odd = [width for width in widths if width % WIDTHS]
    if odd:
        return f"has tables whose width divides by {WIDTHS}, and this model has width {odd[0]}"
    if not on_gpu and kind not in ON_CPU:
        return f"has no {kind} on CPU (it has {', '.join(ON_CPU)})"
    if not on_gpu and allocator() is not in_memory:
        return "keeps its tables in memory, and tables_out_of_core is set"
    if settings.gradient_clip or settings.table_weight_decay:
        return "has no gradients to change, and gradient_clip or table_weight_decay is set"
    try:
        fbgemm()
    except (ImportError, OSError) as error:
        return f"needs fbgemm_gpu, which cannot be imported here ({error})"
    return ""
