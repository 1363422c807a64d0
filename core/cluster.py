"""The one place that starts Dask: this machine's cores, its GPUs, or a scheduler's address."""

import contextlib
import logging
import multiprocessing
import multiprocessing.util
import os
import re
import secrets
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

import core.merlin  # noqa: F401  (sets what Dask must be told before it is imported)
from core import frames, gpu, signals, sums
from core.console import progress
from core.errors import UserError
from core.locks import Busy, lock_file, locked
from core.settings import Settings

REDUCE_WIDTH = 8
"""Results that a worker puts together at once."""


METHOD = "distributed.worker.multiprocessing-method"
SILENT = logging.CRITICAL + 1
"""A level above that of any record."""
CONNECT_TIMEOUT = "30s"
LONGEST_SOCKET_FOLDER = 60
SCRATCH = re.compile(r"merlin-pipeline-dask-[0-9a-f]{16}")
GPU_WORKER_MEMORY = 16 * 2**30
"""Of the host, for each worker with a GPU, at least: Dask ends a worker that takes more than its
share, and cuDF's libraries alone take gigabytes."""


class ClusterSettings(Settings):
    """Where preprocessing runs."""

    device: frames.Device | Literal["auto"] = "auto"
    """Where the workers hold the rows: cuda: as cuDF's frames on GPUs, one worker a GPU; auto: cuda
    where cuDF is installed and a GPU is there (of a scheduler: with every worker), else cpu. The
    results are the same. The setting ``device`` above all blocks stands for this one too."""
    kind: Literal["threads", "processes", "cuda", "scheduler"] = "threads"
    """Of workers without GPUs: threads: in this process (the operators release the GIL); processes:
    one worker a core. cuda: as ``device: cuda``; scheduler: those of a running Dask scheduler at
    ``address``."""
    workers: int | None = Field(None, ge=1)
    """Threads, processes or GPUs to use; empty means all that the machine has."""
    memory_limit: str = "4GiB"
    """Bound on the memory of all workers together; beyond it Dask spills to disk or waits. A worker
    with a GPU has 16 GiB of the host's at least."""
    address: str | None = None
    """Address of the scheduler, such as tcp://host:8786, for kind: scheduler."""

    @model_validator(mode="after")
    def _address_given(self) -> "ClusterSettings":
        if self.kind == "scheduler" and not self.address:
            raise ValueError("kind 'scheduler' needs cluster.address, such as tcp://host:8786")
        return self

    @model_validator(mode="after")
    def _device_fits(self) -> "ClusterSettings":
        if self.kind == "cuda" and self.device == "cpu":
            raise ValueError("kind 'cuda' is for device 'cuda' or 'auto'")
        return self

    def on_gpus(self) -> bool:
        """Whether this machine's GPUs are meant; of a scheduler's workers only they can tell.

        Raises:
            UserError: they are, and there are none, or no cuDF.
        """
        asked = "cuda" in (self.device, self.kind)
        if self.kind == "scheduler" or self.device == "cpu":
            return False
        if asked and not gpu.takes_frames():
            raise UserError(f"device: cuda was asked for, but {gpu.fault()}; set it to auto or cpu")
        return asked or gpu.takes_frames()


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def start(settings: ClusterSettings) -> Iterator[Any]:
    """A Dask client for the block; it and what it started are closed afterwards."""
    import dask
    from dask.utils import parse_bytes
    from distributed import Client, LocalCluster

    # What fails in a task is raised here too; Dask would print each of them with its traceback.
    for name in ("distributed", "tornado", "asyncio"):
        logging.getLogger(name).setLevel(SILENT)
    workers = settings.workers or cores()
    memory = parse_bytes(settings.memory_limit)
    # A client that is closed while its workers still say goodbye is no news to the user.
    with warnings.catch_warnings(), dask.config.set({"distributed.comm.timeouts.connect": "30s"}):
        warnings.simplefilter("ignore")
        if settings.kind == "scheduler":
            with _connect(settings.address) as client:
                yield client
            return
        with contextlib.ExitStack() as stack:
            scratch = stack.enter_context(_scratch())
            stack.enter_context(dask.config.set({"temporary-directory": scratch}))
            options = {"dashboard_address": None, "silence_logs": SILENT}
            if settings.kind == "processes" and not settings.on_gpus():
                stack.enter_context(_forked_workers())
            with signals.kept_from_children():
                if settings.on_gpus():
                    cluster = _cuda_cluster(settings, options)
                elif settings.kind == "threads":
                    shape = {"n_workers": 1, "threads_per_worker": workers, "processes": False}
                    cluster = LocalCluster(memory_limit=memory, **shape, **options)
                else:
                    shape = {"n_workers": workers, "threads_per_worker": 1, "processes": True}
                    shape["preload"] = "core.merlin"  # which keeps Merlin's notices off the screen
                    cluster = LocalCluster(memory_limit=memory // workers, **shape, **options)
                stack.enter_context(cluster)
                client = stack.enter_context(Client(cluster))
            yield client


@contextlib.contextmanager
def expecting(
    client: Any, settings: ClusterSettings, folder: Any, files: sums.Sums
) -> Iterator[None]:
    """Within the block, workers in processes of their own check the files as they read them.

    Threads of this process do as it does.
    """
    if settings.kind == "threads":
        yield
        return
    added = client.run(sums.expect, str(folder), files)
    try:
        yield
    finally:
        client.run(sums.forget, sorted({path for paths in added.values() for path in paths}))


@contextlib.contextmanager
def _forked_workers() -> Iterator[None]:
    """Has worker processes be forked from a small server, which starts here.

    It never gets Ctrl-C and prints nothing, from its first moment on, and so do the workers.
    """
    import dask

    environment = dask.config.get("distributed.nanny.pre-spawn-environ", {})
    environment = {name: str(value) for name, value in environment.items()}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["core.silent_worker"])
    # Of the helper of multiprocessing, about processes that were stopped early.
    with _environment({"PYTHONWARNINGS": "ignore"}):
        resource_tracker.ensure_running()  # later it would unblock Ctrl-C
    with (
        signals.kept_from_children(),
        _environment({**environment, "PYTHONWARNINGS": "ignore"}),
        _short_temporary_folder(),
    ):
        forkserver.ensure_running()
    before = dask.config.get(METHOD)
    dask.config.set({METHOD: "forkserver"})
    yield
    # Not after an error: workers that are closed late may be started once more.
    dask.config.set({METHOD: before})


