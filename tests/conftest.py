"""What every test stands on: quiet, single-threaded numerics, and the folder of real logs."""

import os
from pathlib import Path

import pytest

from core import gpu

# Two test workers share two cores; more threads than cores only slows both.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real logs; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("MERLIN_PIPELINE_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real logs here: set MERLIN_PIPELINE_DATA ({folder} does not exist)")
    return folder


FAULT = gpu.fault


@pytest.fixture(scope="session", autouse=True)
def rows_on_the_host():
    """A machine's GPUs are for the tests that are marked ``gpu``: others preprocess without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "fault", lambda: "this test is for the host")
        yield
