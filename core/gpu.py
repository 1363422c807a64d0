"""What the machine has of NVIDIA GPUs and of RAPIDS, found out without opening a GPU.

A process that has opened one holds some of its memory, and Dask's workers want to be the first.
"""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from core.errors import UserError

RAPIDS = ("cudf", "cupy", "dask_cuda", "rmm")
CUDA_12 = ("cuda_nvrtc/lib/libnvrtc.so.12",)
"""Libraries of CUDA 12 in the package ``nvidia`` that CuPy asks the system for."""
_BROKEN: list[str] = []


def visible() -> int:
    """GPUs that this process may use: those that NVML counts, as CUDA_VISIBLE_DEVICES leaves."""
    from distributed.diagnostics import nvml

    found = nvml.device_get_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None or not found:
        return found
    return len([name for name in named.split(",") if name.strip() not in ("", "-1")])


def takes_frames() -> bool:
    """Whether frames can lie on a GPU here."""
    return not fault()


def fault() -> str:
    """Why no frame can lie on a GPU here; empty where one can."""
    missing = [name for name in RAPIDS if find_spec(name) is None]
    if missing:
        return f"not all of RAPIDS is installed: {', '.join(missing)} ('make install-gpu')"
    if not visible():
        return "there is no NVIDIA GPU here, or CUDA_VISIBLE_DEVICES hides it"
    return _BROKEN[0] if _BROKEN else ""


def is_broken(error: BaseException) -> None:
    """Notes that cuDF is installed and does not start, and why."""
    _BROKEN.append(f"cuDF does not start: {type(error).__name__}: {error}")


def load_libraries() -> None:
    """Opens what CuPy opens by its bare name, where only a package of Python's has it.

    A library that is open is found by its name, wherever it lies. A machine with CUDA 12 of its own
    needs none of this.
    """
    package = find_spec("nvidia")
    for folder in (package and package.submodule_search_locations) or ():
        for name in CUDA_12:
            if (Path(folder) / name).is_file():
                ctypes.CDLL(str(Path(folder) / name), mode=ctypes.RTLD_GLOBAL)


@contextlib.contextmanager
def named_shortage(what: str, advice: str) -> Iterator[None]:
    """A GPU's memory that does not suffice becomes a UserError: ``what`` needed it, and ``advice``.

    RMM, CuPy and torch each have an error of their own; all of them are raised after whatever could
    be moved to the host was moved.
    """
    try:
        yield
    except Exception as error:
        if not is_shortage(error):
            raise
        raise UserError(f"{what}: the GPU's memory does not suffice; {advice}") from None


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that a GPU's memory is used up."""
    text = str(error).lower()
    names = {kind.__name__ for kind in type(error).__mro__}
    if "OutOfMemoryError" in names or "cuda out of memory" in text:  # torch's and CuPy's; FBGEMM's
        return True
    return "MemoryError" in names and ("rmm" in text or "cuda" in text)
