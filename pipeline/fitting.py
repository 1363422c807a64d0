"""Fits an NVTabular workflow on parts that are read one at a time, each once a phase.

``Workflow.fit`` builds one Dask graph over all partitions, runs every operator's branch of it, and
transforms the first partition once more to learn the types. Here a worker reads a part, runs what
is before the operators of the phase, and keeps only their statistics of this part, which are put
together in groups of eight, in the order of the parts: a log of any length needs the memory of a
few parts, and the result is the same whatever the number of workers.
"""

from collections.abc import Callable
from typing import Any

from core import cluster as dask_cluster
from core.errors import UserError
from core.merlin import Dataset, Graph, Schema, Workflow, ops
from workflows.executor import ColumnExecutor
from workflows.ops.reduction import Reduction

SAMPLE_ROWS = 1000
Read = Callable[[Any, str], Any]


def fit(
    client: Any,
    workflow: Workflow,
    sources: list[Any],
    read: Read,
    split: str,
    input_schema: Schema,
) -> None:
    """Fits ``workflow`` on ``read(source, split)`` of every source; the workflow is changed.

    An operator whose statistics cannot be put together from parts (one of NVTabular's own) sends
    the whole workflow through ``Workflow.fit``.
    """
    sample = first_rows(sources, read, split)
    workflow.fit_schema(input_schema)
    graph = workflow.graph
    for phase in phases(graph):
        if not all(_mergeable(node, sample) for node in phase):
            _fit_by_graph(workflow, sources, read, split, sample, input_schema)
            return
        statistics = _reduce(client, phase, sources, read, split)
        for node, found in zip(phase, statistics, strict=True):
            node.op.fit_finalize(found)
            node.op.fitted = True
    settle_schema(workflow, sample, input_schema)


def first_rows(sources: list[Any], read: Read, split: str) -> Any:
    """The first rows of the first source that has any.

    Raises:
        UserError: none has.
    """
    for source in sources:
        frame = read(source, split)
        if len(frame):
            return frame.iloc[:SAMPLE_ROWS]
    raise UserError(
        f"nothing is left to fit on: the {split} split has no rows after its filters. Look at the "
        "split settings and, for sessions, at min_length, drop_repeats and min_item_support"
    )


def settle_schema(workflow: Workflow, sample: Any, input_schema: Schema) -> None:
    """Brings the schema of a fitted workflow up to its state; ``sample`` says what the operators
    do not of their types."""
    ColumnExecutor().transform(sample.iloc[:SAMPLE_ROWS], workflow.graph, capture_dtypes=True)
    workflow.graph.construct_schema(input_schema, preserve_dtypes=True)


def phases(graph: Any) -> list[list[Any]]:
    """The nodes that are fitted, those that wait for others' statistics after these."""
    waiting = {
        node: set(Graph.get_nodes_by_op_type(node.parents_with_dependencies, ops.StatOperator))
        for node in Graph.get_nodes_by_op_type([graph.output_node], ops.StatOperator)
    }
    order = []
    while waiting:
        ready = [node for node, needed in waiting.items() if not needed & waiting.keys()]
        order.append(ready)
        for node in ready:
            waiting.pop(node)
    return order


def _inputs(node: Any, frame: Any) -> Any:
    """What a node is fitted on, of one frame."""
    before = node.parents_with_dependencies
    made = {name for parent in before for name in parent.output_columns.names}
    extra = set(node.input_columns.names) - made
    return ColumnExecutor().transform(frame, before, additional_columns=extra)


def _mergeable(node: Any, sample: Any) -> bool:
    """Whether an operator's fit is a ``tree_reduce``, which takes plain frames as well."""
    import dask.dataframe as dd

    frame = _inputs(node, sample)
    partition = dd.from_map(_only, [frame], meta=frame.iloc[:0], enforce_metadata=False)
    return isinstance(node.op.fit(node.input_columns, partition), Reduction)


def _only(frame: Any) -> Any:
    return frame


def _reduce(client: Any, phase: list[Any], sources: list[Any], read: Read, split: str) -> list[Any]:
    """The statistics of every node of a phase over all sources, put together on the workers."""
    found = dask_cluster.reduce(
        client, "fitting", part_statistics, combine, sources, phase, read, split
    )
    return [statistics for statistics, _ in found]


def part_statistics(source: Any, phase: list[Any], read: Read, split: str) -> list[Any]:
    """``[(statistics, how to put them together)]`` of each node, from one part."""
    frame = read(source, split)
    found = [node.op.fit(node.input_columns, _inputs(node, frame)) for node in phase]
    return [(partial.statistics, partial.combine) for partial in found]


def combine(parts: list[list[Any]]) -> list[Any]:
    """The statistics of several parts together, node by node."""
    return [
        (how([part[number][0] for part in parts]), how) for number, (_, how) in enumerate(parts[0])
    ]


def _fit_by_graph(
    workflow: Workflow,
    sources: list[Any],
    read: Read,
    split: str,
    sample: Any,
    input_schema: Schema,
) -> None:
    import dask.dataframe as dd
    import pandas as pd

    frame = sample.iloc[:0]
    training = dd.from_map(read, sources, split=split, meta=frame, enforce_metadata=False)
    cpu = isinstance(frame, pd.DataFrame)
    workflow.fit(Dataset(training, schema=input_schema, cpu=cpu))
    workflow.executor = type(workflow.executor)()  # without this client: the workers have theirs
