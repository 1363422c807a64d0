"""Compressed files, other encodings, and files that are something else than a log."""

import bz2
import gzip
import io
import lzma
import pickle
import random
import sqlite3
import tarfile
import zipfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from core.settings import validate
from pipeline.ingest.compression import compression_of
from pipeline.ingest.text_source import TextSource, encoding_name
from pipeline.stages.ingest import RECIPES, ingest
from tests.harness import forms
from tests.harness.altered import criteo, text

PACK = {
    "gz": forms.PACK["gzip"],
    "bz2": forms.PACK["bzip2"],
    "xz": forms.PACK["xz"],
    "zst": forms.PACK["zstd"],
}
COLUMNS = {"session_id": "s", "item_id": "i", "timestamp": "t"}
EVENTS = "s,i,t\n" + "".join(f"{n},{n * 7},{1569931200 + n}\n" for n in range(300))
RATINGS = "u,i,r,t\n" + "".join(f"{n},{n * 7},3,{1569931200 + n}\n" for n in range(300))
CLICKS = "click,item,price\n" + "".join(f"{n % 2},x{n},{n}.5\n" for n in range(300))
SESSIONS = "".join(f'{{"s": {n}, "e": [{{"i": {n}, "t": 1569931200}}]}}\n' for n in range(300))
LOGS = {
    "criteo": ("ranking", text(criteo(300)), {}),
    "clicks": (
        "ranking",
        CLICKS.encode(),
        {"columns": {"labels": ["click"], "categorical": ["item"], "continuous": ["price"]}},
    ),
    "events": ("sessions", EVENTS.encode(), {"columns": COLUMNS}),
    "sessions": (
        "sessions",
        SESSIONS.encode(),
        {
            "columns": {"session_id": "s", "item_id": "e.i", "timestamp": "e.t"},
            "layout": "sessions",
        },
    ),
    "ratings": (
        "interactions",
        RATINGS.encode(),
        {"columns": {"user_id": "u", "item_id": "i", "rating": "r", "timestamp": "t"}},
    ),
}


def read(path, size=50):
    source = TextSource(path)
    pieces = []
    while piece := source.read(size):
        pieces.append(piece)
    source.close()
    return b"".join(pieces), source.fault


@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("suffix", [*PACK, "bin"])
def test_every_reader_reads_every_compression(write, tmp_path, log, suffix):
    recipe, data, tree = LOGS[log]
    packed = PACK["xz"](data) if suffix == "bin" else PACK[suffix](data)
    path = tmp_path / f"log.{suffix}"
    path.write_bytes(packed)
    checked = validate(RECIPES[recipe], {**tree, "workers": 1, "max_bad_fraction": 0}, "test")
    assert ingest(recipe, checked, path, tmp_path / "raw")["rows_written"] == 300


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(PACK)),
    st.lists(st.binary(max_size=300), max_size=4),
    st.integers(1, 500),
)
def test_any_bytes_in_any_members(tmp_path_factory, suffix, parts, size):
    path = tmp_path_factory.getbasetemp() / f"a.{suffix}"
    parts = [b"begin\n", *parts]  # no mark, and nothing else's first bytes
    path.write_bytes(b"".join(map(PACK[suffix], parts)))
    assert read(path, size) == (b"".join(parts), None)


@pytest.mark.parametrize("suffix", PACK)
def test_cut_off_or_damaged(tmp_path, suffix):
    draw = random.Random(0)
    data = b"".join(b"%d,%d\n" % (n, draw.randrange(10**9)) for n in range(30_000))
    packed = PACK[suffix](data)
    path = tmp_path / f"a.{suffix}"
    for length in [*range(12, 40, 3), *draw.sample(range(40, len(packed)), 10), len(packed) - 1]:
        path.write_bytes(packed[:length])
        output, fault = read(path, 1 << 16)
        assert data.startswith(output) and "ends early" in fault, length
    assert len(output) > len(data) / 2
    for place in draw.sample(range(40, len(packed) - 40), 10):
        path.write_bytes(packed[:place] + bytes([packed[place] ^ 255]) + packed[place + 1 :])
        output, fault = read(path, 1 << 16)
        assert fault or suffix == "zst", place  # pyarrow writes zstd without checksums
    path.write_bytes(packed + b"something else")
    output, fault = read(path, 1 << 16)
    assert data.startswith(output) and fault
    assert len(output) > len(data) - 5000


