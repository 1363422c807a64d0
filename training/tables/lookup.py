"""The lookup of plain and compiled tables: one vector an id, or the sum of a bag of ids."""

import numpy as np
import torch
from torch import nn

from training.tables.kernels import sum_gradients


class SparseEmbedding(nn.Embedding):
    """An embedding whose gradient holds the rows of the batch only.

    A step then costs the same whatever the number of rows. The lookup is ``nn.Embedding``'s.

    Args:
        rows, dim: shape of the table.
        weight: the table, not initialised here; None: a new one as torch starts it.
    """

    def __init__(self, rows: int, dim: int, weight: torch.Tensor | None = None) -> None:
        super().__init__(rows, dim, sparse=True, _weight=weight)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids of any shape → ``(*shape, dim)``."""
        return super().forward(ids.long())

    def bags(self, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Sums over bags of ids.

        Args:
            ids: ``(n,)``.
            offsets: ``(bags + 1,)`` int64; bag ``i`` is ``ids[offsets[i]:offsets[i + 1]]``.

        Returns:
            ``(bags, dim)``; zeros for an empty bag.
        """
        return nn.functional.embedding_bag(
            ids.long(),
            self.weight,
            offsets,
            mode="sum",
            sparse=True,
            include_last_offset=True,
        )


class CompiledEmbedding(SparseEmbedding):
    """The same table on CPU, with a gradient that is summed by row in compiled loops.

    ``weight.grad`` is a sparse tensor in which every row of the batch stands once.
    """

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """See :meth:`SparseEmbedding.forward`."""
        vectors = _Lookup.apply(self.weight, ids.long().reshape(-1), None)
        return vectors.view(*ids.shape, -1)

    def bags(self, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """See :meth:`SparseEmbedding.bags`."""
        return _Lookup.apply(self.weight, ids.long(), offsets)


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, ids, offsets):
        ctx.shape = weight.shape
        ctx.save_for_backward(ids, offsets)
        if offsets is None:
            return weight.index_select(0, ids)
        return nn.functional.embedding_bag(
            ids, weight, offsets, mode="sum", include_last_offset=True
        )

    @staticmethod
    def backward(ctx, gradient):
        ids, offsets = ctx.saved_tensors
        source = None
        if offsets is not None:
            source = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets.numpy()))
        gradients = gradient.float().contiguous().numpy()
        rows, sums = sum_gradients(ids.contiguous().numpy(), gradients, source)
        return row_gradient(rows, sums, ctx.shape), None, None


def row_gradient(rows: np.ndarray, sums: np.ndarray, shape: torch.Size) -> torch.Tensor:
    """A sparse gradient of a table, every row at most once."""
    gradient = torch.sparse_coo_tensor(
        torch.from_numpy(rows)[None],
        torch.from_numpy(sums),
        shape,
        check_invariants=False,
        is_coalesced=True,
    )
    return gradient
