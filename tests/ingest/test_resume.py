"""A stopped ingest goes on from finished shards and ends in the same bytes."""

import json
from pathlib import Path

import pytest

from core import marker, outputs, siblings
from core.artifacts import MARKER
from core.errors import UserError
from core.settings import validate
from pipeline.ingest import convert, gaps, shards, workspace
from pipeline.ingest.clickstream import ClickstreamSourceSettings
from pipeline.ingest.criteo import CriteoReader, CriteoSourceSettings
from pipeline.stages import ingest as stage
from pipeline.stages.ingest import ingest
from tests.harness.forms import PACK
from tests.harness.kill import all_bytes
from tests.ingest.test_criteo import as_text, make_row

TREE = {"rows_per_shard": 100, "block_bytes": 9000, "workers": 1, "max_bad_fraction": 0.2}
SETTINGS = CriteoSourceSettings(**TREE)


class Stop(Exception):
    """Stands for a kill: nothing after it runs."""


ROWS = as_text([make_row(seed) for seed in range(1500)]).splitlines(True)


@pytest.fixture
def log(write):
    """Three days of 500 rows, one of them gzip, each with bad lines."""
    for day, name in enumerate(["day_0", "day_1.gz", "day_2"]):
        rows = ROWS[500 * day :][:500]
        folder = write(name, "".join([*rows[:130], "bad\n", *rows[130:], "worse\n"])).parent
    return folder


@pytest.fixture
def whole(log, tmp_path):
    ingest("ranking", SETTINGS, log, tmp_path / "whole")
    return all_bytes(tmp_path / "whole")


def partial(output: Path) -> Path:
    """The folder of a stopped run; one that does not exist where there is none."""
    found = list(output.parent.glob(f".{output.name}.*.partial"))
    assert len(found) < 2
    return found[0] if found else output.with_name("absent")


def stop_at(monkeypatch, count: int, module=shards, name: str = "write_parquet") -> None:
    """The ``count``-th call of a function, counted from 0, stops the run before it does a thing."""
    real, calls = getattr(module, name), []

    def counted(*arguments, **options):
        calls.append(arguments)
        if len(calls) > count:
            raise Stop
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, counted)


def stopped(log, output, monkeypatch, count, settings=SETTINGS, **where) -> None:
    with monkeypatch.context() as patched:
        stop_at(patched, count, **where)
        with pytest.raises(Stop):
            recipe = "ranking" if isinstance(settings, CriteoSourceSettings) else "sessions"
            ingest(recipe, settings, log, output)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 9, 14])
def test_stopped_at_every_shard(log, whole, tmp_path, monkeypatch, count):
    output = tmp_path / "raw"
    stopped(log, output, monkeypatch, count)
    assert not output.exists()
    finished = {p.stat().st_ino for p in partial(output).glob("file-*/part-*.parquet")}
    ingest("ranking", SETTINGS, log, output)
    assert all_bytes(output) == whole
    assert finished <= {p.stat().st_ino for p in output.glob("part-*.parquet")}
    assert not partial(output).exists()


def test_finished_shards_are_not_parsed_again(log, whole, tmp_path, monkeypatch):
    output = tmp_path / "raw"
    stopped(log / "day_0", output, monkeypatch, 4)
    parsed = []
    real = CriteoReader.parse
    monkeypatch.setattr(
        CriteoReader, "parse", lambda *call: parsed.append(call[2].lines) or real(*call)
    )
    ingest("ranking", SETTINGS, log / "day_0", output)
    assert 0 < sum(parsed) < 150


@pytest.mark.parametrize("place", ["move_shards", "join_quarantines", "write_manifest"])
def test_stopped_between_the_last_steps(log, whole, tmp_path, monkeypatch, place):
    output = tmp_path / "raw"
    stopped(log, output, monkeypatch, 0, module=stage, name=place)
    ingest("ranking", SETTINGS, log, output)
    assert all_bytes(output) == whole


