import gzip
import os
import random
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core import compiled
from core.errors import UserError
from core.sums import read_manifest
from pipeline.ingest.blocks import Block
from pipeline.ingest.criteo import (
    CATEGORY_NAMES,
    INTEGER_NAMES,
    SCHEMA,
    CriteoSourceSettings,
    parse_block,
)
from pipeline.stages.ingest import ingest

NAMES = ["label", *INTEGER_NAMES, *CATEGORY_NAMES]
SETTINGS = CriteoSourceSettings()


def make_row(seed: int) -> dict[str, int | None]:
    draw = random.Random(seed)
    row: dict[str, int | None] = {"label": draw.randrange(2)}
    for name in INTEGER_NAMES:
        row[name] = None if draw.random() < 0.2 else draw.randrange(-3, 10 ** draw.randrange(1, 9))
    for name in CATEGORY_NAMES:
        row[name] = None if draw.random() < 0.2 else draw.randrange(1 << 32)
    return row


def as_fields(row: dict[str, int | None]) -> list[str]:
    fields = [str(row["label"])]
    fields += ["" if row[name] is None else str(row[name]) for name in INTEGER_NAMES]
    fields += ["" if row[name] is None else f"{row[name]:08x}" for name in CATEGORY_NAMES]
    return fields


def as_text(rows: list[dict], end: str = "\n", separator: str = "\t") -> str:
    return "".join(separator.join(as_fields(row)) + end for row in rows)


def with_day(rows: list[dict], day: int = 0) -> list[dict]:
    return [{**row, "day": day} for row in rows]


ROWS = [make_row(seed) for seed in range(20)]


