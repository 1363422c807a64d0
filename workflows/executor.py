"""Runs a workflow on one frame, passing columns on rather than copying them."""

from typing import Any

import pandas as pd

from core.merlin import ConcatColumns, LocalExecutor, SelectionOp, Workflow

SELECTING = (SelectionOp, ConcatColumns)


class ColumnExecutor(LocalExecutor):
    """Merlin's LocalExecutor, whose every step selects and concatenates whole pandas frames.

    Each of these copies all columns and consolidates them again, which costs as much as the
    operators do. Here a frame is built from the columns as they are. Operators must not write into
    the columns that they are given (NVTabular's set new ones). cuDF frames go the usual way.
    """

    def _append_addl_root_columns(self, node, transformable, upstream_outputs):
        if not isinstance(transformable, pd.DataFrame):
            return super()._append_addl_root_columns(node, transformable, upstream_outputs)
        wanted = node.input_schema.column_names
        present = {name for frame in upstream_outputs for name in wanted if name in frame}
        asked = dict.fromkeys([*wanted, *node.dependency_columns.names])
        roots = [name for name in asked if name not in present]
        if roots:
            upstream_outputs.append(joined(transformable, names=roots))
        return upstream_outputs

    def _merge_upstream_columns(self, upstream_outputs, **options):
        if not all(isinstance(frame, pd.DataFrame) for frame in upstream_outputs):
            return super()._merge_upstream_columns(upstream_outputs, **options)
        if len(upstream_outputs) == 1:
            return upstream_outputs[0]
        # Of a column that several give, the last one's counts, as with Merlin.
        return joined(*upstream_outputs)

    def _run_node_transform(self, node, input_data, capture_dtypes=False, strict=False):
        if isinstance(node.op, SELECTING) and isinstance(input_data, pd.DataFrame):
            names = node.input_columns.resolve(node.input_schema).names
            selected = joined(input_data, names=names)
            if capture_dtypes:
                self._capture_dtypes(node, selected)
            return selected
        return super()._run_node_transform(node, input_data, capture_dtypes, strict)

    def _combine_node_outputs(self, node, transformed, output):
        if not isinstance(transformed, pd.DataFrame):
            return super()._combine_node_outputs(node, transformed, output)
        selected = joined(transformed, names=list(node.output_schema.column_names))
        return selected if output is None else joined(output, selected)


def joined(*frames: pd.DataFrame, names: list[str] | None = None) -> pd.DataFrame:
    """The columns of several frames of the same rows side by side, or those named, uncopied."""
    wanted = (names or frame.columns for frame in frames)
    columns = {
        name: frame[name].array
        for frame, of_it in zip(frames, wanted, strict=True)
        for name in of_it
    }
    return pd.DataFrame(columns, index=frames[0].index, copy=False)


def transform(workflow: Workflow, frame: Any) -> Any:
    """The output of a fitted workflow for one frame, as ``workflow.transform(frame)`` gives it."""
    return ColumnExecutor().transform(frame, workflow.graph)
