from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from inference.gateway import server
from tests.gateway import house as houses


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], uvloop.Loop]]:
    """The loop that the gateway runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LOOK_EVERY", 0.05)


@pytest.fixture
async def house() -> AsyncIterator[houses.House]:
    async with houses.house() as made:
        yield made


@pytest.fixture
async def house_tables(house: houses.House):
    """The authenticator of a gateway, and the one key that it knows."""
    return house.runtime.authenticator, house.key