@pytest.mark.parametrize("name", ["log.txt", "log.txt.gz", "day_0", "log.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_rows_come_back(run, write, name, end, mark):
    result = run("ranking", write(name, mark + as_text(ROWS, end).encode()), max_bad_fraction=0)
    assert result.rows == with_day(ROWS)
    assert result.table.schema.equals(SCHEMA)


def test_last_line_without_an_end(run, write):
    result = run("ranking", write("log.txt", as_text(ROWS).rstrip("\n")))
    assert len(result.rows) == 20 and not result.bad


def test_files_of_a_folder_are_days_in_natural_order(run, write):
    order = [0, 2, 10]
    for day in reversed(order):
        folder = write(f"day_{day}.gz", as_text([make_row(100 + day)])).parent
    write("manifest.json", "{}")
    expected = [{**make_row(100 + day), "day": index} for index, day in enumerate(order)]
    assert run("ranking", folder).rows == expected
    assert run("ranking", str(folder / "day_*")).rows == expected
    assert run("ranking", [str(folder / "day_0.gz"), str(folder / "day_2.gz")]).rows == expected[:2]


def test_an_empty_day_is_no_fault(run, write):
    folder = write("day_0", as_text(ROWS[:2])).parent
    write("day_1", "")
    write("day_2", as_text(ROWS[2:4]))
    result = run("ranking", folder)
    assert [row["day"] for row in result.rows] == [0, 0, 2, 2]
    assert [entry["rows"] for entry in result.manifest["inputs"]] == [2, 0, 2]


def test_output_does_not_depend_on_workers(tmp_path, write):
    rows = [make_row(seed) for seed in range(3000)]
    folder = write("day_0", as_text(rows[:2000]) + "bad\n").parent
    write("day_1.gz", as_text(rows[2000:]) + "bad\n")
    outputs = []
    for workers in (1, 4):
        chosen = CriteoSourceSettings(workers=workers, rows_per_shard=300, block_bytes=5000)
        output = tmp_path / str(workers)
        ingest("ranking", chosen, folder, output)
        outputs.append({path.name: path.read_bytes() for path in output.iterdir()})
    assert outputs[0] == outputs[1]
    tables = [pq.read_table(tmp_path / "1" / f"part-{i:05d}.parquet") for i in range(11)]
    assert [table.num_rows for table in tables] == [300] * 6 + [200] + [300] * 3 + [100]
    rows = [*with_day(rows[:2000]), *with_day(rows[2000:], 1)]
    assert pa.concat_tables(tables).to_pylist() == rows


def changed(index: int, value: str) -> str:
    fields = as_fields(ROWS[1])
    fields[index] = value
    return "\t".join(fields)


@pytest.mark.parametrize(
    "line, reason",
    [
        ("", "expected 40 tab-separated fields, found 1"),
        ("\t".join(as_fields(ROWS[1])[:39]), "expected 40 tab-separated fields, found 39"),
        (changed(0, "0\t1"), "expected 40 tab-separated fields, found 41"),
        (changed(0, "2"), "label: expected 0 or 1"),
        (changed(0, ""), "label: expected 0 or 1"),
        (changed(3, "1.5"), "I3: not an integer"),
        (changed(3, "-"), "I3: not an integer"),
        (changed(13, "ab"), "I13: not an integer"),
        (changed(1, "2147483648"), "I1: integer beyond 32 bits"),
        (changed(1, "-2147483649"), "I1: integer beyond 32 bits"),
        (changed(2, "9223372036854775808"), "I2: integer beyond 64 bits"),
        (changed(2, "1" * 50), "I2: integer beyond 64 bits"),
        (changed(14, "0123456789"), "C1: expected up to 8 hex digits"),
        (changed(39, "xyz"), "C26: expected up to 8 hex digits"),
        (changed(5, "1\0"), "the line holds a NUL byte"),
        (changed(20, "é"), "the line holds bytes that are not ASCII"),
        ("x" * 20_000, "line longer than 10,000 bytes"),
        ("label\tI1\tI2", "expected 40 tab-separated fields, found 3"),
    ],
)
def test_a_bad_line_is_set_aside_with_its_reason(run, write, line, reason):
    text = as_text(ROWS[:3]) + line + "\n" + as_text(ROWS[3:6])
    path = write("log.txt", text)
    result = run("ranking", path, max_line_bytes=10_000)
    assert result.rows == with_day(ROWS[:6])
    [bad] = result.bad
    assert (bad["file"], bad["line"]) == (str(path), 4)
    assert bad["reason"].startswith(reason)
    assert bad["text"] == line[:4096]


@pytest.mark.parametrize("value, expected", [("-2147483648", -(2**31)), ("0000000000000005", 5)])
def test_integers_at_their_limits(run, write, value, expected):
    assert run("ranking", write("log.txt", changed(4, value))).rows[0]["I4"] == expected


def test_short_and_upper_case_hex(run, write):
    assert run("ranking", write("log.txt", changed(14, "FfA"))).rows[0]["C1"] == 0xFFA


def test_header_row(run, write):
    result = run("ranking", write("log.txt", "\t".join(NAMES) + "\n" + as_text(ROWS)))
    assert result.rows == with_day(ROWS)
    assert result.reasons == [(1, "this looks like a header row; a Criteo log has none")]


def test_wrong_separator_is_one_clear_message(run, write):
    path = write("log.txt", as_text(ROWS, separator=","))
    with pytest.raises(UserError) as error:
        run("ranking", path, max_bad_fraction=0.01)
    assert f"{path}:1: expected 40 tab-separated fields, found 1" in str(error.value)
    assert "it seems to be a comma" in str(error.value)
    assert run("ranking", path, separator=",").rows == with_day(ROWS)


def test_columns_swapped(run, write):
    lines = [
        "\t".join(as_fields(row)[1:14] + as_fields(row)[:1] + as_fields(row)[14:]) for row in ROWS
    ]
    with pytest.raises(UserError, match="max_bad_fraction"):
        run("ranking", write("log.txt", "\n".join(lines)), max_bad_fraction=0.01)


def test_max_bad_fraction(run, write, tmp_path):
    path = write("log.txt", as_text(ROWS) + "a\nb\n")
    assert len(run("ranking", path, max_bad_fraction=0.1).bad) == 2
    before = sorted((tmp_path / "raw").iterdir())
    with pytest.raises(UserError, match=r"2 of 22 lines are bad"):
        run("ranking", path, max_bad_fraction=0.05)
    assert sorted((tmp_path / "raw").iterdir()) == before
    one = write("one.txt", as_text(ROWS) + "a\n")
    assert len(run("ranking", one, max_bad_fraction=0.01).bad) == 1
    with pytest.raises(UserError, match=r"1 of 21 lines are bad"):
        run("ranking", one, max_bad_fraction=0)


def test_a_log_that_is_mostly_bad_is_given_up_early(run, write):
    with pytest.raises(UserError, match="so far are bad"):
        run(
            "ranking",
            write("log.txt", b"a,b,c\n" * 300_000),
            max_bad_fraction=0.01,
            block_bytes=10**5,
        )


@pytest.mark.parametrize("name", ["log.txt", "log.txt.gz"])
def test_a_line_of_ten_megabytes(run, write, name):
    text = as_text(ROWS[:3]).encode() + b"7" * 10_000_000 + b"\n" + as_text(ROWS[3:]).encode()
    result = run("ranking", write(name, text), block_bytes=100_000, max_line_bytes=50_000)
    assert result.rows == with_day(ROWS)
    [bad] = result.bad
    assert bad["line"] == 4 and "longer than 50,000" in bad["reason"] and len(bad["text"]) == 4096


def test_cut_off_gzip_at_every_length(run, write):
    data = gzip.compress(as_text(ROWS).encode())
    whole = as_text(ROWS).splitlines()
    for length in range(20, len(data), 37):
        path = write("cut.bin", data[:length])
        try:
            result = run("ranking", path)
        except UserError as error:
            # Not one whole line could be decompressed.
            assert "cut off" in str(error) or "empty" in str(error)
            continue
        assert result.rows == with_day(ROWS)[: len(result.rows)]
        assert "cut off" in result.manifest["inputs"][0]["fault"]
        for bad in result.bad:
            assert bad["line"] == len(result.rows) + 1
            assert whole[len(result.rows)].startswith(bad["text"])


def test_damaged_gzip_keeps_the_lines_before_the_damage(run, write):
    data = gzip.compress(as_text(ROWS).encode())
    kept = []
    for index in range(0, len(data), 61):
        path = write("damaged.bin", data[:index] + bytes([data[index] ^ 0x55]) + data[index + 1 :])
        try:
            kept.append(len(run("ranking", path).rows))
        except UserError as error:
            assert "no line could be read" in str(error) or "not one of" in str(error)
    assert max(kept) >= 18


def test_gzip_members_padding_and_garbage(run, write):
    parts = [gzip.compress(as_text(ROWS[i : i + 5]).encode()) for i in range(0, 20, 5)]
    result = run("ranking", write("a.bin", b"".join(parts) + b"\0" * 100))
    assert result.rows == with_day(ROWS) and "fault" not in result.manifest["inputs"][0]
    result = run("ranking", write("b.bin", parts[0] + b"garbage"))
    assert result.rows == with_day(ROWS[:5])
    assert "other bytes" in result.manifest["inputs"][0]["fault"]


def test_what_is_not_there_or_empty(run, write, tmp_path):
    with pytest.raises(UserError, match=r"nothing.txt: no such file"):
        run("ranking", tmp_path / "nothing.txt")
    with pytest.raises(UserError, match="no file matches"):
        run("ranking", str(tmp_path / "day_*"))
    with pytest.raises(UserError, match="empty"):
        run("ranking", write("empty.txt", ""))
    with pytest.raises(UserError, match="not gzip data"):
        path = tmp_path / "plain.gz"
        path.write_text(as_text(ROWS))
        run("ranking", path)
    with pytest.raises(UserError, match="UTF-16"):
        run("ranking", write("utf16.txt", as_text(ROWS).encode("utf-16")))
    assert not (tmp_path / "raw").exists()


def test_every_byte_altered():
    """A changed byte spoils its own line at most, and every line is accounted for."""
    text = as_text(ROWS[:4]).encode()
    whole = parse_block(Block(text, 1, 4, len(text)), 0, SETTINGS).table.to_pylist()
    line_of = [text[:index].count(b"\n") for index in range(len(text))]
    tried = 0
    for index in range(len(text)):
        for byte in (0, 9, 10, 13, 45, 48, 0x67, 0xFF, text[index] ^ 1):
            altered = text[:index] + bytes([byte]) + text[index + 1 :]
            lines = altered.count(b"\n") + (altered[-1] != 10)
            parsed = parse_block(Block(altered, 1, lines, len(altered)), 0, SETTINGS)
            assert parsed.rows_read == lines
            untouched = [row for line, row in enumerate(whole) if line != line_of[index]]
            if text[index] == 10 and index + 1 < len(text):
                untouched = [r for n, r in enumerate(whole) if n - line_of[index] not in (0, 1)]
            rows = parsed.table.to_pylist()
            assert [row for row in rows if row in untouched] == untouched
            tried += 1
    assert tried > 8000


ROW = st.fixed_dictionaries(
    {"label": st.integers(0, 1)}
    | {name: st.none() | st.integers(-(2**31), 2**31 - 1) for name in INTEGER_NAMES}
    | {name: st.none() | st.integers(0, 2**32 - 1) for name in CATEGORY_NAMES}
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(ROW, min_size=1, max_size=12), st.sampled_from(["\n", "\r\n"]))
def test_any_rows_come_back(rows, end):
    text = as_text(rows, end).encode()
    parsed = parse_block(Block(text, 1, len(rows), len(text)), 3, SETTINGS)
    assert parsed.table.to_pylist() == with_day(rows, 3) and not parsed.bad


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_accounted_for(data):
    lines = data.count(b"\n") + bool(data and not data.endswith(b"\n"))
    parsed = parse_block(Block(data, 1, lines, len(data)), 0, SETTINGS)
    assert parsed.rows_read == lines
    assert [bad.line for bad in parsed.bad] == list(range(1, lines + 1))


@pytest.mark.parametrize("hexadecimal", [True, False])
def test_parquet(run, tmp_path, hexadecimal):
    columns = {name: [row[name] for row in ROWS] for name in NAMES}
    if hexadecimal:
        for name in CATEGORY_NAMES:
            columns[name] = [None if v is None else f"{v:08x}" for v in columns[name]]
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table(columns), path)
    assert run("ranking", path).rows == with_day(ROWS)
    columns["label"][2] = 7
    columns["I1"][5] = 2**40
    columns["C3"][7] = "nonsense" if hexadecimal else -1
    pq.write_table(pa.table(columns), path)
    result = run("ranking", path)
    assert [line for line, _ in result.reasons] == [3, 6, 8]
    assert result.rows == with_day([r for n, r in enumerate(ROWS) if n not in (2, 5, 7)])


def test_parquet_without_a_column_or_cut_off(run, tmp_path):
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"label": [1], "I1": [2]}), path)
    with pytest.raises(UserError, match="no column 'I2'"):
        run("ranking", path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="not a whole Parquet file"):
        run("ranking", path)


