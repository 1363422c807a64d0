"""Embedding tables over several processes, planned and distributed by TorchRec."""

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from core.errors import UserError
from core.merlin import torchrec
from training.distributed import ranks
from training.distributed.kernel import Shard, ShardKernel
from training.distributed.transfer import Part, Whole
from training.embeddings import TableGroup

KINDS = ("table_wise", "row_wise", "column_wise")


class ShardedTable(nn.Module):
    """The place of ``TableGroup.table`` where every process holds shards of the tables.

    Its door is that of a store: the same ids give the same vectors. ``state_dict`` has the one
    ``weight`` of all rows, in pieces that come from the processes in turn.

    Args:
        group: whose table it will replace.
        number: of the group in its model.
    """

    def __init__(self, group: TableGroup, number: int) -> None:
        super().__init__()
        self.names = list(group.names)
        self.shape = tuple(group.table.weight.shape)
        self.places = group.places.tolist()
        """First row of each column's table in the whole weight."""
        starts = sorted(set(self.places))
        ends = [*starts[1:], self.shape[0]]
        self.tables = {
            f"group{number}_table{start}": (start, end)
            for start, end in zip(starts, ends, strict=True)
        }
        """First row of each table, and the row after its last."""
        self.number = number
        self.shards: list[Shard] = []
        """Those of this process."""
        self.stores: list[nn.Module] = []
        """What holds them."""
        self._everyones: list[tuple[int, int, int, int, int]] = []
        self._hidden: list[nn.Module] = []
        self._pads = False

    @property
    def width(self) -> int:
        """Of every vector."""
        return self.shape[1]

    def collection(self) -> nn.Module:
        """The tables as TorchRec's unsharded module, without memory of its own."""
        tr = torchrec()
        configs = [
            tr.EmbeddingBagConfig(
                name=table,
                num_embeddings=end - start,
                embedding_dim=self.shape[1],
                feature_names=[
                    name
                    for name, place in zip(self.names, self.places, strict=True)
                    if place == start
                ],
            )
            for table, (start, end) in self.tables.items()
        ]
        return tr.EmbeddingBagCollection(tables=configs, device=torch.device("meta"))

    def sharded_as(self, module: nn.Module, plan: Any, kernels: list[ShardKernel]) -> None:
        """Looks up in ``module``, which TorchRec made of :meth:`collection` after ``plan``.

        Args:
            kernels: those of this process, of this and other tables.
        """
        # Not a child: its state is no part of the model's.
        self._hidden = [module]
        own = [kernel for kernel in kernels if kernel.shards[0].table in self.tables]
        self.stores = [kernel.store for kernel in own]
        self.shards = [shard for kernel in own for shard in kernel.shards]
        self._everyones = [
            (shard.placement.rank(), *shard.shard_offsets, *shard.shard_sizes, table)
            for table in self.tables
            for shard in plan[table].sharding_spec.shards
        ]
        # TorchRec's exchange of row-wise tables wants as many rows of every process.
        self._pads = any(sharding.sharding_type == "row_wise" for sharding in plan.values())

    @torch.no_grad()
    def take(self, weight: torch.Tensor) -> None:
        """Copies this process's shards out of the whole ``weight``."""
        for shard in self.shards:
            first = self.tables[shard.table][0] + shard.row
            own = shard.of(shard.weight)
            last_column = shard.column + own.shape[1]
            own.copy_(weight[first : first + shard.rows, shard.column : last_column])

    def whole(
        self, name: str, shape: tuple[int, ...], of_weight: dict[nn.Parameter, torch.Tensor]
    ) -> Whole:
        """Tensors that belong to the shards' weights, by weight, as one over all processes.

        Args:
            name: of the tensor: ``weight``, or one of the optimizer's state.
            shape: of the whole one.
            of_weight: each ``(rows, width)`` or ``(rows,)``, beside the weights of the stores.
        """
        own = {(s.table, s.row, s.column): s.of(of_weight[s.weight]) for s in self.shards}
        parts = [
            Part(
                owner,
                self.tables[table][0] + row,
                column,
                rows,
                columns,
                own.get((table, row, column)) if owner == ranks.rank() else None,
            )
            for owner, row, column, rows, columns, table in self._everyones
            if rows
        ]
        return Whole(f"{self.number}.{name}", shape, parts)

    def column_rows(self) -> dict[str, int]:
        """The number of rows of each column's table."""
        ends = dict(self.tables.values())
        return {n: ends[at] - at for n, at in zip(self.names, self.places, strict=True)}

    def column_shards(self) -> list[tuple[str, nn.Parameter, int, int, int]]:
        """This process's shards: column, weight, first row in it, rows, code of the first row."""
        return [
            (name, shard.weight, shard.start, shard.rows, shard.row)
            for shard in self.shards
            for name, place in zip(self.names, self.places, strict=True)
            if place == self.tables[shard.table][0]
        ]

    def weight_of(self) -> Whole:
        """The weights of all tables."""
        own = {shard.weight: shard.weight for shard in self.shards}
        return self.whole("weight", self.shape, own)

    def state_dict(  # type: ignore[override]
        self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> Any:
        """``weight`` as pieces; every process calls it, the first one writes them."""
        found = {} if destination is None else destination
        found[f"{prefix}weight"] = self.weight_of().pieces()
        return found

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows ``(batch, columns)`` of the whole weight → vectors ``(batch, columns, dim)``."""
        own = (ids.long() - torch.tensor(self.places, device=ids.device)).t().reshape(-1)
        return self._sums(own, torch.ones_like(own).view(len(self.names), -1))

    def bags(self, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """See ``SparseEmbedding.bags``: the bags of one column after those of another."""
        lengths = offsets.diff().view(len(self.names), -1)
        places = torch.tensor(self.places, device=ids.device)
        own = ids.long() - places.repeat_interleave(lengths.sum(1))
        return self._sums(own, lengths).transpose(0, 1).flatten(0, 1)

    def _sums(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Codes and ``(columns, batch)`` bag lengths → sums ``(batch, columns, dim)``."""
        batch = lengths.shape[1]
        if self._pads:
            most = torch.tensor(batch)
            dist.all_reduce(most, dist.ReduceOp.MAX, group=ranks.control())
            lengths = nn.functional.pad(lengths, (0, int(most) - batch))
        features = torchrec().KeyedJaggedTensor(
            keys=self.names, values=ids, lengths=lengths.flatten(), stride=lengths.shape[1]
        )
        found = self._hidden[0](features)
        return torch.stack([found[name] for name in self.names], dim=1)[:batch]


def plan_tables(
    container: nn.Module,
    tables: list[ShardedTable],
    kinds: tuple[str, ...],
    rows_of_batch: int,
    device: torch.device,
) -> Any:
    """TorchRec's plan: which process holds which part of which table.

    Args:
        container: holds the tables' collections.
        kinds: those of :data:`KINDS` that the planner may choose from.
        rows_of_batch: of each process.

    Raises:
        UserError: the tables do not fit in the memory of all processes.
    """
    tr = torchrec()
    constraints = {
        name: tr.ParameterConstraints(
            sharding_types=list(kinds),
            compute_kernels=["fused"],
            min_partition=_narrowest(table.shape[1]),
        )
        for table in tables
        for name in table.tables
    }
    on_this_machine = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.world_size()))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    topology = tr.Topology(
        world_size=ranks.world_size(),
        local_world_size=on_this_machine,
        compute_device=device.type,
        ddr_cap=memory // on_this_machine,
        hbm_cap=torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else None,
    )
    planner = tr.EmbeddingShardingPlanner(
        topology=topology, constraints=constraints, batch_size=rows_of_batch
    )
    try:
        plan = planner.collective_plan(container, [tr.AnySharder()], dist.GroupMember.WORLD)
    except tr.PlannerError as error:
        raise UserError(
            f"train.sharding: {' or '.join(kinds)}: TorchRec finds no place for the tables on "
            f"{ranks.world_size()} processes ({str(error).splitlines()[0]}); start more processes, "
            "on machines with more memory, or set sharding to auto"
        ) from None
    for module in plan.plan.values():
        for parameter in module.values():
            # Ours, see core.merlin.shard_kernels; the planner knows TorchRec's own.
            parameter.compute_kernel = "customized_kernel"
    return plan


def _narrowest(dim: int) -> int:
    """Columns of a column-wise shard at least, so that every process gets one where it can."""
    return max(4, -(-dim // ranks.world_size()))