@contextlib.contextmanager
def _short_temporary_folder() -> Iterator[None]:
    """Where the name of the folder for temporary files is long, multiprocessing makes its own in
    /tmp: the system takes about a hundred characters for the name of a socket."""
    before = tempfile.tempdir
    if len(os.fsencode(tempfile.gettempdir())) > LONGEST_SOCKET_FOLDER and os.access(
        "/tmp", os.W_OK
    ):
        tempfile.tempdir = "/tmp"
    try:
        multiprocessing.util.get_temp_dir()  # kept for all that multiprocessing does
        yield
    finally:
        tempfile.tempdir = before


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables for what is started in the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def _scratch() -> Iterator[str]:
    """Gives a folder for what the workers spill; removes it, and those that killed runs left."""
    import dask

    parent = Path(dask.config.get("temporary-directory", None) or tempfile.gettempdir())
    for entry in parent.iterdir():
        name = SCRATCH.search(entry.name)  # of a folder, or of the lock of one
        old = parent / (name[0] if name else "")
        if name and entry in (old, lock_file(old)) and not old.is_symlink():
            with contextlib.suppress(Busy, OSError), locked(old):
                shutil.rmtree(old, ignore_errors=True)
    folder = parent / f"merlin-pipeline-dask-{secrets.token_hex(8)}"
    with locked(folder):
        folder.mkdir(mode=0o700)
        try:
            yield str(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _connect(address: str | None) -> Any:
    from distributed import Client

    try:
        client = Client(address, timeout=CONNECT_TIMEOUT)
    except OSError as error:
        raise UserError(f"cluster.address {address}: no Dask scheduler answers ({error})") from None
    try:
        client.wait_for_workers(1, timeout=CONNECT_TIMEOUT)
    except TimeoutError:
        client.close()
        raise UserError(
            f"cluster.address {address}: the scheduler has no workers; start some by 'dask worker "
            f"{address} --preload core.merlin' where this project is installed"
        ) from None
    return client


def _takes_frames() -> bool:
    """On a worker: it imports this file and with it core.merlin, which is where cuDF is tried."""
    return gpu.takes_frames()


def device_of(client: Any, settings: ClusterSettings) -> frames.Device:
    """Where the workers of ``client``, started by ``settings``, hold the rows.

    Raises:
        UserError: ``device`` is cuda, and a worker of the scheduler has no GPU or no cuDF.
    """
    if settings.kind != "scheduler":
        return "cuda" if settings.on_gpus() else "cpu"
    if settings.device == "cpu":
        return "cpu"
    found = client.run(_takes_frames)
    without = [address for address, takes in found.items() if not takes]
    if settings.device == "cuda" and (without or not found):
        raise UserError(
            f"device: cuda was asked for, but of the workers at {settings.address} "
            f"{', '.join(without) or 'none'} have no GPU with cuDF; start them by 'dask cuda "
            "worker' where the gpu extra is installed, or set device to cpu"
        )
    return "cuda" if found and not without else "cpu"


def _cuda_cluster(settings: ClusterSettings, options: dict[str, Any]) -> Any:
    """One worker a GPU.

    Its memory is a pool that grows to nine tenths of the GPU's, so that a kernel's scratch has
    room; cuDF moves what is not in use to the host when the pool is full.
    """
    from dask.utils import parse_bytes
    from dask_cuda import LocalCUDACluster

    if settings.workers and settings.workers > gpu.visible():
        raise UserError(
            f"cluster.workers {settings.workers}: there are {gpu.visible()} GPUs, and a worker has "
            "one of its own; set it to no more, or leave it empty"
        )
    share = parse_bytes(settings.memory_limit) // (settings.workers or gpu.visible())
    return LocalCUDACluster(
        n_workers=settings.workers,
        memory_limit=max(share, GPU_WORKER_MEMORY),
        rmm_pool_size=0.5,
        rmm_maximum_pool_size=0.9,
        enable_cudf_spill=True,
        jit_unspill=False,
        pre_import=["core.merlin"],
        **options,
    )


def run(client: Any, what: str, function: Callable, items: Iterable[Any], *fixed: Any) -> list[Any]:
    """``[function(item, *fixed) for item in items]`` on the workers, with progress, in order.

    ``fixed`` is sent to each worker once. A failure of one item ends the run with its error.
    """
    items = list(items)
    if not items:
        return []
    shared = _send(client, fixed)
    futures = [client.submit(function, item, *shared, pure=False) for item in items]
    _wait(client, what, list(futures))
    return client.gather(futures)


def reduce(
    client: Any,
    what: str,
    function: Callable,
    combine: Callable[[list[Any]], Any],
    items: Iterable[Any],
    *fixed: Any,
) -> Any:
    """``combine`` over ``function(item, *fixed)`` of all items, ``REDUCE_WIDTH`` at a time.

    What is put together depends on the order of the items alone, never on which was ready first;
    it is put together on the workers as soon as it can be, and then let go.

    Raises:
        ValueError: there are no items.
    """
    items = list(items)
    if not items:
        raise ValueError("nothing to reduce")
    shared = _send(client, fixed)
    leaves = [client.submit(function, item, *shared, pure=False) for item in items]
    level, first = leaves, True
    while first or len(level) > 1:
        starts = range(0, len(level), REDUCE_WIDTH)
        # Before any new item: what is put together frees its parts.
        groups = [level[start : start + REDUCE_WIDTH] for start in starts]
        level = [client.submit(combine, group, pure=False, priority=10) for group in groups]
        first = False
    groups = None
    _wait(client, what, leaves)
    return level[0].result()


def _send(client: Any, values: Iterable[Any]) -> list[Any]:
    return [client.scatter(value, broadcast=True, hash=False) for value in values]


def _wait(client: Any, what: str, futures: list[Any]) -> None:
    """Waits for ``futures``, with progress; empties the list, so that results can be let go."""
    from distributed import as_completed

    total, waiting = len(futures), as_completed(futures)
    futures.clear()
    with progress(what, total=total, unit="parts") as advance:
        for future in waiting:
            if future.status == "error":
                error = future.exception()
                client.cancel(list(waiting.futures))
                raise error
            advance()