def test_no_cache_folder_is_no_fault(monkeypatch):
    def njit(cache=False, **options):
        if cache:
            raise RuntimeError("no locator available")
        return lambda function: function

    monkeypatch.setattr(compiled, "njit", njit)
    assert compiled.compiled(len) is len


def test_against_polars_on_the_real_log(run, real_data: Path):
    path = real_data / "criteo" / "head_10k.txt.gz"
    types = dict.fromkeys(NAMES[:14], pl.Int64) | dict.fromkeys(CATEGORY_NAMES, pl.String)
    plain = pl.read_csv(
        gzip.decompress(path.read_bytes()), separator="\t", has_header=False, schema=types
    )
    plain = plain.with_columns(
        pl.col(CATEGORY_NAMES).str.to_integer(base=16, strict=True), day=pl.lit(0)
    ).cast(pl.Int64)
    found = pl.from_arrow(run("ranking", path, max_bad_fraction=0, rows_per_shard=3000).table)
    assert found.cast(pl.Int64).equals(plain)


def test_a_file_whose_name_is_no_utf8(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    path = Path(os.fsdecode(os.fsencode(folder / "day_") + b"\xff"))
    path.write_text(as_text([make_row(seed) for seed in range(5)]) + "bad\n")
    settings = CriteoSourceSettings(max_bad_fraction=0.5)
    ingest("ranking", settings, folder, tmp_path / "raw")
    record = read_manifest(tmp_path / "raw" / "manifest.json", required=True)
    assert record["inputs"][0]["file"] == f"{folder}/day_\\xff"
    bad = pq.read_table(tmp_path / "raw" / "quarantine.parquet")
    assert bad["file"].to_pylist() == [f"{folder}/day_\\xff"]
