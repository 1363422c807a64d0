"""Whatever fails ends in one error without a traceback; as functions, stages raise as usual."""

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core import failures, parquet
from core.errors import UserError
from pipeline import command_line
from pipeline.__main__ import main
from tests.harness.altered import largest_file
from tests.harness.environments import SETTINGS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Settings, a raw log and features of the ranking recipe."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "p.yaml").write_text(SETTINGS)
    settings = ["--settings", str(folder / "p.yaml")]
    for command in (
        ["generate", "ranking", *settings, "--output", "log"],
        ["ingest", "ranking", *settings, "--input", "log/log", "--output", "raw"],
        ["preprocess", "ranking", *settings, "--input", "raw", "--output", "features"],
    ):
        names = ("log", "log/log", "raw", "features")
        assert main([str(folder / part) if part in names else part for part in command]) == 0
    return folder


def one_line(capfd):
    """What was printed to standard error, which is one line."""
    err = capfd.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err


# damaged Parquet

READERS = {
    "read_table": parquet.read_table,
    "read_frame": parquet.read_frame,
    "read_footer": parquet.read_footer,
    "read_row_groups": lambda path: parquet.read_row_groups(path, [0], ["a"]),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "absent"])
def test_a_damaged_file_is_one_error_that_names_it(tmp_path, reader, damage):
    path = tmp_path / "part-00000.parquet"
    pq.write_table(pa.table({"a": list(range(1000))}), path)
    content = path.read_bytes()
    damaged = {"cut": content[:-20], "garbage": bytes(range(256)) * 9, "empty": b""}
    path.unlink()
    if damage in damaged:
        path.write_bytes(damaged[damage])
    with pytest.raises(UserError, match=r"part-00000\.parquet: no"):
        READERS[reader](path)


def test_pages_that_were_altered_are_one_error(tmp_path):
    path = tmp_path / "part.parquet"
    values = [f"value {n * n}" for n in range(3000)]
    pq.write_table(pa.table({"a": values}), path, compression="zstd", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[60:260] = bytes(200)
    path.write_bytes(content)
    for read in (parquet.read_table, parquet.read_frame):
        with pytest.raises(UserError, match=r"part\.parquet: not a whole"):
            read(path)


@pytest.mark.parametrize(
    "error", [MemoryError("x"), PermissionError(errno.EACCES, "no"), UserError("mine")]
)
def test_errors_of_the_machine_pass(error):
    with pytest.raises(type(error)) as raised, parquet.reading("a"):
        raise error
    assert raised.value is error


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_a_failure_in_a_dask_task_is_printed_once(made, tmp_path, capfd, kind, monkeypatch):
    raw = tmp_path / "raw"
    raw.mkdir()
    for path in (made / "raw").iterdir():
        (raw / path.name).write_bytes(path.read_bytes())
    part = raw / "part-00001.parquet"
    content = bytearray(part.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 200] = bytes(200)
    part.write_bytes(content)
    arguments = ["--settings", str(made / "p.yaml"), "--set", f"cluster.kind={kind}"]
    command = ["preprocess", "ranking", *arguments, "--input", str(raw)]
    capfd.readouterr()
    assert main([*command, "--output", str(tmp_path / "features")]) == 1
    assert str(part) in one_line(capfd)


# the machine


def run_raising(monkeypatch, error):
    """A command that raises ``error``."""

    def run(arguments, command):
        command.name, command.lower = "train", "lower train.batch_size"
        raise error

    monkeypatch.setattr(command_line, "run", run)
    return main([])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("[enforce fail at alloc] DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("can't start new thread"),
        pa.ArrowMemoryError("malloc of size 64 failed"),
        pl.exceptions.ComputeError("cannot allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
)
def test_little_memory_says_what_to_lower(monkeypatch, capfd, error):
    assert run_raising(monkeypatch, error) == 1
    assert one_line(capfd) == "error: train: not enough memory; lower train.batch_size\n"


def test_a_killed_worker_says_what_to_lower(monkeypatch, capfd):
    error = type("KilledWorker", (Exception,), {})("a task")
    assert run_raising(monkeypatch, error) == 1
    assert "a Dask worker was killed" in one_line(capfd)


@pytest.mark.parametrize("megabytes", [60, 200, 500])
def test_a_limit_of_memory_is_one_line(made, tmp_path, megabytes):
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))

    command = ["preprocess", "ranking", "--settings", str(made / "p.yaml")]
    command += ["--input", str(made / "raw"), "--output", str(tmp_path / "features")]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *command],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "not enough memory" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/data/x"),
        RuntimeError("[enforce fail at inline_container.cc] . No space left on device"),
        pl.exceptions.ComputeError("No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_says_so(monkeypatch, capfd, error):
    assert run_raising(monkeypatch, error) == 1
    assert "no room left on the disk" in one_line(capfd)


@pytest.mark.parametrize("stage", ["generate", "inspect", "profile", "train"])
def test_a_disk_that_fills_up_under_a_stage(made, tmp_path, capfd, stage):
    settings = [] if stage == "inspect" else ["--settings", str(made / "p.yaml")]
    features = str(made / "features")
    plots = str(tmp_path / "plots")
    arguments = {
        "generate": [],
        "inspect": ["--raw", str(made / "raw"), "--features", features, "--plots", plots],
        "profile": ["--input", features, "--steps", "2"],
        "train": ["--input", features],
    }[stage]
    capfd.readouterr()
    # The profile's table of 10 kB has room, its trace has none.
    with largest_file(15_000 if stage == "profile" else 1000):
        output = ["--output", str(tmp_path / "output")]
        assert main([stage, "ranking", *settings, *arguments, *output]) == 1
    assert "no room left on the disk" in one_line(capfd)


# faults of the program


def test_a_fault_of_the_program_is_one_line_with_its_details_in_a_file(
    monkeypatch, capfd, tmp_path
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run_raising(monkeypatch, ValueError("odd\nvalue")) == 1
    line = one_line(capfd)
    assert "a fault of the program" in line and "ValueError: odd value" in line
    (details,) = tmp_path.iterdir()
    assert str(details) in line and "Traceback" in details.read_text()


def test_its_details_are_printed_where_asked(monkeypatch, capfd, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv(failures.DEBUG, "1")
    assert run_raising(monkeypatch, ValueError("odd")) == 1
    err = capfd.readouterr().err
    assert "Traceback" in err and "error: a fault of the program" in err
    assert not list(tmp_path.iterdir())


def test_as_a_function_a_stage_raises(monkeypatch, tmp_path):
    from pipeline.stages import generate
    from pipeline.synthetic.criteo import CriteoGenerateSettings

    def broken(*_):
        raise ZeroDivisionError

    settings = (CriteoGenerateSettings, broken, "rows")
    monkeypatch.setitem(generate.GENERATORS, "ranking", settings)
    with pytest.raises(ZeroDivisionError):
        generate.generate("ranking", CriteoGenerateSettings(rows=10), tmp_path / "log")


def test_only_what_goes_on_says_so():
    parser = command_line.make_parser()
    said = {}
    for stage in ("ingest", "preprocess", "train", "compare", "generate", "evaluate", "profile"):
        said[stage] = parser.parse_args([stage, "ranking"]).interrupted
    resuming = {stage for stage, text in said.items() if text == failures.RESUMES}
    assert resuming == {"ingest", "preprocess", "train", "compare"}
    assert set(said.values()) == {failures.RESUMES, failures.INTERRUPTED}
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
