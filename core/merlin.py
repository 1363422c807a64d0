"""The one place that adapts Merlin to today's stack; everything else imports Merlin through it.

Importing this module sets what Dask must be told before Merlin's first import, keeps Merlin's
import-time notices (no TensorFlow, no Triton, deprecated pynvml) off the user's screen, and
gives the few names of Merlin that this project uses.
"""

import os
import warnings

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

dask.config.set({"dataframe.query-planning": False, "dataframe.convert-string": False})

# Said at every Dataset on pandas; that is what a machine without a GPU is meant to do.
warnings.filterwarnings("ignore", message="Initializing an NVTabular Dataset in CPU mode")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import merlin.io  # noqa: F401
    import nvtabular
    from merlin.dag import Graph
    from merlin.dag.executors import LocalExecutor
    from merlin.dag.ops.selection import SelectionOp
    from merlin.io import Dataset
    from merlin.schema import ColumnSchema, Schema, Tags
    from merlin.schema.io.tensorflow_metadata import TensorflowMetadata
    from nvtabular import Workflow, ops

# Raised at every forward pass of merlin.models, about its own type checks.
warnings.filterwarnings("ignore", message="The inner type of a container is lost")

__all__ = [
    "ColumnSchema",
    "Dataset",
    "Graph",
    "LocalExecutor",
    "Schema",
    "SelectionOp",
    "Tags",
    "Workflow",
    "nvtabular",
    "ops",
    "read_ahead_queue",
    "schema_from_json",
    "schema_to_json",
    "torch_loader",
    "torch_models",
    "transformers4rec",
]


def schema_to_json(schema: Schema) -> str:
    """A Merlin schema as the JSON form of TensorFlow Metadata."""
    return TensorflowMetadata.from_merlin_schema(schema).to_json()


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
