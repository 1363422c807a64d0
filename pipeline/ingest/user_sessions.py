"""Session ids that are unique only within a user → ids of user and session together."""

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ingest.events import EventReader
from pipeline.ingest.inputs import InputFile
from pipeline.ingest.shards import Parsed

SESSION, USER, JOINT = "session_id", "user_id", ":"


class UserSessionReader(EventReader):
    """Reads events whose session is that of their user: its id is ``USER:SESSION``, a text."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        at = self.schema.get_field_index(SESSION)
        self.schema = self.schema.set(at, pa.field(SESSION, pa.string()))

    def parse(self, file: InputFile, piece: Any) -> Parsed:
        parsed = super().parse(file, piece)
        table = parsed.table
        at = table.schema.get_field_index(SESSION)
        table = table.set_column(at, self.schema.field(SESSION), joint_ids(table))
        return replace(parsed, table=table)


def joint_ids(table: pa.Table) -> pa.ChunkedArray:
    """``USER:SESSION`` of each row; no two pairs have the same."""
    users = escaped(table[USER].cast(pa.string()))
    return pc.binary_join_element_wise(users, table[SESSION].cast(pa.string()), JOINT)


def escaped(users: Any) -> Any:
    """Texts with a backslash before each backslash and colon."""
    return pc.replace_substring_regex(users, r"([\\:])", r"\\\1")


def own_ids(joint: pa.Array) -> pa.Array:
    """The session part of ``USER:SESSION``, as the log has it."""
    return pc.replace_substring_regex(joint, r"^(?:[^\\:]|\\.)*:", "")
