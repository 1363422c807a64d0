"""Settings of logs with named columns: how their files are laid out and their values written."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from pipeline.ingest.dialect import TWO_COLONS
from pipeline.ingest.source import SourceSettings
from pipeline.ingest.text_source import UTF8, encoding_name
from pipeline.ingest.times import check_format, check_zone, to_unix

SEPARATOR_NAMES = {"comma": ",", "tab": "\t", "semicolon": ";", "bar": "|"}


class TableSourceSettings(SourceSettings):
    """A log with named columns, one row a line."""

    format: Literal["auto", "csv", "jsonl", "parquet"] = "auto"
    """Kind of file. auto: by extension (.csv .tsv .txt .jsonl .ndjson .parquet; of text also with
    .gz .bz2 .xz .zst), else by its first bytes. csv is any text with a separator."""

    encoding: Annotated[str, AfterValidator(encoding_name)] = UTF8
    """What the text is in: utf-8, cp1252, latin-1, utf-16 and all others that Python knows. A
    byte-order mark at the start of a file is left out."""

    separator: str = "auto"
    """Between the fields of text: one character, or comma, tab, semicolon, bar, or two colons (::).
    auto: by the first line; without a header row, by the first lines."""

    quote: str = '"'
    """The character around fields that hold separators or line ends; twice within such a field, it
    is one quote. '' if quotes mean nothing."""

    column_names: list[str] | None = None
    """Names of the columns, in order, for text files without a header row."""

    types: dict[str, Literal["integer", "string"]] = Field(default_factory=dict)
    """Type of single id or categorical columns, by their name in the output. Of the others: integer
    (64 bits, signed) if the log holds nothing but integers as programs write them, else string.
    007, +5, -0 and 5.0 are texts; where integer is set, a row with one is quarantined."""

    widths: dict[str, int] = Field(default_factory=dict)
    """Lengths of single vectors, by their name. Of the others: the most common one at the beginning
    of the log."""

    null_values: list[str] = Field(default=[""])
    """Texts that stand for a missing value. NaN in a column of numbers is one in any case."""

    decimal: Literal[".", ","] = "."
    """The mark before the decimals of numbers in text."""

    thousands: Literal["", ".", ",", " ", "'"] = ""
    """The mark between groups of three digits of numbers in text."""

    time_format: Annotated[str, AfterValidator(check_format)] = "auto"
    """unix_s (fractions allowed), unix_ms, unix_us, unix_ns, iso (ISO 8601, also without marks
    between), or a form of one's own as of strptime: "%d/%b/%Y:%H:%M:%S %z", "%m/%d/%Y %I:%M:%S %p".
    auto: by the beginning of the log, and named in the manifest; times that would be before
    1991 are refused."""

    time_zone: str | None = None
    """Zone of times that name none, as Europe/Berlin; null: UTC. Of an hour that comes twice in
    autumn it is the first; times that the zone leaves out in spring are quarantined."""

    first_time: str = "auto"
    """Earlier times are quarantined: a date or time in ISO 8601. auto: 1991-01-01, or 1970-01-01 if
    the beginning of the log is that old; so a time of 0 is a missing one."""

    last_time: str = "2100-01-01"
    """Times from then on are quarantined."""

    def remedy(self, reasons: Mapping[str, int], bad: int) -> str | None:
        reason, count = max(reasons.items(), key=lambda entry: entry[1], default=("", 0))
        value = re.search(r": '(.+)'$", reason)
        if value is None or 2 * count < bad or count < 3:
            return None
        return (
            f"Of these, {count:,} have {value[1]!r} there. If that means a missing value, add "
            f"it to null_values (now {self.null_values}); else mend the log or its settings, or "
            "raise max_bad_fraction to leave these lines out."
        )

    @field_validator("time_zone")
    @classmethod
    def _time_zone(cls, value: str | None) -> str | None:
        return None if value is None else check_zone(value)

    @field_validator("first_time", "last_time")
    @classmethod
    def _times(cls, value: str, info: ValidationInfo) -> str:
        if (value, info.field_name) != ("auto", "first_time"):
            to_unix(value)
        return value

    @model_validator(mode="after")
    def _marks_differ(self) -> "TableSourceSettings":
        if self.decimal == self.thousands:
            raise ValueError(f"decimal and thousands are both '{self.decimal}'")
        return self

    @field_validator("separator")
    @classmethod
    def _separator(cls, value: str) -> str:
        value = SEPARATOR_NAMES.get(value, value)
        if value in ("auto", TWO_COLONS):
            return value
        if len(value.encode()) != 1 or value in "\r\n":
            raise ValueError(
                "separator must be one ASCII character, a name such as tab, two colons or auto"
            )
        return value

    @field_validator("quote")
    @classmethod
    def _quote(cls, value: str) -> str:
        if len(value.encode()) > 1 or value in ("\r", "\n"):
            raise ValueError("quote must be one ASCII character, or '' for none")
        return value