@pytest.mark.parametrize("count", range(4))
@pytest.mark.parametrize("before", [False, True])
def test_stopped_while_the_output_changes_places(log, whole, tmp_path, monkeypatch, count, before):
    """Where the system cannot exchange two folders in one step, three renames do it."""
    output = tmp_path / "raw"
    if before:
        ingest("ranking", SETTINGS, log / "day_2", output)
    with monkeypatch.context() as patched:
        patched.setattr(siblings.ctypes, "CDLL", lambda *_, **options: None)
        real, calls = siblings.os.rename, []

        def counted(old, new):
            calls.append(old)
            if len(calls) > count:
                raise Stop
            real(old, new)

        patched.setattr(siblings.os, "rename", counted)
        if count < 1 + 2 * before:
            with pytest.raises(Stop):
                ingest("ranking", SETTINGS, log, output)
    ingest("ranking", SETTINGS, log, output)
    assert all_bytes(output) == whole
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_swapped_but_not_cleared_away(log, whole, tmp_path, monkeypatch):
    output = tmp_path / "raw"
    stopped(log, output, monkeypatch, 1, module=workspace, name="remove_sibling")
    made = (output / "part-00000.parquet").stat().st_ino
    ingest("ranking", SETTINGS, log, output)
    assert all_bytes(output) == whole
    assert (output / "part-00000.parquet").stat().st_ino == made


@pytest.mark.parametrize("left", ["file-00000", "file-00001", "published.json", "out"])
def test_stopped_while_it_is_cleared_away(log, whole, tmp_path, monkeypatch, left):
    """In whatever order a folder is deleted, the marker last, what is left of it stops nobody."""
    output = tmp_path / "raw"
    real = marker.shutil.rmtree

    def gone(folder, *_):
        for entry in folder.iterdir():
            if entry.name not in (left, MARKER):
                real(entry) if entry.is_dir() else entry.unlink()
        raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(siblings, "remove_tree", gone)
        with pytest.raises(Stop):
            ingest("ranking", SETTINGS, log, output)
    ingest("ranking", SETTINGS, log, output)
    assert all_bytes(output) == whole
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_output_that_was_taken_away_is_made_again(log, whole, tmp_path, monkeypatch):
    """DVC removes a stage's output before it runs the stage."""
    output = tmp_path / "raw"
    stopped(log, output, monkeypatch, 1, module=workspace, name="remove_sibling")
    workspace.shutil.rmtree(output)
    ingest("ranking", SETTINGS, log, output)
    assert all_bytes(output) == whole


def test_only_what_changed_is_read_again(log, tmp_path, monkeypatch):
    output = tmp_path / "raw"
    stopped(log, output, monkeypatch, 13)
    (log / "day_1.gz").unlink()
    (log / "day_1").write_text(as_text([make_row(seed) for seed in range(9000, 9300)]))
    kept = {p.stat().st_ino for p in partial(output).glob("file-00000/part-*.parquet")}
    assert len(kept) == 5
    ingest("ranking", SETTINGS, log, output)
    fresh = tmp_path / "fresh"
    ingest("ranking", SETTINGS, log, fresh)
    assert all_bytes(output) == all_bytes(fresh)
    assert kept <= {p.stat().st_ino for p in output.glob("part-*.parquet")}


@pytest.mark.parametrize("place", ["move_shards", "join_quarantines", "write_manifest", "publish"])
@pytest.mark.parametrize("before", [False, True])
def test_stopped_at_the_end_and_given_other_inputs(log, tmp_path, monkeypatch, place, before):
    """What was already put together is of the inputs before: a new day is never left out."""
    output = tmp_path / "raw"
    if before:
        ingest("ranking", SETTINGS, log / "day_2", output)
    module = outputs.Claim if place == "publish" else stage
    stopped([log / "day_0", log / "day_2"], output, monkeypatch, 0, module=module, name=place)
    for given in ([log / "day_0"], log):
        ingest("ranking", SETTINGS, given, output)
        fresh = tmp_path / "fresh"
        ingest("ranking", SETTINGS, given, fresh)
        assert all_bytes(output) == all_bytes(fresh)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_other_settings_begin_anew(log, tmp_path, monkeypatch):
    output = tmp_path / "raw"
    stopped(log, output, monkeypatch, 7)
    changed = SETTINGS.model_copy(update={"rows_per_shard": 90})
    ingest("ranking", changed, log, output)
    fresh = tmp_path / "fresh"
    ingest("ranking", changed, log, fresh)
    assert all_bytes(output) == all_bytes(fresh)