def orc() -> bytes:
    out = io.BytesIO()
    pyarrow.orc.write_table(pa.table({"a": [1]}), out)
    return out.getvalue()


def feather(version: int) -> bytes:
    out = io.BytesIO()
    pyarrow.feather.write_feather(pa.table({"a": [1]}), out, version=version)
    return out.getvalue()


def stream() -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, pa.schema([("a", pa.int64())])):
        pass
    return out.getvalue()


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo("log.csv")
        entry.size = len(EVENTS)
        archive.addfile(entry, io.BytesIO(EVENTS.encode()))
    return out.getvalue()


def zipped(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, EVENTS)
    return out.getvalue()


def sqlite(folder) -> bytes:
    path = folder / "a.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table t (a)")
    return path.read_bytes()


def numpy() -> bytes:
    out = io.BytesIO()
    np.save(out, np.arange(3))
    return out.getvalue()


FOREIGN = {
    "a zip archive": zipped("log.csv"),
    "an Excel workbook": zipped("[Content_Types].xml", "xl/workbook.xml"),
    "a tar archive": tar(),
    "a tar archive compressed with gzip": gzip.compress(tar()),
    "a tar archive compressed with zstd": PACK["zst"](tar()),
    "a zip archive compressed with bzip2": bz2.compress(zipped("log.csv")),
    "an Arrow file": feather(2),
    "a Feather file": feather(1),
    "an Arrow stream": stream(),
    "an ORC file": orc(),
    "an Avro file": b"Obj\x01\x04\x14avro.codec\x08null\x16avro.schema",
    "a NumPy array": numpy(),
    "a Python pickle": pickle.dumps({"a": 1}),
    "an HTML page": b"\n<!DOCTYPE html>\n<html><body>404</body></html>",
    "an XML document": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "compressed with lz4": b"\x04\x22\x4d\x18" + bytes(20),
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "lines end with a carriage return only": EVENTS.replace("\n", "\r").encode(),
    "UTF-16 text": EVENTS.encode("utf-16"),
    "UTF-32 text": EVENTS.encode("utf-32"),
}


@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("what", [*FOREIGN, "an SQLite database"])
def test_what_is_something_else_says_so(tmp_path, log, what):
    recipe, _, tree = LOGS[log]
    data = FOREIGN[what] if what in FOREIGN else sqlite(tmp_path)
    path = tmp_path / "log.bin"
    path.write_bytes(data)
    checked = validate(RECIPES[recipe], {**tree, "workers": 1}, "test")
    with pytest.raises(UserError) as error:
        ingest(recipe, checked, path, tmp_path / "raw")
    assert str(path) in str(error.value) and what in str(error.value)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "csv.gz"])
@pytest.mark.parametrize("what", ["a zip archive", "an ORC file", "an HTML page"])
def test_whatever_its_name(run, write, suffix, what):
    path = write("a", FOREIGN[what]).rename(write(f"a.{suffix}", b"x"))
    with pytest.raises(UserError, match=f"this is {what}"):
        run("sessions", path, columns=COLUMNS)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'[{"s": 1, "i": 2, "t": 1569931200}]', r"one JSON array; .*\(jq"),
        (b'\xef\xbb\xbf [\n {"s": 1}\n]\n', "one JSON array"),
        (b'{\n  "s": 1,\n  "i": 2\n}\n', "JSON over several lines"),
    ],
)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl.xz", "a.bin"])
def test_json_that_is_not_one_object_a_line(run, write, data, message, name):
    packed = lzma.compress(data) if name.endswith("xz") else data
    with pytest.raises(UserError, match=message):
        run("sessions", write(name, packed), columns=COLUMNS)


