"""The one place that adapts Merlin to today's stack; everything else imports Merlin through it.

Importing this module sets what Dask must be told before Merlin's first import, keeps Merlin's
import-time notices (no TensorFlow, no Triton, deprecated pynvml) off the user's screen, and
gives the few names of Merlin that this project uses.
"""

import contextlib
import json
import os
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

# NVTabular builds legacy Dask graphs, and its operators expect object strings rather than Arrow's.
# Set in the environment too, so that worker processes start with the same.
os.environ["DASK_DATAFRAME__QUERY_PLANNING"] = "False"
os.environ["DASK_DATAFRAME__CONVERT_STRING"] = "False"
# transformers imports TensorFlow or JAX where it finds them; nothing here uses either.
os.environ.setdefault("USE_TF", "0")
os.environ.setdefault("USE_FLAX", "0")
# No hub is ever asked: every model starts from its own configuration.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import dask

from core import gpu

dask.config.set({"dataframe.query-planning": False, "dataframe.convert-string": False})

# Said at every Dataset on pandas; that is what a machine without a GPU is meant to do.
warnings.filterwarnings("ignore", message="Initializing an NVTabular Dataset in CPU mode")


def hide_gpu() -> None:
    """Has Merlin take this machine for one without a GPU, before it has looked.

    Merlin takes a visible GPU for a promise of cuDF; a machine that only trains may have none.
    """
    import merlin.core.has_gpu

    merlin.core.has_gpu.HAS_GPU = False


def adapt_cudf() -> None:
    """Gives cuDF 24.12 what Merlin 23.8 asks of it, before Merlin does."""
    import cudf._lib.groupby
    import cudf.core.column

    if not hasattr(cudf.core.column, "build_categorical_column"):
        cudf.core.column.build_categorical_column = categorical_column
    count_rows_of_strings(cudf._lib.groupby)


def categorical_column(
    categories: Any, codes: Any, size: int | None = None, offset: int = 0, ordered: bool = False
) -> Any:
    """cuDF's ``build_categorical_column``, gone from 24.12, as Merlin calls it (for the folders of
    a partitioned data set)."""
    import cudf
    from cudf.core.column import CategoricalColumn, as_column

    kind = cudf.CategoricalDtype(categories=as_column(categories), ordered=ordered)
    return CategoricalColumn(
        data=None, size=size, dtype=kind, offset=offset, children=(as_column(codes),)
    )


def count_rows_of_strings(groupby: ModuleType) -> None:
    """Lets a group-by count the rows of groups of strings.

    cuDF knows its aggregations by names in capitals, but holds the one that is asked for, which is
    not, against them: ``size`` of strings is refused (and taken by all other types).
    """
    for names in (groupby._STRING_AGGS, groupby._CATEGORICAL_AGGS):
        names.add("size")


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    if gpu.takes_frames():
        try:
            gpu.load_libraries()
            adapt_cudf()
        except Exception as error:  # an old driver, say: what needs no cuDF must still run
            gpu.is_broken(error)
    if not gpu.takes_frames():  # Merlin also counts GPUs that CUDA_VISIBLE_DEVICES hides
        hide_gpu()
    import merlin.io  # noqa: F401
    import nvtabular
    from merlin.dag import Graph
    from merlin.dag.executors import LocalExecutor
    from merlin.dag.ops.concat_columns import ConcatColumns
    from merlin.dag.ops.selection import SelectionOp
    from merlin.io import Dataset
    from merlin.schema import ColumnSchema, Schema, Tags
    from merlin.schema.io.tensorflow_metadata import TensorflowMetadata
    from nvtabular import Workflow, ops

# Raised at every forward pass of merlin.models, about its own type checks.
warnings.filterwarnings("ignore", message="The inner type of a container is lost")

__all__ = [
    "ColumnSchema",
    "ConcatColumns",
    "Dataset",
    "Graph",
    "LocalExecutor",
    "Schema",
    "SelectionOp",
    "Tags",
    "Workflow",
    "fbgemm",
    "nvtabular",
    "ops",
    "read_ahead_queue",
    "schema_from_json",
    "schema_to_json",
    "shard_kernels",
    "torch_loader",
    "torch_models",
    "torchrec",
    "transformers4rec",
]


def schema_to_json(schema: Schema) -> str:
    """A Merlin schema as the JSON form of TensorFlow Metadata."""
    written = json.loads(TensorflowMetadata.from_merlin_schema(schema).to_json())
    # Tags and properties have no order of their own: each process would write other bytes.
    for feature in written.get("feature", ()):
        feature.get("annotation", {}).get("tag", []).sort()
    return json.dumps(written, sort_keys=True)


def schema_from_json(text: str) -> Schema:
    """The inverse of :func:`schema_to_json`."""
    return TensorflowMetadata.from_json(text).to_merlin_schema()


