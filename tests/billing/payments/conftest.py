from collections.abc import Iterator

import pytest

from tests.fakes.stripe import LocalStripe, local_stripe


@pytest.fixture
def stripe() -> Iterator[LocalStripe]:
    with local_stripe() as local:
        yield local
