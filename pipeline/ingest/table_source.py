"""Settings of logs with named columns: how their files are laid out."""

from typing import Literal

from pydantic import Field, field_validator

from pipeline.ingest.dialect import TWO_COLONS
from pipeline.ingest.source import SourceSettings
from pipeline.ingest.text_source import UTF8, encoding_name

SEPARATOR_NAMES = {"comma": ",", "tab": "\t", "semicolon": ";", "bar": "|"}


class TableSourceSettings(SourceSettings):
    """A log with named columns, one row a line."""

    format: Literal["auto", "csv", "jsonl", "parquet"] = "auto"
    """Kind of file. auto: by extension (.csv .tsv .txt .jsonl .ndjson .parquet; of text also with
    .gz .bz2 .xz .zst), else by its first bytes. csv stands for any text with a separator."""

    encoding: str = UTF8
    """What the text is in: utf-8, cp1252, latin-1, utf-16 and all others that Python knows. A
    byte-order mark at the start of a file is left out."""

    separator: str = "auto"
    """Between the fields of text: one character, or comma, tab, semicolon, bar, or two colons (::).
    auto: told from the first line; without a header row, from the first lines."""

    quote: str = '"'
    """The character around fields that hold separators or line ends; twice within such a field, it
    stands for itself. '' if quotes mean nothing."""

    column_names: list[str] | None = None
    """Names of the columns, in order, for text files without a header row."""

    types: dict[str, Literal["integer", "string"]] = Field(default_factory=dict)
    """Type of single id or categorical columns, by their name in the output. Of the others:
    integer (64 bits, signed) if the beginning of the log shows integers only, else string."""

    null_values: list[str] = Field(default=[""])
    """Texts that stand for a missing value."""

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

    @field_validator("encoding")
    @classmethod
    def _encoding(cls, value: str) -> str:
        return encoding_name(value)

    @field_validator("quote")
    @classmethod
    def _quote(cls, value: str) -> str:
        if len(value.encode()) > 1 or value in ("\r", "\n"):
            raise ValueError("quote must be one ASCII character, or '' for none")
        return value
