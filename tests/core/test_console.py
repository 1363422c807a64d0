"""Printing decides nothing: what stdout cannot show, or does not take, stops no work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core import console, streams

ROOT = Path(__file__).resolve().parents[2]
WORK = """
import sys
from core import console
with console.progress("fitting", total=2, unit="parts") as advance:
    for _ in range(2):
        advance()
console.say("a → b … c – d ☃")
console.table("title →", ["name", "n"], [["ü", 1], ["☃", 2]])
for _ in range(int(sys.argv[2])):
    console.say("x" * 1000)
console.fail("wrong → ☃")
open(sys.argv[1], "w").write("done")
"""


def run(tmp_path, redirect="", lines=0, **variables):
    """Prints in a process of its own; its result, which wrote a file at the end."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    (tmp_path / "work.py").write_text(WORK, encoding="utf-8")
    command = [sys.executable, "work.py", "done", str(lines)]
    shell = f'"$@" {redirect}'
    done = subprocess.run(
        ["/bin/bash", "-c", shell, "bash", *command], capture_output=True, env=env, cwd=tmp_path
    )
    assert (tmp_path / "done").read_text() == "done", done.stderr
    return done


@pytest.mark.parametrize(
    "variables", [{"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}]
)
def test_what_cannot_be_shown_is_replaced(tmp_path, variables):
    done = run(tmp_path, **variables)
    out = done.stdout.decode("latin-1")
    assert done.returncode == 0
    assert "a -> b ... c - d ?" in out and "title ->" in out
    assert "wrong -> ?" in done.stderr.decode("latin-1")
    assert "ü" in out or "C" in variables.values()  # Latin-1 has it


def test_a_lone_surrogate_is_replaced(monkeypatch, capsys):
    console.say("name \udcff")
    assert capsys.readouterr().out == "name ?\n"


@pytest.mark.parametrize("redirect", [">&-", "2>&-", ">&- 2>&-", ">/dev/full", ">&- <&-"])
def test_closed_or_full_output_stops_nothing(tmp_path, redirect):
    done = run(tmp_path, redirect)
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr


def test_a_broken_pipe_stops_nothing_and_makes_no_noise(tmp_path):
    done = run(tmp_path, '| head -1; exit "${PIPESTATUS[0]}"', lines=500)
    assert done.returncode == 0
    assert done.stdout.count(b"\n") == 1
    assert done.stderr == "error: wrong → ☃\n".encode()


def test_a_narrow_or_dumb_terminal_changes_no_line(tmp_path):
    plain = run(tmp_path).stdout
    for variables in ({"COLUMNS": "20"}, {"TERM": "dumb"}, {"NO_COLOR": "1"}, {"COLUMNS": "0"}):
        assert run(tmp_path, **variables).stdout == plain


def test_all_replacements_are_plain():
    assert all(shown.isascii() for shown in streams.REPLACEMENTS.values())


@pytest.mark.parametrize("arguments", [["--help"], ["recommend", "--help"], ["report"]])
def test_help_and_report_where_little_can_be_shown(tmp_path, arguments):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C", "PYTHONUTF8": "0"}
    env["COLUMNS"] = "20"
    command = [sys.executable, "-m", "pipeline", *arguments]
    shown = subprocess.run(command, capture_output=True, env=env, cwd=tmp_path)
    assert b"Traceback" not in shown.stderr and shown.stdout.isascii()
    cut = subprocess.run(
        ["/bin/bash", "-c", '"$@" | head -1; exit "${PIPESTATUS[0]}"', "bash", *command],
        capture_output=True,
        env=env,
        cwd=tmp_path,
    )
    assert cut.returncode == shown.returncode and cut.stderr == shown.stderr
