"""What the tests of the harnesses share."""

import pytest


@pytest.fixture(scope="session")
def world():
    """Inputs of every stage, and a server that runs commands on them."""
    from tests.harness.operations import scratch_folder
    from tests.harness.world import World

    with scratch_folder("harness-") as folder:
        yield World(folder)
