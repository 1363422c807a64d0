"""Fits an NVTabular workflow on parts that are read one at a time, each once a phase.

``Workflow.fit`` builds one Dask graph over all partitions, runs every operator's branch of it, and
transforms the first partition once more to learn the types. Here a worker reads a part, runs what
is before the operators of the phase, and keeps only their statistics of this part, which are put
together in groups of eight, in the order of the parts: a log of any length needs the memory of a
few parts, and the result is the same whatever the number of workers.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core import cluster as dask_cluster
from core import frames, gpu
from core.merlin import Dataset, Graph, Schema, Workflow, ops
from pipeline.splits import EmptySplit
from workflows.executor import ColumnExecutor
from workflows.state import stat_operators

SAMPLE_ROWS = 1000
SMALLER_PARTS = (
    "lower rows_per_part (of sessions: events_per_part) in the recipe's preprocess settings, or "
    "set device to cpu"
)
Read = Callable[[Any, str], Any]


def fit(
    client: Any,
    workflow: Workflow,
    sources: list[Any],
    read: Read,
    split: str,
    input_schema: Schema,
    spill_folder: str | Path | None = None,
    device: frames.Device = "cpu",
    onto: Workflow | None = None,
) -> None:
    """Fits ``workflow`` on ``read(source, split)`` of every source; the workflow is changed.

    What does not fit in memory goes to ``spill_folder``, which the workers must reach too, and
    which may be removed once the workflow's state is saved. None: everything is kept in memory.
    ``device``: where the workers hold the frames; the statistics come to the host.
    ``onto``: the same workflow fitted on earlier rows, into which each operator's statistics are
    merged as soon as they are there. What is fitted on the output of another operator then sees
    that of the merged one.

    An operator whose statistics cannot be put together from parts (one of NVTabular's own) sends
    the whole workflow through ``Workflow.fit``, on the host.
    """
    workflow.fit_schema(input_schema)
    sample = None
    earlier = [] if onto is None else stat_operators(onto)
    merged = {id(op): old for op, old in zip(stat_operators(workflow), earlier, strict=False)}
    for phase in phases(workflow.graph):
        if not all(hasattr(node.op, "absorb") for node in phase):
            sample = first_rows(sources, read, split)
            _fit_by_graph(workflow, sources, read, split, sample, input_schema)
            return
        for node in phase:
            if hasattr(node.op, "spill_folder"):
                node.op.spill_folder = spill_folder and str(spill_folder)
        statistics, sample = _reduce(client, phase, sources, frames.reader(read, device), split)
        if sample is None:
            raise _nothing_left(split)
        for node, found in zip(phase, statistics, strict=True):
            if hasattr(node.op, "settle"):
                found = node.op.settle(found, functools.partial(dask_cluster.run, client))
            node.op.fit_finalize(found)
            node.op.fitted = True
            if id(node.op) in merged:
                merged[id(node.op)].absorb(node.op)
                node.op = merged[id(node.op)]
    if sample is None:
        sample = first_rows(sources, read, split)
    settle_schema(workflow, sample, input_schema)


def first_rows(sources: list[Any], read: Read, split: str) -> Any:
    """The first rows of the first source that has any.

    Raises:
        EmptySplit: none has.
    """
    for source in sources:
        frame = read(source, split)
        if len(frame):
            return frame.iloc[:SAMPLE_ROWS]
    raise _nothing_left(split)


def _nothing_left(split: str) -> EmptySplit:
    return EmptySplit(
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


def _reduce(
    client: Any, phase: list[Any], sources: list[Any], read: Read, split: str
) -> tuple[list[Any], Any]:
    """The statistics of every node of a phase over all sources, put together on the workers, and
    the first rows of the first source that has any (None: none has)."""
    found, sample = dask_cluster.reduce(
        client, "fitting", part_statistics, combine, sources, phase, read, split
    )
    return [statistics for statistics, _ in found], sample


def part_statistics(
    source: Any, phase: list[Any], read: Read, split: str
) -> tuple[list[tuple[Any, Any]], Any]:
    """``(statistics, how to put them together)`` of each node from one part, and its first rows."""
    with gpu.named_shortage("fitting the workflow", SMALLER_PARTS):
        frame = read(source, split)
        found = [node.op.fit(node.input_columns, _inputs(node, frame)) for node in phase]
    first = frames.head(frame, SAMPLE_ROWS) if len(frame) else None
    return [(partial.statistics, partial.combine) for partial in found], first


def combine(parts: list[tuple[list[tuple[Any, Any]], Any]]) -> tuple[list[tuple[Any, Any]], Any]:
    """What :func:`part_statistics` gives of several parts together, node by node."""
    nodes = [found for found, _ in parts]
    with gpu.named_shortage("fitting the workflow", SMALLER_PARTS):
        together = [
            (how([node[number][0] for node in nodes]), how)
            for number, (_, how) in enumerate(nodes[0])
        ]
    return together, next((first for _, first in parts if first is not None), None)


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
