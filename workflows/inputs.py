"""Which columns of the log a feature is made of."""

from collections.abc import Iterable
from typing import Any

from core.merlin import Workflow


def columns_behind(workflow: Workflow, outputs: Iterable[str]) -> set[str]:
    """The input columns of a fitted workflow that some of its ``outputs`` are made of.

    Where an operator does not say which of its inputs an output is made of, it is all of them.
    """
    return _behind(workflow.output_node, {*outputs})


def _behind(node: Any, wanted: set[str]) -> set[str]:
    """The input columns of the workflow that columns of a node's output are made of."""
    read = node.input_columns.names
    mapping = node.op.column_mapping(node.input_columns) if node.op is not None else {}
    needed: set[str] = set()
    for name in wanted & {*node.output_schema.column_names}:
        needed.update(mapping.get(name, read))
    parents = node.parents_with_dependencies
    if not parents:
        return needed
    return {name for parent in parents for name in _behind(parent, needed)}