ENCODINGS = {
    "cp1252": "é€5",
    "latin-1": "éß",
    "utf-16": "é中😀",
    "utf-16-be": "中",
    "cp932": "日本",
    "koi8-r": "да",
    "utf-32": "中",
    "utf-8-sig": "é",
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("packed", [False, True])
def test_any_encoding(run, write, encoding, kind, packed):
    item = ENCODINGS[encoding]
    rows = [(f"{item}{n}", n) for n in range(50)]
    if kind == "csv":
        content = "s,i,t\r\n" + "".join(f'{n},"{text}\n",{1569931200 + n}\r\n' for text, n in rows)
    else:
        content = "".join(f'{{"s": {n}, "i": "{text}\\n", "t": 1569931200}}\n' for text, n in rows)
    data = content.encode(encoding)
    path = write(f"a.{kind}" + ".bz2" * packed, bz2.compress(data) if packed else data)
    result = run(
        "sessions", path, columns=COLUMNS, encoding=encoding, block_bytes=64, max_bad_fraction=0
    )
    assert [row["item_id"] for row in result.rows] == [f"{text}\n" for text, _ in rows]


def test_what_an_encoding_does_not_know_is_set_aside(run, write):
    lines = ["s,i,t", "1,é,1569931200", "2,x,1569931200", "3,y,1569931201"]
    data = "\n".join(lines).encode("cp1252").replace(b"2,x", b"2,\x81\x8d")
    result = run("sessions", write("a.csv", data), columns=COLUMNS, encoding="windows-1252")
    assert [row["item_id"] for row in result.rows] == ["é", "y"]
    assert result.reasons == [(3, "the line is not cp1252 (setting encoding)")]
    wrong = run("sessions", write("a.csv", data), columns=COLUMNS)
    assert [line for line, _ in wrong.reasons] == [2, 3]
    assert "not UTF-8 (setting encoding)" in wrong.reasons[0][1]


def test_an_encoding_that_the_file_is_not_in(run, write):
    with pytest.raises(UserError, match=r"UTF-16 text; set encoding: utf-16-le"):
        run("sessions", write("a.csv", EVENTS.encode("utf-16-le")), columns=COLUMNS)
    with pytest.raises(UserError, match=r"UTF-8 text \(by its mark\), not iso8859-1"):
        path = write("a.csv", EVENTS.encode("utf-8-sig"))
        run("sessions", path, columns=COLUMNS, encoding="latin-1")
    with pytest.raises(UserError, match=r"header row is not UTF-8; set encoding"):
        run("sessions", write("a.csv", "s,i,t,é\n1,2,3,4\n".encode("latin-1")), columns=COLUMNS)
    with pytest.raises(UserError, match="'klingon' is no encoding"):
        run("sessions", write("a.csv", EVENTS), columns=COLUMNS, encoding="klingon")


@pytest.mark.parametrize("name", ["rot13", "base64", "zlib", "idna", "unicode_escape", "", "hex"])
def test_what_is_no_encoding_of_text(name):
    with pytest.raises(ValueError, match="is no encoding"):
        encoding_name(name)


def test_an_xz_header_cannot_ask_for_any_memory(tmp_path):
    packed = bytearray(lzma.compress(b"a,b\n1,2\n" * 9))
    # The size of the dictionary is a byte of the block's header, which ends with its checksum.
    start, end = 12, 12 + 4 * packed[12]
    packed[packed.index(b"\x21\x01", start) + 2] = 40  # 4 GiB
    packed[end : end + 4] = zlib.crc32(packed[start:end]).to_bytes(4, "little")
    stream = compression_of(packed).open(io.BytesIO(packed).read)
    assert stream.read(100) == b"" and "more than 256 MiB of memory" in stream.fault
