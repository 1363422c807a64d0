"""Settings that every kind of raw log has in common."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator, model_validator

from core.names import check_column
from core.settings import Settings

MEBIBYTE = 1 << 20


def check_names(value: Any) -> Any:
    """The value of a setting that names one column of the log, a list of them, or none.

    Raises:
        ValueError: a name is none that a column can have.
    """
    for name in [value] if isinstance(value, str) else value or ():
        check_column(name)
    return value


class NamedColumns(Settings):
    """Base of the settings whose values are the names of columns of the log."""

    _named = field_validator("*")(check_names)


class SourceSettings(Settings):
    """Where a raw log is, and how much of it may be bad."""

    path: str | list[str] | None = None
    """A file, a folder, a glob, or a list of these. Folders and globs are read in natural order
    (day_2 before day_10); folders in a folder if named like date=2021-01-01, whose key is then a
    column. None: the folder that the stage is given."""

    max_bad_fraction: float = Field(default=0.01, ge=0, le=1)
    """Share of lines that may be quarantined before the stage fails. A single bad line is always
    let through, however short the log, unless this is 0."""

    rows_per_shard: int = Field(default=1_000_000, ge=1)
    """Rows in each Parquet shard; a shard never spans two input files."""

    max_line_bytes: int = Field(default=MEBIBYTE, ge=16)
    """Longer lines are quarantined, whatever they hold, and so are records of several lines."""

    block_bytes: int = Field(default=4 * MEBIBYTE, ge=64)
    """Text is read and parsed in pieces of this size; memory grows with it times the workers."""

    workers: int = Field(default=0, ge=0)
    """Threads that parse and write; 0 means one per core. The output does not depend on it."""

    def remedy(self, reasons: Mapping[str, int], bad: int) -> str | None:
        """What to set where many lines are bad for one thing that a setting is for; else None.

        Args:
            reasons: why lines are bad, and how many are; rare ones may be left out.
            bad: how many are bad in all.
        """
        return None

    @model_validator(mode="after")
    def _path_is_given(self) -> "SourceSettings":
        if self.path is not None and not (
            self.path if isinstance(self.path, str) else any(self.path)
        ):
            raise ValueError("path is empty; give a file, a folder, a glob or a list of them")
        return self
