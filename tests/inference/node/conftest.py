from collections.abc import Iterator

import pytest

from tests.inference.node.rig import Rig, rig


@pytest.fixture
def node() -> Iterator[Rig]:
    """A supervisor of its own, which the test may kill."""
    with rig() as made:
        yield made
