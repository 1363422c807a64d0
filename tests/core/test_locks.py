"""One run at a time writes an output; a second one is refused and says who holds it."""

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import socket

import pytest

from core import locks
from core.errors import UserError
from core.locks import Busy, lock_file, locked
from core.sums import Contents


def hold(path, pipe):
    with locked(path):
        pipe.send("ready")
        pipe.poll(60)


@pytest.fixture
def holder(tmp_path):
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=hold, args=(tmp_path / "raw", there), daemon=True)
    process.start()
    assert here.recv() == "ready"
    yield process
    here.close()
    process.kill()
    process.join(30)


def test_a_second_run_is_refused_at_once_and_told_who_holds_it(tmp_path, holder):
    with pytest.raises(Busy) as error, locked(tmp_path / "raw"):
        pass
    for part in (f"process {holder.pid}", socket.gethostname(), "since 20", str(tmp_path / "raw")):
        assert part in str(error.value)
    with locked(tmp_path / "other"):
        pass
    assert f"process {holder.pid}" in locks.holder(tmp_path / "raw")
    assert locks.holder(tmp_path / "other") == ""
    with pytest.raises(UserError, match=f"It is being written: process {holder.pid}"):
        Contents(tmp_path / "raw", "manifest.json", "ingest")


def test_a_lock_of_a_killed_process_is_taken_over(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert lock_file(tmp_path / "raw").exists()
    with locked(tmp_path / "raw"):
        pass
    assert not lock_file(tmp_path / "raw").exists()


def test_one_process_holds_a_lock_once(tmp_path):
    with locked(tmp_path / "raw"), pytest.raises(Busy), locked(tmp_path / "raw"):
        pass
    with locked(tmp_path / "raw"):
        pass
    assert not any(tmp_path.iterdir())


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("precious")
    os.symlink(tmp_path / "mine", lock_file(tmp_path / "raw"))
    with pytest.raises(OSError), locked(tmp_path / "raw"):
        pass
    assert (tmp_path / "mine").read_text() == "precious"


def record(tmp_path, **changed):
    with locked(tmp_path / "raw"):
        found = json.loads(lock_file(tmp_path / "raw").read_text())
    lock_file(tmp_path / "raw").write_text(json.dumps({**found, **changed}))


ELSEWHERE = {"machine": "elsewhere", "boot": "another"}


def test_on_a_network_file_system_another_machine_may_be_at_work(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_on_network", lambda file: True)
    record(tmp_path, **ELSEWHERE)
    with (
        pytest.raises(Busy, match=r"elsewhere.*delete .*\.raw\.merlin-pipeline\.lock"),
        locked(tmp_path / "raw"),
    ):
        pass
    lock_file(tmp_path / "raw").unlink()
    record(tmp_path, boot="before this machine was started anew")
    with locked(tmp_path / "raw"):
        pass


def test_on_a_local_file_system_the_lock_itself_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_on_network", lambda file: False)
    record(tmp_path, **ELSEWHERE)
    with locked(tmp_path / "raw"):
        pass


def test_without_locks_the_record_decides(tmp_path, monkeypatch, holder):
    def none(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(Busy, match=f"process {holder.pid}"), locked(tmp_path / "raw"):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with locked(tmp_path / "raw"), pytest.raises(Busy), locked(tmp_path / "raw"):
        pass
    record(tmp_path, **ELSEWHERE)
    with pytest.raises(Busy, match="elsewhere"), locked(tmp_path / "raw"):
        pass


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"process": "x"}', "null"])
def test_what_is_no_record_does_not_stay_in_the_way(tmp_path, content):
    lock_file(tmp_path / "raw").write_text(content)
    with locked(tmp_path / "raw"):
        pass
    assert not any(tmp_path.iterdir())
