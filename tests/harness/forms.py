"""The forms that a log may come in, for every reader of ingest; ``altered`` alters each of them.

Compressions, encodings, quoted line ends, folders within folders, keys that come late, and files
that are something else. Records are counted by readers of their own: Python's and the reference.
"""

import bz2
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from tests.ingest import csv_reference

if TYPE_CHECKING:
    from tests.harness.altered import Bench

START = 1569931200
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}
UNPACK: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(31),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lzma.LZMADecompressor,
}
ENCODINGS = ("cp1252", "utf-16", "utf-16-be", "utf-32", "cp932", "koi8-r")
FOREIGN = {
    "zip": b"PK\x03\x04\x14\0\0\0\x08\0log.csv",
    "tar": b"log.csv".ljust(257, b"\0") + b"ustar\x0000",
    "7z": b"7z\xbc\xaf\x27\x1c\0\x04",
    "lz4": b"\x04\x22\x4d\x18dp",
    "Arrow": b"ARROW1\0\0\xff\xff\xff\xff",
    "ORC": b"ORC\x0a\x03\0\0\x12",
    "Avro": b"Obj\x01\x04\x14avro",
    "SQLite": b"SQLite format 3\0\x10\0",
    "pickle": b"\x80\x04\x95\x10\0\0\0",
    "HTML": b"<!DOCTYPE html>\n<html>\n",
    "XML": b"<?xml version='1.0'?>\n<a/>\n",
    "UTF-16": "a,b\n1,2\n".encode("utf-16"),
    "array": b'[{"s": 1}]\n',
    "returns": b"s,i,t\r1,2,3\r",
}


@dataclass(frozen=True)
class Reader:
    """One reader of ingest, and small logs of a number of records for it."""

    recipe: str
    settings: dict[str, Any]
    log: Callable[[int], bytes]
    columns: int = 0
    """Of a CSV log; 0: it is in another format."""

    def records(self, data: bytes) -> int:
        """Records in a log's text, the lines of a malformed one each."""
        if not self.columns:
            return data.count(b"\n") + bool(data and not data.endswith(b"\n"))
        _, _, body = data.partition(b"\n")
        return len(csv_reference.read(body, ",", self.columns, 1 << 20, 2))


def _criteo(rows: int) -> bytes:
    fields = [*(str(n) for n in range(14)), *(f"{n:08x}" for n in range(26))]
    return b"".join("\t".join([str(n % 2), *fields[1:]]).encode() + b"\n" for n in range(rows))


def _csv(header: str, row: Callable[[int], str]) -> Callable[[int], bytes]:
    return lambda rows: "".join([header + "\n", *(row(n) + "\n" for n in range(rows))]).encode()


def _json(record: Callable[[int], dict[str, Any]]) -> Callable[[int], bytes]:
    return lambda rows: b"".join(json.dumps(record(n)).encode() + b"\n" for n in range(rows))


EVENT_COLUMNS = {"session_id": "s", "item_id": "i", "timestamp": "t"}
READERS = {
    "criteo": Reader("ranking", {}, _criteo),
    "clicks": Reader(
        "ranking",
        {"columns": {"labels": ["c"], "categorical": ["x"], "continuous": ["p"]}},
        _csv("c,x,p,note", lambda n: f'{n % 2},"a ""{n}"", b",{n}.5,"see\n1,{n},2,old"'),
        4,
    ),
    "events": Reader(
        "sessions",
        {"columns": EVENT_COLUMNS},
        _csv("s,i,t,note", lambda n: f'{n},{n * 7},{START + n},"see\n9,99,{START},old"'),
        4,
    ),
    "ratings": Reader(
        "interactions",
        {"columns": {"user_id": "u", "item_id": "i", "rating": "r", "timestamp": "t"}},
        _csv("u,i,r,t,note", lambda n: f'{n},{n * 7},3,{START + n},"see\r\n1,2,3,{START},old"'),
        5,
    ),
    "events in JSON": Reader(
        "sessions",
        {"columns": {**EVENT_COLUMNS, "item_id": "a.i"}, "format": "jsonl"},
        _json(lambda n: {"s": n, "a": {"i": n * 7}, "t": START + n}),
    ),
    "sessions": Reader(
        "sessions",
        {
            "columns": {"session_id": "s", "item_id": "e.i", "timestamp": "e.t"},
            "layout": "sessions",
            "format": "jsonl",
        },
        _json(lambda n: {"s": n, "e": [{"i": n, "t": START + n}]}),
    ),
}
TEXTS = {name: reader for name, reader in READERS.items() if name != "criteo"}


def every_form(bench: "Bench", thorough: bool) -> None:
    for step in (quoted, packed, encoded, partitioned, late, stored, foreign):
        step(bench, 1 if thorough else 29)


def alterations(data: bytes, step: int, values: tuple[int, ...]) -> Iterator[tuple[str, bytes]]:
    """``data`` with one byte of every ``step`` altered, lost, or the last."""
    for index in range(0, len(data), step):
        before, after = data[:index], data[index + 1 :]
        yield "cut off", before
        yield "a byte lost", before + after
        for byte in values:
            yield "a byte altered", before + bytes([byte]) + after


def quoted(bench: "Bench", step: int) -> None:
    """Line ends within quotes: every byte altered, in blocks of any size."""
    for name, reader in READERS.items():
        if not reader.columns:
            continue
        for how, data in alterations(reader.log(3), step, (0x0A, 0x22, 0x2C, 0x0D, 0x20)):
            for block in (64, 1 << 20):
                settings = {**reader.settings, "separator": ",", "block_bytes": block}
                kind = f"quoted line ends, {name}: {how}"
                lines = reader.records(data)
                bench.try_input(kind, reader.recipe, data, settings, lines=lines)


