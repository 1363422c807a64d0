"""A model over all processes: its loss, its tables and their optimizers, its state.

Dense layers are copied to every process and their gradients averaged (data parallel, as
``torch.nn.parallel.DistributedDataParallel`` does); tables are sharded (model parallel). Both by
TorchRec's ``DistributedModelParallel``.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from core.errors import UserError
from core.merlin import shard_kernels, torchrec
from training import checkpoints
from training.batches import Batch
from training.checkpoints import Checkpoint, Tensors
from training.distributed import ranks
from training.distributed.kernel import ShardKernel
from training.distributed.optimizer import ShardedOptimizer
from training.distributed.sharded import KINDS, ShardedTable, plan_tables
from training.engine_settings import EngineSettings
from training.tables import place


class Parallel:
    """What a training step asks of all processes together.

    Args:
        model: the same weights in every process; its table groups' tables are sharded here.
        settings: with ``device`` resolved.
        device: this process's own.

    Attributes:
        tables: the sharded ones.
        optimizers: of their shards.

    Raises:
        UserError: ``settings.sharding`` does not go with the other settings or the memory there is.
    """

    def __init__(self, model: nn.Module, settings: EngineSettings, device: torch.device) -> None:
        groups = place.table_groups(model)
        weights = [group.table.weight.detach() for group in groups]
        self.model = model
        self.device = device
        self.tables = [ShardedTable(group, number) for number, group in enumerate(groups)]
        kind = place.optimizer_kind(settings)
        widths = {weight.shape[1] for weight in weights}
        store = place.choose_store(settings, kind, device, widths)
        if groups and kind == "rowwise_adagrad" and settings.sharding == "column_wise":
            raise UserError(
                "train.sharding: column_wise cuts the rows that rowwise_adagrad keeps one number "
                "for; set sharding to table_wise or row_wise, or table_optimizer to adagrad"
            )
        container = _Container(model, [table.collection() for table in self.tables])
        for group, table in zip(groups, self.tables, strict=True):
            group.table = table
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchRec's, about names that it uses itself.
            self._whole = self._parallel(container, settings, store, kind)
        for table, weight in zip(self.tables, weights, strict=True):
            table.take(weight)
        self.optimizers = self._optimizers(settings, store, kind)

    def _parallel(
        self, container: "_Container", settings: EngineSettings, store: str, kind: str
    ) -> nn.Module:
        tr = torchrec()
        plan = tr.ShardingPlan({})
        if self.tables:
            kinds = KINDS if settings.sharding == "auto" else (settings.sharding,)
            if kind == "rowwise_adagrad":
                kinds = tuple(each for each in kinds if each != "column_wise")
            rows = settings.batch_size // ranks.world_size()
            plan = plan_tables(container, self.tables, kinds, rows, self.device)

        def make_store(rows: int, width: int) -> nn.Module:
            weight = place.allocator()("shards", (rows, width)).to(self.device)
            return place.new_store(store, weight, settings, self.device)

        kernels = []

        def make(config: Any) -> ShardKernel:
            kernels.append(ShardKernel(config, make_store))
            return kernels[-1]

        with shard_kernels(make):
            whole = tr.DistributedModelParallel(
                container,
                env=tr.ShardingEnv.from_process_group(dist.GroupMember.WORLD),
                device=self.device,
                plan=plan,
                sharders=[tr.AnySharder()] if self.tables else [],
                init_parameters=False,
                # A batch may leave layers unused, such as one without a target in some process.
                data_parallel_wrapper=tr.DefaultDataParallelWrapper(
                    static_graph=False, find_unused_parameters=True
                ),
            )
        for number, table in enumerate(self.tables):
            part = plan.plan[f"collections.{number}"]
            table.sharded_as(container.collections[number], part, kernels)
        return whole

    def _optimizers(
        self, settings: EngineSettings, store: str, kind: str
    ) -> list[torch.optim.Optimizer]:
        optimizers = []
        for rate, tables in place.by_rate(self.tables, settings):
            stores = [each for table in tables for each in table.stores]
            own = place.store_optimizer(store, stores, settings, rate) if stores else None
            optimizers.append(ShardedOptimizer(tables, own, kind, rate))
        return optimizers

    @property
    def shard_weights(self) -> list[nn.Parameter]:
        """The weights of this process's stores."""
        return [store.weight for table in self.tables for store in table.stores]

    def loss(self, batch: Batch) -> torch.Tensor:
        """The mean loss over the slices of all processes, weighted by what each averages over.

        Its backward pass gives every process the gradients of that mean.
        """
        mean, count = self._whole(batch)
        if not count:
            # The mean of nothing is NaN; the backward pass has to run all the same.
            mean = torch.nan_to_num(mean)
        sums = torch.stack([mean.detach().double() * count, mean.new_tensor(count).double()])
        dist.all_reduce(sums)
        total = sums[1].clamp(min=1)
        # Gradients are averaged over processes, of dense layers and of tables.
        own = mean * (count * ranks.world_size() / total).to(mean.dtype)
        return own + ((sums[0] / total).to(mean.dtype) - own.detach())

    def served(self) -> dict[str, Callable[[], None]]:
        """What this process sends when the first one writes, see :func:`ranks.on_first`."""
        wholes = [table.weight_of() for table in self.tables]
        for optimizer in self.optimizers:
            wholes += optimizer.wholes().values()
        return {whole.name: whole.send for whole in wholes}

    def restore(
        self,
        checkpoint: Checkpoint,
        optimizers: list[torch.optim.Optimizer] | None = None,
    ) -> Tensors:
        """Takes over a checkpoint, whatever the number of processes that wrote it.

        Args:
            checkpoint: its state everywhere, its tensors in the first process.
            optimizers: all of the run's, to be restored as well.

        Returns:
            All of its tensors that are not parts of sharded tables, in every process.
        """
        file = checkpoint.tensors if ranks.is_first() else None
        names = self._names_of_tables()
        prefixes = tuple(f"model.{name}" for name in names.values())
        rest = checkpoint.state.get("optimizers", [])
        first_sharded = len(rest) - len(self.optimizers)
        prefixes += tuple(f"optimizer.{n}." for n in range(first_sharded, len(rest)))
        dense = {n: file[n] for n in file or () if not n.startswith(prefixes)}
        tensors = ranks.shared_tensors(dense)
        checkpoints.restore_model(self.model, tensors)
        for table in self.tables:
            table.weight_of().fill(file, f"model.{names[table]}")
        if optimizers is not None:
            alone = optimizers[:first_sharded]
            checkpoints.restore_optimizers(alone, tensors, rest[:first_sharded])
            for number, optimizer in enumerate(self.optimizers, first_sharded):
                optimizer.restore(file, f"optimizer.{number}.", rest[number]["groups"][0])
        return tensors

    def _names_of_tables(self) -> dict[ShardedTable, str]:
        """The name of each table's weight in the model's state dict."""
        modules = self.model.named_modules()
        return {m: f"{name}.weight" for name, m in modules if isinstance(m, ShardedTable)}

    def average_buffers(self) -> None:
        """Gives all processes the mean of running statistics, which each has of its own rows."""
        for module in self.model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                for buffer in (module.running_mean, module.running_var):
                    if buffer is not None:
                        dist.all_reduce(buffer)
                        buffer /= ranks.world_size()


class _Container(nn.Module):
    """The model and TorchRec's tables, as one module to wrap."""

    def __init__(self, model: nn.Module, collections: list[nn.Module]) -> None:
        super().__init__()
        self.model = model
        self.collections = nn.ModuleList(collections)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, int]:
        """The mean loss, and how many rows or targets it is the mean of."""
        weighted = getattr(self.model, "weighted_loss", None)
        if weighted is not None:
            return weighted(batch)
        return self.model.loss(batch), rows_of(batch)


def rows_of(batch: Batch) -> int:
    """Rows of a batch, of which there may be none."""
    name, tensor = next(iter(batch[0].items()))
    if name.endswith("__values"):
        return len(batch[0][f"{name.removesuffix('__values')}__offsets"]) - 1
    return len(tensor) - name.endswith("__offsets")
