"""The values behind the codes of a folder of features."""

from pathlib import Path

import pyarrow as pa

from core.artifacts import read_json
from core.merlin import Schema
from pipeline.feature_folder import PLAN, open_features
from pipeline.sections import settings_class
from workflows import sessions
from workflows.state import load_state, saved_schema, stat_operators

STATE = "state"


def vocabularies(features: Path) -> dict[str, tuple[int, pa.Array]]:
    """Of each coded column of session features: the code of its first value, and its values."""
    contents = open_features(features)
    given = read_json(contents.check(PLAN))["settings"]
    settings = settings_class("sessions.preprocess")(**given)
    inputs: Schema = saved_schema(features / STATE, "input", contents)
    workflow = sessions.build(settings.workflow, inputs.column_names)
    load_state(workflow, features / STATE, inputs, contents)
    coded = {}
    for op in stat_operators(workflow):
        if not hasattr(op, "vocabulary"):
            continue
        for column in workflow.output_schema:
            values = op.vocabulary.get(op.key_of(column.name))
            if column.int_domain and values is not None:
                coded[column.name] = (op.first_value(column.name), values)
    return coded