def packed(bench: "Bench", step: int) -> None:
    """Compressed logs, whole, cut off and damaged."""
    for name, reader in READERS.items():
        data = reader.log(20)
        for kind, pack in PACK.items():
            log = {"log.bin": pack(data)}
            lines = reader.records(data)
            bench.try_input(f"{kind}, {name}", reader.recipe, log, reader.settings, lines=lines)
            for how, altered in alterations(log["log.bin"], 3 * step, (0x00, 0xFF)):
                if len(altered) < 12:
                    continue  # too short to decide
                lines = None
                if how == "cut off" and kind in UNPACK:
                    reached = UNPACK[kind]().decompress(altered)
                    # Whether a record is whole that ends within a line, only what follows tells.
                    whole = not reader.columns or reached.endswith(b"\n")
                    lines = reader.records(reached) if whole else None
                label = f"{kind}: {how}"
                log = {"log.bin": altered}
                bench.try_input(label, reader.recipe, log, reader.settings, lines=lines or -1)


def encoded(bench: "Bench", step: int) -> None:
    """Other encodings, every byte altered."""
    for name, reader in TEXTS.items():
        for encoding in ENCODINGS:
            settings = {**reader.settings, "encoding": encoding}
            data = reader.log(3).decode().encode(encoding)
            kind = f"{encoding}, {name}"
            bench.try_input(kind, reader.recipe, data, settings, lines=3)
            for how, altered in alterations(data, 5 * step, (0x0A, 0xFF)):
                text = altered.decode(encoding, "replace").removeprefix("\ufeff").encode()
                lines = reader.records(text)
                bench.try_input(
                    f"{encoding}: {how}", reader.recipe, altered, settings, lines=lines or -1
                )


def partitioned(bench: "Bench", step: int) -> None:
    """Folders that give a column, some named oddly, some without a file."""
    values = ["2021-01-01", "a%2Fb", "__HIVE_DEFAULT_PARTITION__", "", "=", "é", "%zz", "x y"]
    for name, reader in READERS.items():
        for depth in (1, 2, 3):
            log = {
                "/".join(f"k{level}={value}" for level in range(depth)) + "/log.txt": reader.log(2)
                for value in values
            }
            lines = 2 * len(values)
            kind = f"partitions, {name}"
            bench.try_input(kind, reader.recipe, log, reader.settings, lines=lines)


def late(bench: "Bench", step: int) -> None:
    """Keys and types that the beginning of a log does not show."""
    reader = READERS["events in JSON"]
    columns = {**reader.settings["columns"], "brand": "b", "price": "p.x"}
    extra = [{"b": "x"}, {"p": {"x": 1}}, {"b": 5}, {"b": 1.5}, {"b": True}, {"p": {"x": 0.5}}]
    extra += [{"b": [1]}, {"b": {"y": 1}}, {"b": None, "p": None}, {"p.x": 3}, {"p": []}]
    for first in (1, 999, 1001, 1500):
        for index, one in enumerate(extra):
            records = [{"s": n, "a": {"i": n}, "t": START + n} for n in range(1502)]
            records[first] |= {"b": "x", "p": {"x": 1}}
            records[-1] |= one
            data = b"".join(json.dumps(record).encode() + b"\n" for record in records)
            settings = {**reader.settings, "columns": columns, "block_bytes": 20_000 + index}
            bench.try_input("late keys and types", reader.recipe, data, settings)


def stored(bench: "Bench", step: int) -> None:
    """Parquet, every byte altered: no checksum tells, so that rows may be other ones."""
    for name, reader in READERS.items():
        out = io.BytesIO()
        pq.write_table(as_table(name, reader), out)
        data = out.getvalue()
        settings = {key: value for key, value in reader.settings.items() if key != "format"}
        kind = f"Parquet, {name}"
        bench.try_input(kind, reader.recipe, {"log.bin": data}, settings, lines=3)
        for how, altered in alterations(data, 2 * step, (0x00, 0xFF)):
            log = {"log.bin": altered}
            bench.try_input(f"Parquet: {how}", reader.recipe, log, settings, lines=-1)


def as_table(name: str, reader: Reader) -> pa.Table:
    """Three records of a reader's log as a table."""
    data = reader.log(3)
    if reader.settings.get("format") == "jsonl":
        return pa.Table.from_pylist([json.loads(line) for line in data.splitlines()])
    if reader.columns:
        return pa.csv.read_csv(
            io.BytesIO(data), parse_options=pa.csv.ParseOptions(newlines_in_values=True)
        )
    names = ["label", *(f"I{n}" for n in range(1, 14)), *(f"C{n}" for n in range(1, 27))]
    rows = [line.split("\t") for line in data.decode().splitlines()]
    fields = [dict(zip(names, row, strict=True)) for row in rows]
    return pa.Table.from_pylist(
        [row | {name: int(row[name]) for name in names[:14]} for row in fields]
    )


def foreign(bench: "Bench", step: int) -> None:
    """Files that are something else, and what is nearly so: refused, or its lines set aside."""
    for reader in READERS.values():
        for what, data in FOREIGN.items():
            for content in (data, *(pack(data) for pack in PACK.values())):
                log = {"log.bin": content}
                kind = f"foreign: {what}"
                bench.try_input(kind, reader.recipe, log, reader.settings, lines=-1)
            for _, altered in alterations(data[:16], step, (0x31,)):
                log = {"log.bin": altered + data[16:]}
                kind = "nearly foreign"
                bench.try_input(kind, reader.recipe, log, reader.settings, lines=-1)