def test_too_many_bad_lines_are_told_without_losing_the_work(log, whole, tmp_path, monkeypatch):
    output = tmp_path / "raw"
    with pytest.raises(UserError, match="6 of 1,506 lines are bad"):
        ingest("ranking", SETTINGS.model_copy(update={"max_bad_fraction": 0.001}), log, output)
    stop_at(monkeypatch, 0, module=convert._Unit, name="take")
    ingest("ranking", SETTINGS, log, output)
    assert all_bytes(output) == whole


def test_a_failure_without_a_finished_shard_leaves_no_trace(write, tmp_path):
    path = write("log.txt", "")
    with pytest.raises(UserError, match="no line could be read"):
        ingest("ranking", SETTINGS, path, tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


SESSIONS = {
    "columns": {"session_id": None, "user_id": "user_id"},
    "session_gap_minutes": 10,
    "drop_duplicates": True,
    **TREE,
    "block_bytes": 2000,
}


@pytest.mark.parametrize(
    ("count", "name"),
    [*((n, "write_parquet") for n in range(4)), (0, "_cut_sessions"), (0, "_rewrite")],
)
def test_sessions_by_gap(write, tmp_path, monkeypatch, count, name):
    lines = ["user_id,item_id,timestamp"]
    for n in range(400):
        lines.append(f"u{n % 7},{n % 13},{1_600_000_000 + (n - n % 3) * 200}")
        lines += lines[-1:] * (n % 50 == 3)
    log = write("a.csv", "\n".join(lines)).parent
    settings = validate(ClickstreamSourceSettings, SESSIONS, "test")
    ingest("sessions", settings, log, tmp_path / "whole")
    output = tmp_path / "raw"
    stopped(log, output, monkeypatch, count, settings, module=gaps, name=name)
    done = {p.stat().st_ino for p in partial(output).glob("out/part-*.parquet")}
    assert len(done) == (count if name == "write_parquet" else 0)
    ingest("sessions", settings, log, output)
    assert all_bytes(output) == all_bytes(tmp_path / "whole")
    assert done <= {p.stat().st_ino for p in output.glob("part-*.parquet")}


@pytest.mark.parametrize(
    "form", ["quoted", "quoted.zst", "quoted.bz2", "utf-16", "jsonl", "jsonl.xz"]
)
def test_other_forms_go_on_as_well(tmp_path, monkeypatch, form):
    """Records of several lines, a stray quote, sessions a line; compressed, in UTF-16."""
    kind, _, suffix = form.partition(".")
    if kind == "jsonl":
        lists = [
            {"s": n, "e": [{"i": n, "t": 10**9 + k} for k in range(n % 5)]} for n in range(800)
        ]
        data = "".join(json.dumps(one) + "\n" for one in lists).encode()
        columns = {"session_id": "s", "item_id": "e.i", "timestamp": "e.t"}
        tree = {**TREE, "columns": columns, "layout": "sessions"}
    else:
        rows = [f'{n},{n % 7},{10**9 + n},"see\n1,2,{10**9}{n % 3 * "x"}"\n' for n in range(1500)]
        rows[700] = f'700,1,{10**9},"stray\n'
        data = "".join(["s,i,t,n\n", *rows]).encode("utf-16" if form == "utf-16" else "utf-8")
        tree = {**TREE, "columns": {"session_id": "s", "item_id": "i", "timestamp": "t"}}
        tree["encoding"] = "utf-16" if form == "utf-16" else "utf-8"
    path = tmp_path / f"log.{'jsonl' if kind == 'jsonl' else 'csv'}{suffix and '.' + suffix}"
    pack = {"zst": "zstd", "bz2": "bzip2", "xz": "xz"}.get(suffix)
    path.write_bytes(PACK[pack](data) if pack else data)
    settings = validate(ClickstreamSourceSettings, tree, "test")
    record = ingest("sessions", settings, path, tmp_path / "whole")
    assert record["rows_written"] > 1400 and (kind == "jsonl" or record["rows_quarantined"] > 2)
    for count in (1, 4, 6):
        stopped(path, tmp_path / "raw", monkeypatch, count, settings)
    ingest("sessions", settings, path, tmp_path / "raw")
    assert all_bytes(tmp_path / "raw") == all_bytes(tmp_path / "whole")
