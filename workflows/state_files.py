"""What a fitted operator reads its state from: a part of ``state.json``, and files beside it.

A state may be a stranger's: each part goes through a schema, each table through checks of its
types, its size in memory and its values.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from core.errors import UserError
from core.names import file_keys
from core.parquet_bounds import Kinds, check_bounds, read_bounded
from core.strict import ClosedRecord, checked
from core.sums import Contents

MOST_COUNTED = 1 << 62
VALUES = (pa.int64(), pa.string(), pa.large_string())
"""The types of values that operators know; see :func:`workflows.ops.values.as_values`."""
COUNTS = (pa.int64(),)
LONGEST_NAME = 64
"""Characters of a file's name that are few enough for every file system, whatever they are."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=MOST_COUNTED)]
StateType = TypeVar("StateType", bound="OperatorState")


class OperatorState(ClosedRecord):
    """Base of what ``state.json`` holds of an operator."""


class StateFiles:
    """The saved state of one operator.

    Args:
        folder: of the operator's own files.
        state: its part of ``state.json``.
        where: that part, for messages.
        columns: those that the workflow gives the operator.
        contents: of the folder that the state is in; None: nothing vouches for its files.
    """

    def __init__(
        self,
        folder: Path,
        state: Any,
        where: str,
        columns: list[str],
        contents: Contents | None = None,
    ) -> None:
        self.folder, self.columns = folder, columns
        self._state, self._where, self._contents = state, where, contents

    def record(self, kind: type[StateType]) -> StateType:
        """The operator's part of ``state.json``.

        Raises:
            UserError: it is not of this kind.
        """
        return checked(kind, self._state, self._where)

    def expect(self, key: str, found: Any, expected: Any) -> None:
        """Checks that a key holds what the workflow's settings say.

        Raises:
            UserError: it does not.
        """
        if found != expected:
            shown = " ".join(repr(found).split())[:100]
            self.refuse(key, f"expected {expected!r}, as the workflow has it, got {shown}")

    def refuse(self, key: str, what: str) -> NoReturn:
        """Raises the UserError of a key of ``state.json``."""
        raise UserError(f"{self._where}: {key}: {what}")

    def of_columns(self, kind: str, columns: Iterable[str]) -> dict[str, str]:
        """The name of each column's file of a kind, as :func:`column_files` gives them; where an
        older version wrote it under the plain name, that one."""
        files = column_files(kind, columns)
        for column, file in files.items():
            plain = f"{kind}.{column}.parquet"
            possible = plain != file and not {"/", "\0"} & {*plain} and len(plain) < LONGEST_NAME
            if possible and not self.has(file) and self.has(plain):
                files[column] = plain
        return files

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        if self._contents is not None and self._contents.files is not None:
            return self._name(name) in self._contents.files
        return (self.folder / name).is_file()

    def path(self, name: str) -> Path:
        """A file, checked against its checksum where there is one.

        Raises:
            UserError: it is absent or altered.
        """
        if self._contents is not None:
            self._contents.check(self._name(name))
        return self.folder / name

    def table(self, name: str, columns: Kinds, with_null: str | None = None) -> pa.Table:
        """A file of flat columns; only the one that ``with_null`` names may hold nulls.

        Raises:
            UserError: it is absent, altered, of another form, or larger than a state may be.
        """
        path = self.path(name)
        table = read_bounded(path, columns)
        for column in columns:
            if column != with_null and table[column].null_count:
                raise UserError(f"{path}: {column}: a value is missing")
        return table

    def bounded_path(self, name: str, columns: Kinds) -> Path:
        """A file of flat columns that is to be read a piece at a time.

        Raises:
            UserError: see :meth:`table`.
        """
        path = self.path(name)
        check_bounds(path, columns)
        return path

    def refuse_file(self, name: str, what: str) -> NoReturn:
        """Raises the UserError of a file."""
        raise UserError(f"{self.folder / name}: {what}")

    def check_counts(self, name: str, counts: np.ndarray, least: int = 1) -> None:
        """Checks that all counts of a file are possible ones.

        Raises:
            UserError: one is not.
        """
        if len(counts) and (counts.min() < least or counts.max() > MOST_COUNTED):
            self.refuse_file(name, f"count: expected at least {least}")

    def check_distinct(self, name: str, values: pa.Array) -> None:
        """Checks that no value of a file is there twice.

        Raises:
            UserError: one is.
        """
        if not are_distinct(values):
            self.refuse_file(name, "value: a value is there twice")

    def _name(self, name: str) -> str:
        """The file's name in the manifest."""
        return (self.folder / name).relative_to(self._contents.folder).as_posix()


def column_files(kind: str, columns: Iterable[str]) -> dict[str, str]:
    """The name of the file of a kind that an operator writes for each of its columns."""
    return {column: f"{kind}.{key}.parquet" for column, key in file_keys(columns).items()}


def are_distinct(values: pa.Array) -> bool:
    """Whether no value is there twice; null counts as a value."""
    if values.null_count > 1:
        return False
    known = values.drop_null()
    if pa.types.is_integer(values.type):
        rising = np.sort(known.to_numpy())
        return bool((rising[1:] != rising[:-1]).all())
    return pc.count_distinct(known).as_py() == len(known)
