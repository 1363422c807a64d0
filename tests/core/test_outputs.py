"""What an output may be: nothing that no run wrote is ever lost."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import outputs, siblings
from core.artifacts import MARKER, atomic_path, temporary_path, write_json
from core.errors import UserError
from core.kinds import BUNDLE, COMPARISON, FEATURES, GENERATED, MODEL, RAW
from core.locks import Busy
from core.marker import list_files, read_marker, remove_listed
from core.outputs import claimed, claimed_file, scratch_beside


def make(path, kind=RAW, **files):
    """An output of a stage that replaces its folder."""
    with claimed(path, kind) as claim, claim.replaced() as folder:
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)


def tree(folder):
    """Everything in and below a folder: sums of files, targets of links, folders."""
    found = {}
    for root, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(root) / name
            what = "folder"
            if path.is_symlink():
                what = f"link to {os.readlink(path)}"
            elif path.is_file():
                what = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(folder))] = what
    return found


def refused(tmp_path, output, kind=RAW, match=".", **options):
    """Claims that must fail and leave everything as it was."""
    before = tree(tmp_path)
    with pytest.raises(UserError, match=match), claimed(output, kind, **options):
        pass
    assert tree(tmp_path) == before


def test_an_output_replaces_the_old_one_as_a_whole(tmp_path):
    out = tmp_path / "out"
    make(out, a="1")
    with pytest.raises(RuntimeError), claimed(out, RAW) as claim, claim.replaced() as folder:
        (folder / "b").write_text("half")
        raise RuntimeError
    assert (out / "a").read_text() == "1"
    make(out, **{"b": "2", "sub/c": "3"})
    assert tree(out).keys() == {MARKER, "b", "sub", "sub/c"}
    assert read_marker(out).files == {"b", "sub/c"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_parents_are_made_and_removed_where_nothing_came_of_them(tmp_path):
    with pytest.raises(RuntimeError), claimed(tmp_path / "a" / "b" / "out", RAW):
        raise RuntimeError
    assert not any(tmp_path.iterdir())
    make(tmp_path / "a" / "b" / "out", x="1")
    assert (tmp_path / "a" / "b" / "out" / "x").exists()


MINE = {"manifest.json", "plan.json", "model.json", "bundle.json", "checkpoints/epoch1.pt"}


@pytest.mark.parametrize("name", sorted(MINE))
@pytest.mark.parametrize("kind", [GENERATED, RAW, FEATURES, MODEL, BUNDLE, COMPARISON])
def test_a_users_folder_is_never_taken_for_an_output(tmp_path, name, kind):
    project = tmp_path / "project"
    for path in (name, "notes.txt", "thesis/ch1.tex", "train/photo.png"):
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text('{"mine": 1}')
    refused(tmp_path, project, kind, "which no stage wrote and which would be lost")
    only = tmp_path / "only"
    (only / name).parent.mkdir(parents=True)
    (only / name).write_text('{"mine": 1}')
    refused(tmp_path, only, kind, "which no stage wrote")


@pytest.mark.parametrize("place", ["NOTES.md", "sub/NOTES.md", "new/NOTES.md", "new/"])
def test_a_users_file_in_an_output_is_named(tmp_path, place):
    out = tmp_path / "out"
    make(out, **{"a": "1", "sub/c": "3"})
    if place.endswith("/"):
        (out / place).mkdir()
    else:
        (out / place).parent.mkdir(exist_ok=True)
        (out / place).write_text("mine")
    refused(tmp_path, out, match=f"holds {place}, which no stage wrote")


def test_a_users_file_that_comes_while_a_run_works_is_kept(tmp_path):
    out = tmp_path / "out"
    make(out, a="1")
    with (
        pytest.raises(UserError, match="holds mine"),
        claimed(out, RAW) as claim,
        claim.replaced() as folder,
    ):
        (folder / "a").write_text("2")
        (out / "mine").write_text("precious")
    assert (out / "mine").read_text() == "precious" and (out / "a").read_text() == "1"


def test_outputs_of_other_stages_are_refused(tmp_path):
    make(tmp_path / "raw", RAW, a="1")
    refused(tmp_path, tmp_path / "raw", MODEL, r"output of another stage \(raw log\)")
    refused(
        tmp_path,
        tmp_path / "raw" / "model",
        MODEL,
        r"is inside .*raw, the output of a stage \(raw log\)",
    )
    refused(tmp_path, tmp_path, MODEL)
    old = tmp_path / "old"
    old.mkdir()
    record = {"rows_read": 1, "rows_written": 1, "inputs": [], "shards": []}
    write_json(old / "manifest.json", record)
    refused(tmp_path, old, MODEL, "output of another stage")


def test_what_an_older_version_wrote_is_taken_over_once(tmp_path):
    out = tmp_path / "raw"
    out.mkdir()
    record = {"rows_read": 1, "rows_written": 1, "inputs": [], "shards": []}
    write_json(out / "manifest.json", record)
    (out / "part-00000.parquet").write_text("x")
    (out / MARKER).touch()
    (out / "notes").write_text("mine")
    refused(tmp_path, out, match="notes")
    (out / "notes").unlink()
    with claimed(out, RAW) as claim:
        assert claim.marker.files == {"manifest.json", "part-00000.parquet"}
    make(out, b="2")
    assert tree(out).keys() == {MARKER, "b"}


def test_an_output_is_no_input_and_not_inside_or_around_one(tmp_path):
    (tmp_path / "in" / "log").mkdir(parents=True)
    (tmp_path / "in" / "log" / "day").write_text("1")
    empty = tmp_path / "empty"
    empty.mkdir()
    log = tmp_path / "in" / "log"
    refused(tmp_path, empty, match="is an input", inputs=[empty])
    refused(tmp_path, tmp_path / "in", match="holds .*an input", inputs=[log / "day"])
    refused(tmp_path, log / "out", match="is inside .*an input", inputs=[log])
    os.symlink(log, tmp_path / "link")
    refused(tmp_path, tmp_path / "link" / "out", match="is inside", inputs=[log])
    refused(tmp_path, log / "out", match="is inside", inputs=[tmp_path / "link"])
    with claimed(tmp_path / "in2", RAW, [log]):
        pass


def test_links(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    os.symlink(disk, tmp_path / "out")
    make(tmp_path / "out", a="1")
    assert (disk / "a").read_text() == "1" and (tmp_path / "out").is_symlink()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").write_text("precious")
    os.symlink(tmp_path / "mine", disk / "train")
    refused(tmp_path, tmp_path / "out", match="holds train, which no stage wrote")
    (disk / "train").unlink()
    (disk / "a").unlink()
    os.symlink(tmp_path / "mine" / "x", disk / "a")
    refused(tmp_path, tmp_path / "out", match="holds a, which no stage wrote")
    os.symlink("self", tmp_path / "self")
    refused(tmp_path, tmp_path / "self", match="leads nowhere")
    os.symlink("nothing", tmp_path / "dangling")
    refused(tmp_path, tmp_path / "dangling", match="which is not there")
    refused(tmp_path, tmp_path / "dangling" / "sub", match="which is not there")


def test_hidden_neighbours_stay(tmp_path):
    for name in (".out.old", ".out.partial", ".out.grow", ".out.0123456789abcdef.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("precious")
    before = tree(tmp_path)
    make(tmp_path / "out", a="1")
    make(tmp_path / "out", a="2")
    after = tree(tmp_path)
    assert {name: after[name] for name in before} == before


def test_what_killed_runs_left_goes_with_the_next(tmp_path):
    out = tmp_path / "out"
    make(out, a="1")
    with claimed(out, RAW) as claim:
        staging = claim.staging()
        (staging / "half").write_text("x")
        claim.staging().joinpath(MARKER).unlink()  # killed before it was written
    list_files(out, "b")
    temporary_path(out / "b").write_text("half")
    temporary_path(out / MARKER).write_text("half")
    make(out, a="2")
    assert tree(tmp_path).keys() == {"out", f"out/{MARKER}", "out/a"}


def test_a_stopped_run_can_go_on(tmp_path):
    with claimed(tmp_path / "out", RAW, resumable=True) as claim:
        assert claim.stopped is None
        first = claim.staging()
    with claimed(tmp_path / "out", RAW, resumable=True) as claim:
        assert claim.stopped == first
    with claimed(tmp_path / "out", RAW) as claim:
        assert claim.stopped is None
    assert not any(tmp_path.iterdir())


def test_a_second_run_is_refused_and_one_within_the_first_is_not(tmp_path):
    with claimed(tmp_path / "out", COMPARISON) as claim:
        claim.add()
        make(claim.folder / "run", MODEL, x="1")
        with pytest.raises(Busy), claimed(tmp_path / "out", COMPARISON):
            pass
    with claimed(tmp_path / "out", COMPARISON):
        pass
    (tmp_path / "out" / "run" / "mine").write_text("x")
    refused(tmp_path, tmp_path / "out", COMPARISON, "holds run/mine")


def test_in_place_only_what_is_listed_goes(tmp_path):
    with claimed(tmp_path / "out", FEATURES) as claim:
        claim.add("plan.json", "train/part-00000.parquet")
        (claim.folder / "train").mkdir()
        for name in claim.marker.files:
            (claim.folder / name).write_text("1")
        (claim.scratch() / "events").write_text("2")
        assert claim.scratch() == claim.scratch()
    with claimed(tmp_path / "out", FEATURES) as claim:
        claim.clear(first=["plan.json"])
        assert tree(claim.folder).keys() == {MARKER}
        claim.discard()
    assert not any(tmp_path.iterdir())


def test_without_an_exchange_a_kill_between_renames_loses_nothing(tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(siblings.ctypes, "CDLL", lambda *_, **options: None)
    real = os.rename
    for renames in range(4):
        make(out, a="old")
        calls = []

        def rename(a, b, calls=calls, renames=renames):
            if len(calls) == renames:
                raise KeyboardInterrupt
            calls.append(a)
            real(a, b)

        with monkeypatch.context() as patched:
            patched.setattr(siblings.os, "rename", rename)
            patched.setattr(outputs, "remove_sibling", lambda folder: None)
            try:
                make(out, a="new")
            except KeyboardInterrupt:
                assert renames < 3
        with claimed(out, RAW):
            pass
        assert (out / "a").read_text() == ("old" if renames == 0 else "new")
        assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_files(tmp_path):
    ours = lambda path: path.read_text() == "ours"  # noqa: E731

    def write(path, **options):
        with claimed_file(path, replaceable=ours, **options) as file, atomic_path(file) as partial:
            partial.write_text("ours")

    write(tmp_path / "new" / "a.csv")
    temporary_path(tmp_path / "new" / "a.csv").write_text("half")
    with claimed_file(tmp_path / "new" / "a.csv", replaceable=ours) as file:
        with scratch_beside(file) as scratch:
            (scratch / "x").write_text("1")
        with pytest.raises(Busy):
            write(tmp_path / "new" / "a.csv")
    assert tree(tmp_path).keys() == {"new", "new/a.csv"}
    (tmp_path / "notes.csv").write_text("mine")
    os.link(tmp_path / "notes.csv", tmp_path / "hard")
    make(tmp_path / "raw", RAW, a="1")
    for path, match, inputs in (
        (tmp_path / "notes.csv", "something else than this command writes", []),
        (tmp_path / "hard", "is an input", [tmp_path / "notes.csv"]),
        (tmp_path / "new", "is a folder", []),
        (tmp_path / "new" / "b.csv", "is inside", [tmp_path / "new"]),
        (tmp_path / "raw" / "a", r"the output of a stage \(raw log\)", []),
        (tmp_path / "notes.csv" / "b.csv", "is a file", []),
    ):
        before = tree(tmp_path)
        with pytest.raises(UserError, match=match):
            write(path, inputs=inputs)
        assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"kind": 1}', '{"files": [1], "kind": "raw log"}']
)
def test_a_marker_of_somebody_else_vouches_for_nothing(tmp_path, text):
    out = tmp_path / "out"
    out.mkdir()
    (out / MARKER).write_text(text)
    (out / "mine").write_text("x")
    refused(tmp_path, out, match="mine")


NAMES = st.sampled_from(
    ["a", "sub/b", "sub/deep/c", "manifest.json", ".hidden", "part-00000.parquet"]
)


@settings(max_examples=150, deadline=None)
@given(
    ours=st.sets(NAMES), theirs=st.sets(NAMES), kind=st.sampled_from([RAW, MODEL]), data=st.data()
)
def test_whatever_a_folder_holds_nothing_of_the_users_is_lost(
    tmp_path_factory, ours, theirs, kind, data
):
    top = tmp_path_factory.mktemp("o")
    out = top / "out"
    if data.draw(st.booleans()):
        make(out, RAW, **dict.fromkeys(ours, "ours"))
    else:
        ours = set()
        out.mkdir()
    for name in sorted(theirs - ours):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(json.dumps({"mine": name}))
    before = tree(top)
    try:
        make(out, kind, new="1")
    except UserError:
        assert tree(top) == before
    else:
        assert theirs <= ours


@pytest.mark.parametrize("name", ["../mine", "/etc/passwd", "sub/../../mine", ""])
def test_a_strangers_marker_leads_nowhere_outside(tmp_path, name):
    (tmp_path / "mine").write_text("precious")
    out = tmp_path / "out"
    for key in ("files", "scratch"):
        out.mkdir()
        record = {"kind": "raw log", "files": [], key: [name]}
        (out / MARKER).write_text(json.dumps(record))
        assert read_marker(out) is None
        make(out, a="1")
        make(out, a="2")
        assert (tmp_path / "mine").read_text() == "precious"
        remove_listed(out)


def test_what_comes_into_an_old_output_at_the_last_moment_is_kept_and_named(
    tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    for old in ({}, {"a": "1"}):
        out.mkdir()
        make(out, **old) if old else None
        real = siblings.exchange

        def exchange(staging, folder, real=real):
            (folder / "mine").write_text("precious")
            real(staging, folder)

        with monkeypatch.context() as patched:
            patched.setattr(outputs, "exchange", exchange)
            make(out, b="2")
        (kept,) = tmp_path.glob(".out.*.kept")
        assert (kept / "mine").read_text() == "precious" and (out / "b").exists()
        assert f"{kept}: holds what was put into" in " ".join(capsys.readouterr().out.split())
        make(out, b="3")
        assert (kept / "mine").exists()
        (kept / "mine").unlink()
        kept.rmdir()
        remove_listed(out)


def test_nothing_behind_a_link_is_deleted(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").write_text("precious")
    out = tmp_path / "out"
    make(out, **{"sub/x": "1"})
    (out / "sub" / "x").unlink()
    (out / "sub").rmdir()
    os.symlink(tmp_path / "mine", out / "sub")
    remove_listed(out)
    assert (tmp_path / "mine" / "x").read_text() == "precious"


def test_what_a_killed_run_built_within_a_container_does_not_stand_in_its_way(tmp_path):
    with claimed(tmp_path / "out", COMPARISON) as claim:
        claim.add()
        make(claim.folder / "run", MODEL, x="1")
        with claimed(claim.folder / "run", MODEL) as run:
            (run.staging() / "half").write_text("1")
    assert list((tmp_path / "out").glob(".run.*.partial"))
    with claimed(tmp_path / "out", COMPARISON) as claim:
        make(claim.folder / "run", MODEL, x="2")
    assert not list((tmp_path / "out").glob(".run.*.partial"))


def test_what_data_version_control_does_is_no_obstacle(tmp_path):
    """It writes .gitignore beside what it tracks, and restores folders without those around."""
    with claimed(tmp_path / "out", COMPARISON) as claim:
        claim.add()
        make(claim.folder / "plan", MODEL, x="1")
    (tmp_path / "out" / ".gitignore").write_text("/plan")
    with claimed(tmp_path / "out", COMPARISON):
        pass
    (tmp_path / "out" / MARKER).unlink()
    with claimed(tmp_path / "out", COMPARISON) as claim:
        claim.add()
    assert (tmp_path / "out" / ".gitignore").read_text() == "/plan"
    (tmp_path / "out" / "mine").write_text("x")
    refused(tmp_path, tmp_path / "out", COMPARISON, "holds mine")


def test_a_half_deleted_old_output_does_not_come_back(tmp_path, monkeypatch):
    out = tmp_path / "out"
    make(out, a="old", b="old")
    with monkeypatch.context() as patched:
        patched.setattr(outputs, "remove_sibling", lambda folder: None)
        make(out, a="new")
    out.rename(tmp_path / "moved")
    with claimed(out, RAW):
        assert not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]


@pytest.mark.parametrize("text", ["\0\0", "{", ""])
def test_a_marker_that_cannot_be_read_is_written_anew(tmp_path, text):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MARKER).write_text(text)
    with claimed(tmp_path / "out", FEATURES) as claim:
        claim.add("plan.json")
        (claim.folder / "plan.json").write_text("1")
    with claimed(tmp_path / "out", FEATURES) as claim:
        assert claim.marker.files == {"plan.json"}


def test_names_with_a_backslash_are_listed(tmp_path):
    make(tmp_path / "out", **{"state/unique.a\\b.parquet": "1"})
    make(tmp_path / "out", a="2")
    assert tree(tmp_path / "out").keys() == {MARKER, "a"}
