"""A fitted workflow's state as JSON and Parquet; the workflow itself is rebuilt from code.

NVTabular's own ``Workflow.save`` writes Python objects whose loading runs whatever is in them.
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


def check_growable(workflow: Workflow) -> None:
    """Checks that new rows can be added to the statistics of every operator of ``workflow``.

    Raises:
        UserError: an operator, which is named with its columns, cannot merge, or works on what
            another fitted operator made: its statistics would be those of two different inputs.
    """
    for node in Graph.get_nodes_by_op_type([workflow.output_node], ops.StatOperator):
        what = f"{type(node.op).__name__} of {', '.join(_selected(node))}"
        if not hasattr(node.op, "absorb"):
            raise UserError(
                f"{what}: statistics of this operator cannot be extended by new rows; run "
                "preprocess on all days without --grow, or choose settings without it"
            )
        before = Graph.get_nodes_by_op_type(node.parents_with_dependencies, ops.StatOperator)
        if before:
            names = sorted({type(other.op).__name__ for other in before})
            raise UserError(
                f"{what}: fitted on what {', '.join(names)} makes of the same columns, which new "
                "rows change. Run preprocess on all days without --grow, or choose for these "
                "columns settings of which one alone is fitted (such as missing: 0 with scale: "
                "standard, or missing: median with scale: none)"
            )


def _selected(node: Any) -> list[str]:
    """The columns that a node's operator takes, also before any schema is known."""
    names = list(node.selector.names) if node.selector is not None else []
    for parent in node.parents_with_dependencies:
        names += [name for name in _selected(parent) if name not in names]
    return names


def absorb(workflow: Workflow, later: Workflow) -> None:
    """Merges the statistics of ``later``, the same workflow fitted on later rows, into
    ``workflow``'s; see :func:`check_growable`."""
    check_growable(workflow)
    for op, more in zip(stat_operators(workflow), stat_operators(later), strict=True):
        op.absorb(more)


def saved_schema(folder: str | Path, which: str) -> Schema:
    """The ``input`` or ``output`` schema that a state was saved with."""
    return schema_from_json(read_json(Path(folder) / STATE_FILE)["schemas"][which])
