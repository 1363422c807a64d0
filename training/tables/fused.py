"""FBGEMM's table: its backward pass is its optimizer step, and no gradient is ever stored.

On a GPU it may be larger than the GPU's memory: its rows then lie in the host's memory, the most
used ones in a cache on the GPU.
"""

from typing import Any

import torch
from torch import nn

from core.merlin import fbgemm
from training.tables.optimizers import BETAS, EPS, state_shapes

OPTIMIZERS = {
    "sgd": "EXACT_SGD",
    "adagrad": "EXACT_ADAGRAD",
    "rowwise_adagrad": "EXACT_ROWWISE_ADAGRAD",
    "adam": "ADAM",
}
ON_CPU = ("sgd", "adagrad", "rowwise_adagrad")
"""FBGEMM has no Adam for CPUs."""
WIDTHS = 4
"""Widths of FBGEMM's tables are multiples of this."""


class FusedEmbedding(nn.Module):
    """A table with the weights of another, held by FBGEMM.

    Args:
        weight: ``(rows, dim)``; copied, to ``device``.
        kind: the optimizer, one of :data:`OPTIMIZERS`.
        rate: its first learning rate.
        out_of_core: on a GPU, keep the rows in host memory behind a cache.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        kind: str,
        rate: float,
        device: torch.device,
        out_of_core: bool = False,
    ) -> None:
        super().__init__()
        self.kind = kind
        rows, dim = weight.shape
        tables = fbgemm()
        if device.type == "cpu":
            place = (tables.EmbeddingLocation.HOST, tables.ComputeDevice.CPU)
        elif out_of_core:
            place = (tables.EmbeddingLocation.MANAGED_CACHING, tables.ComputeDevice.CUDA)
        else:
            place = (tables.EmbeddingLocation.DEVICE, tables.ComputeDevice.CUDA)
        table = tables.SplitTableBatchedEmbeddingBagsCodegen(
            [(rows, dim, *place)],
            optimizer=getattr(tables.EmbOptimType, OPTIMIZERS[kind]),
            learning_rate=rate,
            eps=EPS.get(kind, 0.0),
            beta1=BETAS[0],
            beta2=BETAS[1],
            # Rounding to nearest, so that a run can be repeated.
            stochastic_rounding=False,
            # Batches checks every id against its column's domain before it gets here.
            bounds_check_mode=tables.BoundsCheckMode.NONE,
            pooling_mode=tables.PoolingMode.SUM,
            device=device,
        )
        # Not a child: its own parameters and buffers are no part of a model's state.
        self._hidden = [table]
        with torch.no_grad():
            table.split_embedding_weights()[0].copy_(weight)
        self.weight = nn.Parameter(table.split_embedding_weights()[0])
        self.register_state_dict_pre_hook(lambda *_: self.flush())

    @property
    def fbgemm_table(self) -> Any:
        """The ``SplitTableBatchedEmbeddingBagsCodegen``."""
        return self._hidden[0]

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids of any shape → ``(*shape, dim)``."""
        flat = ids.reshape(-1).long()
        each = torch.arange(len(flat) + 1, device=ids.device)
        return self.fbgemm_table(flat, each).view(*ids.shape, -1)

    def bags(self, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """See :meth:`training.tables.lookup.SparseEmbedding.bags`."""
        return self.fbgemm_table(ids.long(), offsets)

    def flush(self) -> None:
        """Brings ``weight`` up to date with the cache on the GPU, where there is one."""
        self.fbgemm_table.flush()


class FusedOptimizer(torch.optim.Optimizer):
    """The optimizer inside each :class:`FusedEmbedding`, as the training loop sees it.

    The step is made by the backward pass; ``zero_grad``, which comes before it, hands on what may
    have changed since: the learning rate and, after a checkpoint was read, the number of steps.
    """

    def __init__(self, embeddings: list[FusedEmbedding], rate: float) -> None:
        super().__init__([embedding.weight for embedding in embeddings], {"lr": rate})
        self.embeddings = embeddings
        for embedding in embeddings:
            shapes = state_shapes(embedding.kind, embedding.weight.shape)
            kept = iter(embedding.fbgemm_table.split_optimizer_states()[0] if shapes else ())
            self.state[embedding.weight] = {
                name: torch.tensor(0.0) if name == "step" else next(kept) for name in shapes
            }

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Hands the learning rate and the number of steps made to the tables."""
        for embedding in self.embeddings:
            embedding.fbgemm_table.set_learning_rate(self.param_groups[0]["lr"])
            if embedding.kind == "adam":  # Of the others no step depends on its number.
                steps = int(self.state[embedding.weight]["step"])
                embedding.fbgemm_table.set_optimizer_step(steps)

    def step(self, closure: Any = None) -> None:
        """Counts a step that the backward pass has made."""
        for state in self.state.values():
            if "step" in state:
                state["step"] += 1
