"""A fitted workflow's state as JSON and Parquet; the workflow itself is rebuilt from code.

NVTabular's own ``Workflow.save`` is a pickle, and loading one runs whatever is in it.
"""

from pathlib import Path
from typing import Any

from core.artifacts import read_json, write_json
from core.errors import UserError
from core.merlin import Schema, Workflow, ops, schema_from_json, schema_to_json

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


def saved_schema(folder: str | Path, which: str) -> Schema:
    """The ``input`` or ``output`` schema that a state was saved with."""
    return schema_from_json(read_json(Path(folder) / STATE_FILE)["schemas"][which])
