"""Signals end a command in order: one line, its own exit status, nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core import failures, signals
from pipeline.__main__ import main
from tests.harness.environments import SETTINGS

ROOT = Path(__file__).resolve().parents[2]
SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}

# Says when it is at work, in a folder that its ``with`` block deletes.
WAITING = """
import sys, tempfile, time
from core import failures, signals, streams
from pipeline import command_line
from pipeline.__main__ import main
def run(arguments, command):
    command.interrupted = failures.RESUMES
    signals.begin()
    with tempfile.TemporaryDirectory() as folder:
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            if "slow" in sys.argv:
                time.sleep(60)
command_line.run = run
sys.exit(main())
"""
IMPORTING = """
import sys, time
from core import signals
with signals.handled():
    signals.begin()
    try:
        import slow_module
        time.sleep(5)
    except KeyboardInterrupt:
        print("after the import:", "slow_module" in sys.modules)
"""
SLOW_MODULE = """
import time
print("ready", flush=True)
try:
    time.sleep(0.5)
except BaseException as error:
    raise ImportError("half imported") from error
"""
SWALLOWED = """
import sys, time
from core import signals
class Deaf:
    def __del__(self):
        print("ready", flush=True)
        time.sleep(2)
with signals.handled():
    signals.begin()
    try:
        Deaf()
        time.sleep(5)
    except KeyboardInterrupt:
        print("heard")
"""


def start(tmp_path, program, *arguments, **variables):
    """A process that runs ``program`` and has said that it is at work."""
    file = tmp_path / "program.py"
    file.write_text(program, encoding="utf-8")
    (tmp_path / "temporary").mkdir(exist_ok=True)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "temporary")}
    process = subprocess.Popen(
        [sys.executable, str(file), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**env, **variables},
        cwd=tmp_path,
        start_new_session=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(("name", "status"), SIGNALS.items())
def test_a_signal_unwinds_and_is_one_line(tmp_path, name, status):
    process = start(tmp_path, WAITING)
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (status, f"error: {failures.RESUMES}\n")
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_second_signal_ends_at_once(tmp_path):
    process = start(tmp_path, WAITING, "slow")
    process.terminate()
    time.sleep(signals.SAME_REQUEST_SECONDS + 0.3)
    assert process.poll() is None
    begin = time.monotonic()
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - begin < 10
    assert (process.returncode, err) == (143, "error: interrupted\n")


def test_the_same_request_twice_counts_once(tmp_path):
    process = start(tmp_path, WAITING)
    process.terminate()
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (143, f"error: {failures.RESUMES}\n")


def test_what_was_ignored_stays_ignored(tmp_path):
    ignoring = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    process = start(tmp_path, ignoring + WAITING)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 143


def test_an_import_is_finished_first(tmp_path):
    (tmp_path / "slow_module.py").write_text(SLOW_MODULE)
    process = start(tmp_path, IMPORTING)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (out, err) == ("after the import: True\n", "")


def test_an_interruption_that_python_swallows_comes_again(tmp_path):
    process = start(tmp_path, SWALLOWED)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (out, err) == ("heard\n", "")


@pytest.mark.parametrize("delay", [0.05, 0.15, 0.3, 0.6, 1.0])
def test_a_signal_during_imports_is_one_line_at_most(tmp_path, delay):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pipeline", "settings"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env, cwd=tmp_path
    )
    time.sleep(delay)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode in (143, -signal.SIGTERM)
    assert err in ("", f"error: {failures.NOTHING_WRITTEN}\n")


def test_worker_processes_print_nothing_on_ctrl_c(tmp_path):
    (tmp_path / "p.yaml").write_text(SETTINGS)
    settings = ["--settings", str(tmp_path / "p.yaml"), "--set", "cluster.kind=processes"]
    log, raw = str(tmp_path / "log"), str(tmp_path / "raw")
    assert main(["generate", "ranking", *settings, "--output", log]) == 0
    assert main(["ingest", "ranking", *settings, "--input", f"{log}/log", "--output", raw]) == 0
    (tmp_path / "temporary").mkdir()
    command = ["preprocess", "ranking", *settings, "--input", raw]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *command, "--output", str(tmp_path / "features")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "temporary")},
        start_new_session=True,
    )
    assert process.stdout.readline().startswith("fitting")
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, f"error: {failures.RESUMES}\n")
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_call_in_process_leaves_the_handlers_as_they_were():
    before = [signal.getsignal(number) for number in signals.NUMBERS]
    assert main(["report"]) in (0, 1)
    assert [signal.getsignal(number) for number in signals.NUMBERS] == before
