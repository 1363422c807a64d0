"""A running Dask scheduler with workers of its own, one of which is killed midway."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from distributed import LocalCluster

from core.cluster import ClusterSettings
from core.errors import UserError
from pipeline.preprocess_ranking import RankingPreprocessSettings, preprocess_ranking
from pipeline.splits import SplitSettings
from tests.harness.kill import all_bytes
from tests.pipeline.test_preprocess_ranking import write_raw
from workflows.ranking import RankingWorkflowSettings

SETTINGS = RankingPreprocessSettings(
    split=SplitSettings(test=0.25, valid=0.2),
    workflow=RankingWorkflowSettings(freq_threshold=3),
    rows_per_part=40,
)
ROOT = Path(__file__).parents[2]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def started(*arguments, log):
    """A process of Dask's command line, ended with the block."""
    # Its commands are those of the environment that the tests run in.
    command = [sys.executable, "-m", "dask", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(log, "wb") as text:
        process = subprocess.Popen(
            command, stdout=text, stderr=text, env=environment, start_new_session=True
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def cluster(tmp_path):
    """A scheduler's address and its two workers' processes."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    with contextlib.ExitStack() as stack:
        quiet = ("--no-dashboard",)
        here = ("--host", "127.0.0.1")
        scheduler = ("scheduler", "--port", str(port), *here, *quiet)
        stack.enter_context(started(*scheduler, log=tmp_path / "scheduler.log"))
        workers = []
        for number in range(2):
            # Without a nanny, so that what is killed stays dead.
            options = ("--nthreads", "1", "--memory-limit", "2GiB", "--no-nanny", *quiet, *here)
            folder = ("--local-directory", str(tmp_path / f"worker-{number}"))
            worker = ("worker", address, "--preload", "core.merlin", *options, *folder)
            log = tmp_path / f"worker-{number}.log"
            workers.append(stack.enter_context(started(*worker, log=log)))
        yield address, workers


def wait_for_workers(address, number):
    from distributed import Client

    with Client(address, timeout="30s") as client:
        client.wait_for_workers(number, timeout=60)


def test_a_killed_worker_changes_no_byte(tmp_path, cluster):
    address, workers = cluster
    raw = write_raw(tmp_path / "raw")
    output = tmp_path / "features"
    wait_for_workers(address, 2)
    killed = []

    def kill_midway():
        while len(list(output.glob("*/part-*.parquet"))) < 4:
            time.sleep(0.01)
        killed.append(len(list(output.glob("*/part-*.parquet"))))
        workers[0].send_signal(signal.SIGKILL)

    thread = threading.Thread(target=kill_midway, daemon=True)
    thread.start()
    preprocess_ranking(raw, output, SETTINGS, ClusterSettings(kind="scheduler", address=address))
    thread.join(timeout=10)
    assert workers[0].wait(timeout=10) == -signal.SIGKILL
    parts = len(list(output.glob("*/part-*.parquet")))
    assert killed and killed[0] < parts, "the worker was killed after the last part"
    expected = tmp_path / "threads"
    preprocess_ranking(raw, expected, SETTINGS, ClusterSettings(workers=1))
    assert all_bytes(output) == all_bytes(expected)
    assert workers[1].poll() is None


def test_no_scheduler_there_is_said_plainly(tmp_path, monkeypatch):
    import core.cluster

    monkeypatch.setattr(core.cluster, "CONNECT_TIMEOUT", "1s", raising=False)
    settings = ClusterSettings(kind="scheduler", address=f"tcp://127.0.0.1:{free_port()}")
    with (
        pytest.raises(UserError, match=r"cluster\.address tcp.*no Dask scheduler answers"),
        core.cluster.start(settings),
    ):
        pass


def test_a_scheduler_without_workers_is_said_plainly(monkeypatch):
    import core.cluster

    monkeypatch.setattr(core.cluster, "CONNECT_TIMEOUT", "1s")
    with LocalCluster(n_workers=0, processes=False, dashboard_address=None) as empty:
        settings = ClusterSettings(kind="scheduler", address=empty.scheduler_address)
        with (
            pytest.raises(UserError, match=r"the scheduler has no workers.*dask worker inproc"),
            core.cluster.start(settings),
        ):
            pass
