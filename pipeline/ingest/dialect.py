"""What comes before the first record of a CSV file, and how the file is laid out."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from core.errors import UserError

TWO_COLONS = "::"
"""What GroupLens puts between the fields of ratings.dat; quotes mean nothing there."""
SEPARATORS = {
    ",": "a comma",
    "\t": "a tab",
    ";": "a semicolon",
    "|": "a bar",
    TWO_COLONS: "two colons",
}
TYPE_SUFFIX = re.compile(r":(token|float)(_seq)?$")
EXCEL_SEPARATOR = re.compile(rb'^"?sep=([^\w\s"]|\t)"?$', re.IGNORECASE)
LINES_LOOKED_AT = 20


@dataclass(frozen=True)
class Dialect:
    """How one file separates and quotes its fields, and the names of its columns."""

    names: tuple[str, ...]
    separator: str
    quote: str

    @property
    def mark(self) -> str:
        """The separator in words."""
        return SEPARATORS.get(self.separator, repr(self.separator))


@dataclass(frozen=True)
class Layout:
    """What is known of a file's layout beforehand.

    Attributes:
        separator: one character, two colons, or ``auto`` to tell it from the first lines.
        names: the columns' names where the file has no header row.
        wanted: names that the settings ask for; they help to tell the separator.
    """

    separator: str
    quote: str
    names: list[str] | None
    wanted: list[str]


class Opening:
    """Reads what comes before the first record: notes, Excel's ``sep=`` line, the header row.

    Notes are lines that begin with ``#``, and before a header row blank ones.

    Args:
        encoding: what the text was in before it was made UTF-8.
    """

    def __init__(self, path: Path, layout: Layout, encoding: str = "utf-8") -> None:
        self.path = path
        self.encoding = encoding
        self.layout = layout
        self.dialect: Dialect | None = None
        self.separator = layout.separator
        self.bytes = 0
        """How many there are before the first record, of those read."""
        self.lines = 0

    def read(self, data: bytes, at_end: bool = False) -> int:
        """The length of the opening in ``data``, which goes on where the last read ended.

        ``at_end``: a last line without a line end is one as well.
        """
        position = 0
        while self.dialect is None and position < len(data):
            end = data.find(b"\n", position)
            if end < 0:
                if not at_end:
                    break
                end = len(data)
            line = data[position:end].rstrip(b"\r")
            after = min(end + 1, len(data))
            if self._is_note(line):
                position, self.lines = after, self.lines + 1
                continue
            sample = data[position : position + (1 << 16)]
            self.dialect = self._dialect(line, sample)
            if self.layout.names is None:
                position, self.lines = after, self.lines + 1
        self.bytes += position
        return position

    def _is_note(self, line: bytes) -> bool:
        excel = EXCEL_SEPARATOR.match(line) if not self.lines else None
        if excel:
            if self.separator == "auto":
                self.separator = excel[1].decode("utf-8", "replace")
            return True
        names = self.layout.names
        if not line.strip():
            return names is None
        if not line.startswith(b"#"):
            return False
        text = line.decode("utf-8", "replace")
        fields = self._fields(text)
        if names is not None:
            return len(fields) != len(names)
        wanted = set(self.layout.wanted)
        return 2 * len(wanted & {*fields, *self._fields(text[1:])}) < len(wanted)

    def _fields(self, text: str) -> list[str]:
        return self._dialect(text.encode(), text.encode(), header=True).names

    def _dialect(self, line: bytes, sample: bytes, header: bool = False) -> Dialect:
        layout = self.layout
        where = f"{self.path}:{self.lines + 1}"
        try:
            text = line.decode()
        except UnicodeDecodeError:
            remedy = "set encoding (cp1252, latin-1, …), or convert the file first"
            kind = "UTF-8" if self.encoding == "utf-8" else self.encoding
            first = "header row" if layout.names is None else "first line"
            raise UserError(f"{where}: the {first} is not {kind}; {remedy}") from None
        names = None if header else layout.names
        separator = self.separator
        if separator == "auto":
            separator = sniff(sample, layout.quote, names, layout.wanted)
        quote = "" if separator == TWO_COLONS else layout.quote
        if names is None:
            names = split_line(text, separator, quote)
            if not header and quote and _unclosed(text, separator, quote):
                raise UserError(
                    f"{where}: the header row has a quote that is not closed on its line; mend "
                    "it, or set quote: '' if quotes mean nothing"
                )
            if names[0].startswith("#") and names[0] not in layout.wanted:
                bare = names[0].lstrip("# ")
                names = [bare if bare in layout.wanted else names[0], *names[1:]]
        plain = tuple(plain_name(name, layout.wanted) for name in names)
        return Dialect(plain, separator, quote)


def plain_name(name: str, wanted: list[str]) -> str:
    """A column's name without the type that RecBole's files give it, if so it is wanted."""
    name = name.strip()
    plain = TYPE_SUFFIX.sub("", name)
    return plain if name not in wanted and plain in wanted else name


def split_line(text: str, separator: str, quote: str) -> list[str]:
    """The fields of one line (the whole line, if its quotes make no sense)."""
    if separator == TWO_COLONS:
        return text.split(TWO_COLONS)
    quoting = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
    options = {"quotechar": quote} if quote else {}
    try:
        reader = csv.reader(
            [text], delimiter=separator, quoting=quoting, skipinitialspace=True, **options
        )
        return next(reader, []) or [""]
    except csv.Error:
        return [text]


def _unclosed(text: str, separator: str, quote: str) -> bool:
    options = {"quotechar": quote, "skipinitialspace": True, "strict": True}
    try:
        next(csv.reader([text], delimiter=separator, **options), [])
    except csv.Error as error:
        return "end of data" in str(error)
    return False


def sniff(sample: bytes, quote: str, names: list[str] | None, wanted: list[str]) -> str:
    """The separator that finds most of the wanted names in the first line, or else most fields;
    without a header row, the one that gives most lines as many fields as there are names. Where
    two do, it is not the comma, which may be that of decimals."""
    lines = sample.decode("utf-8", "replace").split("\n")
    lines = [line.rstrip("\r") for line in lines[: LINES_LOOKED_AT + 1]]
    if len(lines) > 1:
        lines.pop()  # may be cut off, or be empty

    def score(separator: str) -> tuple[int, int, bool]:
        if names is not None:
            counts = [len(split_line(line, separator, quote)) for line in lines]
            matches = sum(count == len(names) for count in counts)
            return matches, counts[0], counts[0] > 1 and separator != ","
        fields = [plain_name(field, wanted) for field in split_line(lines[0], separator, quote)]
        matches = len(set(wanted) & set(fields))
        return matches, len(fields), len(fields) > 1 and separator != ","

    return max(SEPARATORS, key=score)
