"""What the tests of the harnesses share."""

import pytest


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Inputs of every stage, and a server that runs commands on them."""
    from tests.harness.world import World

    return World(tmp_path_factory.mktemp("world"))
