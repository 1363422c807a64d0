"""The rows and columns of tables that one process holds, as TorchRec asks for them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn


class Shard(NamedTuple):
    """A rectangle of one table, and where it lies in this process."""

    table: str
    row: int
    column: int
    """The rectangle's first row and column in the table."""
    rows: int
    weight: nn.Parameter
    """Of the store that holds it; its rows are ``weight[start : start + rows]``."""
    start: int

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """This shard's part of the weight, or of a state tensor that has its rows."""
        return tensor.detach()[self.start : self.start + self.rows]


class ShardKernel(nn.Module):
    """Looks up bags in the shards of several tables that this process holds.

    It stands in the place of TorchRec's own kernels, so that a sharded table is stored, looked up
    and updated just as one in a single process is.

    Args:
        config: TorchRec's ``GroupedEmbeddingConfig``: the shards, all of one width.
        make_store: rows, width → a store as ``TableGroup.table``.
    """

    def __init__(self, config: Any, make_store: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.config = config
        (self.width,) = {table.local_cols for table in config.embedding_tables}
        store = make_store(sum(table.local_rows for table in config.embedding_tables), self.width)
        # Not a child: a model's weights are the whole tables, see ShardedTable.
        self._hidden = [store]
        self.shards: list[Shard] = []
        starts, start = [], 0
        for table in config.embedding_tables:
            place = table.local_metadata.shard_offsets
            self.shards.append(Shard(table.name, *place, table.local_rows, store.weight, start))
            starts += [start] * len(table.feature_names)
            start += table.local_rows
        self.register_buffer("starts", torch.tensor(starts, device=store.weight.device))

    @property
    def store(self) -> nn.Module:
        """What holds the shards' rows, one shard after the other."""
        return self._hidden[0]

    def forward(self, features: Any) -> torch.Tensor:
        """A ``KeyedJaggedTensor`` → sums ``(batch, features · width)``."""
        batch = features.stride()
        if not batch:
            return self.store.weight.new_zeros(0, len(self.starts) * self.width)
        offsets = features.offsets().long()
        ids_of_feature = offsets[::batch].diff()
        ids = features.values().long() + self.starts.repeat_interleave(ids_of_feature)
        vectors = self.store.bags(ids, offsets)
        return vectors.view(len(self.starts), batch, self.width).transpose(0, 1).flatten(1)

    # What else TorchRec asks of a kernel. The state is read from the shards, not through it.

    def state_dict(self, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """Nothing."""
        return {} if destination is None else destination

    def named_parameters_by_table(self) -> Any:
        """Nothing."""
        return iter(())

    def flush(self) -> None:
        """Nothing is held back."""

    def purge(self) -> None:
        """Nothing is cached."""
