"""Click logs with columns of one's own → typed raw rows; those in Criteo's format are Criteo's."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import Field, model_validator

from pipeline.ingest.columns import Column, Kind
from pipeline.ingest.criteo import CriteoSourceSettings, check_separator
from pipeline.ingest.label_advice import advice, wrong_labels
from pipeline.ingest.labels import LabelValues, label_reader
from pipeline.ingest.source import NamedColumns, SourceSettings
from pipeline.ingest.table_source import TableSourceSettings

RESERVED = "training"
"""What preprocessing calls a column of its own (``workflows.ranking.TRAINING``, which would import
all of Merlin here)."""
TIME = "timestamp"
"""What the time is called in the typed log."""
KINDS: dict[str, Kind] = {
    "labels": "label",
    "categorical": "category",
    "multi_valued": "categories",
    "continuous": "number",
    "vectors": "vector",
}


class ClickColumns(NamedColumns):
    """Which columns of the log are read, under their own names."""

    labels: list[str] = Field(min_length=1)
    """Columns of 0 and 1 (also true and false, t and f, yes and no, y and n, in any case): whether
    it was clicked, put into the cart, bought. For others see label_values and label_thresholds. A
    line without a label is set aside."""

    categorical: list[str] = Field(default_factory=list)
    """Columns of ids or texts: of the user, the item, the page."""

    multi_valued: list[str] = Field(default_factory=list)
    """Columns with several categories a row (genres, tags): lists in Parquet and JSON, or a text
    with multi_value_separator between them. A row without any has a missing one."""

    continuous: list[str] = Field(default_factory=list)
    """Columns of numbers."""

    vectors: list[str] = Field(default_factory=list)
    """Columns with a vector of fixed width (a text or image embedding): lists in Parquet and JSON,
    numbers between spaces or commas, in brackets or not, in text."""

    timestamp: str | None = None
    """The column with the time of the row, see time_format; it may be one of the others too. Rows
    are sorted by it and split by it, and a row without it is set aside. null: rows are in time
    order as they are, and a file is a day."""

    @model_validator(mode="after")
    def _read_once(self) -> "ClickColumns":
        names = [name for kind in KINDS for name in getattr(self, kind)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)}: a column can be read as one thing only")
        if self.timestamp is not None and TIME in {*names} - {self.timestamp}:
            raise ValueError(
                f"two columns would be called {TIME!r}: the time ({self.timestamp!r}), and the "
                "log's own of that name; rename that one in the log, or name it as the time"
            )
        if self.timestamp == TIME and TIME in names:
            raise ValueError(f"{TIME}: the column of the time; rename it in the log to read it too")
        if RESERVED in names:
            raise ValueError(f"a column cannot be called {RESERVED!r}; rename it in the log")
        if len(names) == len(self.labels):
            raise ValueError(
                "name at least one categorical or continuous column, multi-valued one or vector"
            )
        return self


class ClickSourceSettings(TableSourceSettings):
    """A click log, one row a line, in time order unless columns.timestamp names its time: Criteo's,
    or one with columns of its own."""

    columns: ClickColumns | None = None
    """null: the log is in Criteo's format, text (plain or compressed) or Parquet. Else which
    columns of a CSV, TSV, JSON lines or Parquet file are read; those of nested JSON by a path
    (event.id)."""

    multi_value_separator: str = Field("|", min_length=1)
    """Between the values of columns.multi_valued in text. Blanks around a value are left out, and
    so are empty values."""

    label_values: dict[str, LabelValues] = Field(default_factory=dict)
    """For single labels, by their name, the values that count as 1 and as 0:
    {click: {positive: [2], negative: [1]}}."""

    label_thresholds: dict[str, float] = Field(default_factory=dict)
    """For single labels that are numbers, such as ratings, by their name, the number from which on
    they are 1; smaller ones are 0: {rating: 4}."""

    @model_validator(mode="after")
    def _fits_the_format(self) -> "ClickSourceSettings":
        if self.columns is None:
            self._check_criteo()
            return self
        for setting in ("label_values", "label_thresholds"):
            for name in getattr(self, setting):
                if name not in self.columns.labels:
                    known = ", ".join(self.columns.labels)
                    raise ValueError(f"{setting}.{name}: no such label; there are {known}")
        both = sorted({*self.label_values} & {*self.label_thresholds})
        if both:
            raise ValueError(f"{both[0]}: give label_values or label_thresholds, not both")
        for name in self.types:
            coded = [*self.columns.categorical, *self.columns.multi_valued]
            if name not in coded:
                known = ", ".join(coded) or "none"
                raise ValueError(f"types.{name}: no such categorical column; there are {known}")
        return self

    def _check_criteo(self) -> None:
        if self.separator != "auto":
            check_separator(self.separator)
        plain = ClickSourceSettings.model_construct()
        for name in type(self).model_fields:
            own = name not in SourceSettings.model_fields and name not in ("separator", "columns")
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
        """The same for rows that are to be scored, whose labels nobody knows; nor is their time
        needed, and they stay in their order."""
        if self.columns is None:
            return self
        columns = self.columns.model_copy(update={"labels": [], "timestamp": None})
        return self.model_copy(update={"columns": columns})

    def remedy(self, reasons: Mapping[str, int], bad: int) -> str | None:
        names = self.columns.labels if self.columns else ()
        counted = {name: wrong_labels(name, reasons) for name in names}
        for name, wrong in counted.items():
            count = sum(wrong.values())
            if 2 * count >= bad:
                return (
                    f"Of these, {count:,} have another value in the label {name}, which may be a "
                    f"whole class of it: {advice(name, [*wrong])}."
                )
        for name in self.columns.continuous if self.columns else ():
            texts = words_in(name, reasons)
            if 2 * sum(texts.values()) >= bad and len(texts) > 1:
                shown = ", ".join(repr(text) for text, _ in texts.most_common(3))
                return (
                    f"The column {name} holds texts, such as {shown}: name it in "
                    "ranking.source.columns.categorical rather than in continuous, or add those "
                    f"that stand for a missing value to null_values (now {self.null_values})."
                )
        return super().remedy(reasons, bad)


def words_in(column: str, reasons: Mapping[str, int]) -> Counter[str]:
    """The texts that begin with a letter in a column of numbers, and how many rows have each."""
    words: Counter[str] = Counter()
    for reason, count in reasons.items():
        value = re.match(rf"{re.escape(column)}: not a .*: '([^\W\d].*)'$", reason)
        if value:
            words[value[1]] += count
    return words


def click_columns(settings: ClickSourceSettings) -> list[Column]:
    """The columns to read, in the order of the output."""
    assert settings.columns is not None
    columns = []
    for setting, kind in KINDS.items():
        for name in getattr(settings.columns, setting):
            read = None
            if kind == "label":
                rules = settings.label_values.get(name), settings.label_thresholds.get(name)
                read = label_reader(*rules, settings.decimal, settings.thousands)
            required = kind == "label"
            column = Column(name, name, kind, f"columns.{setting}", required, read=read)
            if kind == "categories":
                column = replace(column, separator=settings.multi_value_separator)
            columns.append(column)
    if (time := settings.columns.timestamp) is not None:
        columns.append(Column(TIME, time, "time", "columns.timestamp", True, nullable=True))
    return columns


def source_settings(source: Any) -> Any:
    """``source`` as what reads the log takes it."""
    if isinstance(source, ClickSourceSettings) and source.columns is None:
        return source.criteo()
    return source
