"""Runs a workflow on one frame, passing columns on rather than copying them."""

from typing import Any

from core.frames import joined
from core.merlin import ConcatColumns, LocalExecutor, SelectionOp, Workflow

SELECTING = (SelectionOp, ConcatColumns)


class ColumnExecutor(LocalExecutor):
    """Merlin's LocalExecutor, whose every step selects and concatenates whole frames.

    Each of these copies all columns and consolidates them again, which costs as much as the
    operators do. Here a frame, pandas' or cuDF's, is built from the columns as they are. Operators
    must not write into the columns that they are given (NVTabular's set new ones).
    """

    def transform(self, transformable, graph, additional_columns=None, capture_dtypes=False):
        """See :meth:`LocalExecutor.transform`; ``graph``: a graph or a list of nodes."""
        output = None
        for node in graph if isinstance(graph, list) else [graph.output_node]:
            made = self._execute_node(node, transformable, capture_dtypes)
            output = self._combine_node_outputs(node, made, output)
        if additional_columns:
            output = joined(output, joined(transformable, names=list(additional_columns)))
        return output

    def _execute_node(self, node, transformable, capture_dtypes=False, strict=False):
        before = self._run_upstream_transforms(node, transformable, capture_dtypes, strict)
        columns = self._append_addl_root_columns(node, transformable, before)
        merged = self._merge_upstream_columns(columns)
        return self._run_node_transform(node, merged, capture_dtypes, strict)

    def _run_upstream_transforms(self, node, transformable, capture_dtypes=False, strict=False):
        # Merlin leaves out what an operator makes of a frame without rows, columns and all.
        before = node.parents_with_dependencies
        return [self._execute_node(one, transformable, capture_dtypes, strict) for one in before]

    def _append_addl_root_columns(self, node, transformable, upstream_outputs):
        wanted = node.input_schema.column_names
        present = {name for frame in upstream_outputs for name in wanted if name in frame}
        asked = dict.fromkeys([*wanted, *node.dependency_columns.names])
        roots = [name for name in asked if name not in present]
        if roots:
            upstream_outputs.append(joined(transformable, names=roots))
        return upstream_outputs

    def _merge_upstream_columns(self, upstream_outputs, **options):
        if len(upstream_outputs) == 1:
            return upstream_outputs[0]
        # Of a column that several give, the last one's counts, as with Merlin.
        return joined(*upstream_outputs)

    def _run_node_transform(self, node, input_data, capture_dtypes=False, strict=False):
        if isinstance(node.op, SELECTING):
            names = node.input_columns.resolve(node.input_schema).names
            selected = joined(input_data, names=names)
            if capture_dtypes:
                self._capture_dtypes(node, selected)
            return selected
        return super()._run_node_transform(node, input_data, capture_dtypes, strict)

    def _combine_node_outputs(self, node, transformed, output):
        selected = joined(transformed, names=list(node.output_schema.column_names))
        return selected if output is None else joined(output, selected)


def transform(workflow: Workflow, frame: Any) -> Any:
    """The output of a fitted workflow for one frame, as ``workflow.transform(frame)`` gives it."""
    return ColumnExecutor().transform(frame, workflow.graph)
