"""Why a test that is marked ``gpu`` does not run here, each by its name."""

import pytest

from core import gpu
from tests.conftest import FAULT


@pytest.fixture
def cudf_on_a_gpu(monkeypatch):
    """Skips without cuDF or a GPU."""
    if FAULT():
        pytest.skip(f"needs an NVIDIA GPU with cuDF: {FAULT()}")
    monkeypatch.setattr(gpu, "fault", FAULT)


@pytest.fixture
def torch_on_a_gpu():
    """Skips where torch sees no GPU; cuDF may be absent."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip(f"needs an NVIDIA GPU: torch {torch.__version__} sees none")
