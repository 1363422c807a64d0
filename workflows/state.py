"""A fitted workflow's state as JSON and Parquet; the workflow itself is rebuilt from code.

NVTabular's own ``Workflow.save`` writes Python objects whose loading runs whatever is in them.
"""

from pathlib import Path
from typing import Any, Literal

from core.artifacts import write_json
from core.errors import UserError
from core.merlin import Graph, Schema, Workflow, ops, schema_to_json
from core.schemas import checked_schema
from core.strict import ClosedRecord, checked, printable, read_plain
from core.sums import Contents
from workflows.state_files import StateFiles

STATE_FILE = "state.json"


class SavedOperator(ClosedRecord):
    """What ``state.json`` holds of one operator."""

    folder: str
    operator: str
    state: dict[str, Any]


class SavedSchemas(ClosedRecord):
    """The workflow's schemas, each as a JSON text."""

    input: str
    output: str


class SavedState(ClosedRecord):
    """What ``state.json`` holds."""

    operators: list[SavedOperator]
    schemas: SavedSchemas


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
        name = operator_folder(number, op)
        (folder / name).mkdir(parents=True, exist_ok=True)
        state = op.save_state(folder / name)
        if not any((folder / name).iterdir()):
            (folder / name).rmdir()  # All of its state is in the JSON.
        saved.append({"folder": name, "operator": type(op).__name__, "state": state})
    schemas = {"input": workflow.input_schema, "output": workflow.output_schema}
    written = {name: schema_to_json(schema) for name, schema in schemas.items()}
    write_json(folder / STATE_FILE, {"operators": saved, "schemas": written})


def load_state(
    workflow: Workflow,
    folder: str | Path,
    input_schema: Schema,
    contents: Contents | None = None,
) -> Workflow:
    """Gives an unfitted ``workflow`` of the same settings the state in ``folder``.

    Args:
        contents: of the folder that ``folder`` is in, whose manifest says what was written; None:
            nothing vouches for the files.

    Raises:
        UserError: the state was made by other operators or for other columns than the workflow
            has, or a file of it is missing, altered or not what the operators write.
    """
    folder = Path(folder)
    where = folder / STATE_FILE
    saved = _read(folder, contents)
    _fit_schema(workflow, input_schema, where)
    operators = stat_operators(workflow)
    names = [type(op).__name__ for op in operators]
    if names != [entry.operator for entry in saved.operators]:
        raise UserError(
            f"{where}: made by a workflow with other operators "
            f"({[entry.operator for entry in saved.operators]}, now {names}); run preprocess again"
        )
    for number, (op, entry) in enumerate(zip(operators, saved.operators, strict=True)):
        key = f"{where}: operators.{number}"
        if entry.folder != operator_folder(number, op):
            raise UserError(f"{key}.folder: expected {operator_folder(number, op)!r}")
        columns = _columns_of(workflow, op)
        own = folder / operator_folder(number, op)
        op.load_state(StateFiles(own, entry.state, f"{key}.state", columns, contents))
    _fit_schema(workflow, input_schema, where)
    written = checked_schema(saved.schemas.output, f"{where}: schemas.output")
    fault = difference(workflow.output_schema, written)
    if fault:
        raise UserError(f"{where}: schemas.output: does not fit the operators' state: {fault}")
    return workflow


def operator_folder(number: int, op: Any) -> str:
    """Name of the folder of an operator's files."""
    return f"{number:02d}-{type(op).__name__.lower()}"


def _read(folder: Path, contents: Contents | None) -> SavedState:
    """What ``state.json`` holds."""
    path = folder / STATE_FILE
    if contents is not None:
        contents.check(path.relative_to(contents.folder).as_posix())
    return checked(SavedState, read_plain(path), path)


def _fit_schema(workflow: Workflow, input_schema: Schema, where: Path) -> None:
    """Has the workflow work out its columns from those that it reads.

    Raises:
        UserError: it cannot.
    """
    try:
        workflow.fit_schema(input_schema)
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        raise UserError(
            f"{where}: schemas.input: the workflow cannot be made of it ({printable(error)})"
        ) from error


def _columns_of(workflow: Workflow, op: Any) -> list[str]:
    """The columns that are given to an operator of a workflow whose schemas are known."""
    nodes = Graph.get_nodes_by_op_type([workflow.output_node], type(op))
    return list(
        dict.fromkeys(
            name
            for node in nodes
            if node.op is op
            for name in node.input_columns.resolve(node.input_schema).names
        )
    )


def difference(one: Schema, other: Schema) -> str:
    """A column that two schemas do not have alike, by name, number of codes, tags and whether it is
    a list; empty if there is none."""
    columns, others = _shapes(one), _shapes(other)
    for name in [*columns, *others]:
        if name not in others or name not in columns:
            return f"column {name!r} is in one of them"
        if columns[name] != others[name]:
            return f"column {name!r} has {columns[name]}, and {others[name]}"
    return "" if list(columns) == list(others) else "their columns are in another order"


def _shapes(schema: Schema) -> dict[str, str]:
    """What each column is, as far as a model is built of it."""
    return {
        column.name: f"{column.int_domain and int(column.int_domain.max) + 1} codes, "
        f"{'lists' if column.is_list else 'scalars'}, "
        f"tags {', '.join(sorted(str(getattr(tag, 'value', tag)) for tag in column.tags))}"
        for column in schema
    }


def check_growable(workflow: Workflow) -> None:
    """Checks that new rows can be added to the statistics of every operator of ``workflow``.

    Raises:
        UserError: an operator, which is named with its columns, cannot merge.
    """
    for node in Graph.get_nodes_by_op_type([workflow.output_node], ops.StatOperator):
        if not hasattr(node.op, "absorb"):
            raise UserError(
                f"{type(node.op).__name__} of {', '.join(_selected(node))}: statistics of this "
                "operator cannot be extended by new rows; run preprocess on all days without "
                "--grow, or choose settings without it"
            )


def _selected(node: Any) -> list[str]:
    """The columns that a node's operator takes, also before any schema is known."""
    names = list(node.selector.names) if node.selector is not None else []
    for parent in node.parents_with_dependencies:
        names += [name for name in _selected(parent) if name not in names]
    return names


def saved_schema(
    folder: str | Path, which: Literal["input", "output"], contents: Contents | None = None
) -> Schema:
    """The ``input`` or ``output`` schema that a state was saved with.

    Raises:
        UserError: there is none, or it is altered (see :func:`load_state`).
    """
    saved = _read(Path(folder), contents)
    where = f"{Path(folder) / STATE_FILE}: schemas.{which}"
    return checked_schema(getattr(saved.schemas, which), where)
