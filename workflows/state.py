"""A fitted workflow's state as JSON and Parquet; the workflow itself is rebuilt from code.

NVTabular's own ``Workflow.save`` is a pickle, and loading one runs whatever is in it.
"""

from pathlib import Path
from typing import Any

from core.artifacts import read_json, write_json
from core.errors import UserError
from core.merlin import Graph, Schema, Workflow, ops, schema_from_json, schema_to_json

STATE_FILE = "state.json"


def stat_operators(workflow: Workflow) -> list[Any]:
    """The operators that are fitted, in an order that depends on the settings alone."""
    found: list[Any] = []

    def walk(node: Any) -> None:
        for parent in node.parents_with_dependencies:
            walk(parent)
        op = getattr(node, "op", None)
        if isinstance(op, ops.StatOperator) and all(op is not other for other in found):
            found.append(op)

    walk(workflow.output_node)
    return found


def save_state(workflow: Workflow, folder: str | Path) -> None:
    """Writes ``state.json`` (last, so that it marks the whole) and the operators' Parquet files."""
    folder = Path(folder)
    saved = []
    for number, op in enumerate(stat_operators(workflow)):
        name = f"{number:02d}-{type(op).__name__.lower()}"
        (folder / name).mkdir(parents=True, exist_ok=True)
        state = op.save_state(folder / name)
        saved.append({"folder": name, "operator": type(op).__name__, "state": state})
    schemas = {"input": workflow.input_schema, "output": workflow.output_schema}
    written = {name: schema_to_json(schema) for name, schema in schemas.items()}
    write_json(folder / STATE_FILE, {"operators": saved, "schemas": written})


def load_state(workflow: Workflow, folder: str | Path, input_schema: Schema) -> Workflow:
    """Gives an unfitted ``workflow`` of the same settings the state in ``folder``.

    Raises:
        UserError: the state was made by other operators than the workflow has.
    """
    folder = Path(folder)
    saved = read_json(folder / STATE_FILE)["operators"]
    operators = stat_operators(workflow)
    names = [type(op).__name__ for op in operators]
    if names != [entry["operator"] for entry in saved]:
        raise UserError(
            f"{folder / STATE_FILE}: made by a workflow with other operators "
            f"({[entry['operator'] for entry in saved]}, now {names}); run preprocess again"
        )
    for op, entry in zip(operators, saved, strict=True):
        op.load_state(folder / entry["folder"], entry["state"])
    workflow.fit_schema(input_schema)
    return workflow


def absorb(workflow: Workflow, later: Workflow) -> None:
    """Merges the statistics of ``later``, the same workflow fitted on later rows, into
    ``workflow``'s.

    Raises:
        UserError: an operator cannot merge, or works on what another fitted operator made: its
            statistics would be those of two different inputs.
    """
    fitted = stat_operators(workflow)
    for op in fitted:
        if not hasattr(op, "absorb"):
            raise UserError(
                f"{type(op).__name__}: its statistics cannot be extended by new rows; run "
                "preprocess on all days, or choose settings without it"
            )
    for node in Graph.get_nodes_by_op_type([workflow.output_node], ops.StatOperator):
        if Graph.get_nodes_by_op_type(node.parents_with_dependencies, ops.StatOperator):
            raise UserError(
                f"{type(node.op).__name__}: it was fitted on the output of another fitted "
                "operator, which new rows change; run preprocess on all days"
            )
    for op, more in zip(fitted, stat_operators(later), strict=True):
        op.absorb(more)


def saved_schema(folder: str | Path, which: str) -> Schema:
    """The ``input`` or ``output`` schema that a state was saved with."""
    return schema_from_json(read_json(Path(folder) / STATE_FILE)["schemas"][which])