def torch_loader():
    """``merlin.dataloader.torch``, imported when first asked for (torch takes seconds)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import merlin.dataloader.torch as module
    return module


def read_ahead_queue():
    """The class of the queue that merlin-dataloader's background thread fills."""
    torch_loader()
    from merlin.dataloader.loader_base import ChunkQueue

    return ChunkQueue


def torch_models():
    """``merlin.models.torch``, imported when first asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import merlin.models.torch as module
    return module


def fbgemm() -> SimpleNamespace:
    """The names of ``fbgemm_gpu`` that fused tables need, imported when first asked for.

    Raises:
        ImportError: it is not installed, or does not fit this torch.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import fbgemm_gpu.split_table_batched_embeddings_ops_common as common
        import fbgemm_gpu.split_table_batched_embeddings_ops_training as training
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
    return SimpleNamespace(
        BoundsCheckMode=common.BoundsCheckMode,
        ComputeDevice=training.ComputeDevice,
        EmbOptimType=EmbOptimType,
        EmbeddingLocation=common.EmbeddingLocation,
        PoolingMode=common.PoolingMode,
        SplitTableBatchedEmbeddingBagsCodegen=training.SplitTableBatchedEmbeddingBagsCodegen,
    )


def torchrec() -> SimpleNamespace:
    """The names of ``torchrec`` that sharded tables need, imported when first asked for.

    ``AnySharder`` offers every kind of sharding whatever the device: TorchRec's own leaves row-wise
    tables to GPUs, though their exchange works over gloo as well. What it shards has no weights
    until :func:`shard_kernels` bring theirs.

    Raises:
        ImportError: it, or ``fbgemm_gpu`` below it, is not installed or does not fit this torch.
    """
    import logging

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchrec
        from torchrec.distributed import model_parallel, types
        from torchrec.distributed.embedding_lookup import GroupedPooledEmbeddingsLookup
        from torchrec.distributed.embeddingbag import (
            EmbeddingBagCollectionSharder,
            ShardedEmbeddingBagCollection,
        )
        from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
        from torchrec.distributed.planner.types import ParameterConstraints, PlannerError
    # Of functions that TorchRec calls by their old names, at every step.
    warnings.filterwarnings(
        "ignore", message="`torch.distributed.*is deprecated", category=FutureWarning
    )
    # Advice on how a planner's topology should be made, and on dry runs.
    logging.getLogger("torchrec").setLevel(logging.ERROR)
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)

    class Sharded(ShardedEmbeddingBagCollection):
        def reset_parameters(self) -> None:
            pass

    class AnySharder(EmbeddingBagCollectionSharder):
        def sharding_types(self, compute_device_type: str) -> list[str]:
            return ["table_wise", "row_wise", "column_wise"]

        def shard(self, module, params, env, device=None, module_fqn=None):
            return Sharded(module, params, env, self.fused_params, device, module_fqn=module_fqn)

    return SimpleNamespace(
        AnySharder=AnySharder,
        DefaultDataParallelWrapper=model_parallel.DefaultDataParallelWrapper,
        DistributedModelParallel=model_parallel.DistributedModelParallel,
        EmbeddingBagCollection=torchrec.EmbeddingBagCollection,
        EmbeddingBagConfig=torchrec.EmbeddingBagConfig,
        EmbeddingShardingPlanner=EmbeddingShardingPlanner,
        GroupedPooledEmbeddingsLookup=GroupedPooledEmbeddingsLookup,
        KeyedJaggedTensor=torchrec.KeyedJaggedTensor,
        ParameterConstraints=ParameterConstraints,
        PlannerError=PlannerError,
        ShardingEnv=types.ShardingEnv,
        ShardingPlan=types.ShardingPlan,
        Topology=Topology,
    )


@contextlib.contextmanager
def shard_kernels(make: Callable) -> Iterator[None]:
    """Tables that TorchRec shards inside are held by kernels of ours.

    TorchRec's own know FBGEMM's optimizers only, and none of the CPU's tables.

    Args:
        make: TorchRec's ``GroupedEmbeddingConfig`` → the module that looks up its shards.
    """
    lookup = torchrec().GroupedPooledEmbeddingsLookup
    before = lookup._create_embedding_kernel
    lookup._create_embedding_kernel = lambda self, config, *rest: make(config)
    try:
        yield
    finally:
        lookup._create_embedding_kernel = before


def transformers4rec():
    """``transformers4rec.torch``, imported when first asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers4rec.torch as module
    return module


def versions() -> str:
    """The versions of the stack, after importing all of it."""
    import importlib.metadata as metadata

    import torch

    torch_loader(), torch_models(), transformers4rec()
    names = ("nvtabular", "merlin-models", "transformers4rec")
    listed = [f"{name} {metadata.version(name)}" for name in names]
    return ", ".join([*listed, f"torch {torch.__version__}"])


if __name__ == "__main__":
    print(versions())
