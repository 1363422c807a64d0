"""Click logs with columns of one's own → typed raw rows; those in Criteo's format are Criteo's."""

from typing import Any

from pydantic import Field, model_validator

from core.settings import Settings
from pipeline.ingest.columns import Column, Kind
from pipeline.ingest.criteo import CriteoSourceSettings, check_separator
from pipeline.ingest.events import TableSourceSettings
from pipeline.ingest.source import SourceSettings

RESERVED = "training"
"""What preprocessing calls a column of its own (``workflows.ranking.TRAINING``, which would import
all of Merlin here)."""
KINDS: dict[str, Kind] = {
    "labels": "label",
    "categorical": "category",
    "continuous": "number",
    "vectors": "vector",
}


class ClickColumns(Settings):
    """Which columns of the log are read, under their own names."""

    labels: list[str] = Field(min_length=1)
    """Columns of 0 and 1: whether it was clicked, put into the cart, bought. A line without one is
    set aside."""

    categorical: list[str] = Field(default_factory=list)
    """Columns of ids or texts: of the user, the item, the page."""

    continuous: list[str] = Field(default_factory=list)
    """Columns of numbers."""

    vectors: list[str] = Field(default_factory=list)
    """Columns with a vector of fixed width (a text or image embedding): lists in Parquet and JSON,
    numbers between spaces or commas, in brackets or not, in text."""

    @model_validator(mode="after")
    def _read_once(self) -> "ClickColumns":
        names = [name for kind in KINDS for name in getattr(self, kind)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)}: a column can be read as one thing only")
        if RESERVED in names:
            raise ValueError(f"a column cannot be called {RESERVED!r}; rename it in the log")
        if len(names) == len(self.labels):
            raise ValueError("name at least one categorical or continuous column or vector")
        return self


class ClickSourceSettings(TableSourceSettings):
    """A click log, one row a line, in time order: Criteo's, or one with columns of its own."""

    columns: ClickColumns | None = None
    """null: the log is in Criteo's format, text (plain or gzip) or Parquet. Else which columns of a
    CSV, TSV, JSON lines or Parquet file are read."""

    @model_validator(mode="after")
    def _fits_the_format(self) -> "ClickSourceSettings":
        if self.columns is None:
            self._check_criteo()
            return self
        for name in self.types:
            if name not in self.columns.categorical:
                known = ", ".join(self.columns.categorical) or "none"
                raise ValueError(f"types.{name}: no such categorical column; there are {known}")
        return self

    def _check_criteo(self) -> None:
        if self.separator != "auto":
            check_separator(self.separator)
        plain = TableSourceSettings()
        for name in TableSourceSettings.model_fields:
            own = name not in SourceSettings.model_fields and name != "separator"
            if own and getattr(self, name) != getattr(plain, name):
                raise ValueError(
                    f"{name} is for logs with columns of their own; name these in columns (a log "
                    "in Criteo's format has none to set)"
                )

    def criteo(self) -> CriteoSourceSettings:
        """The settings of a log in Criteo's format."""
        common = {name: getattr(self, name) for name in SourceSettings.model_fields}
        return CriteoSourceSettings(
            **common, separator="\t" if self.separator == "auto" else self.separator
        )

    def without_labels(self) -> "ClickSourceSettings":
        """The same for rows that are to be scored, whose labels nobody knows."""
        if self.columns is None:
            return self
        columns = self.columns.model_copy(update={"labels": []})
        return self.model_copy(update={"columns": columns})


def click_columns(settings: ClickSourceSettings) -> list[Column]:
    """The columns to read, in the order of the output."""
    assert settings.columns is not None
    return [
        Column(name, name, kind, f"columns.{setting}", required=kind == "label")
        for setting, kind in KINDS.items()
        for name in getattr(settings.columns, setting)
    ]


def source_settings(source: Any) -> Any:
    """``source`` as what reads the log takes it."""
    if isinstance(source, ClickSourceSettings) and source.columns is None:
        return source.criteo()
    return source
