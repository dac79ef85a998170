"""A connection goes to the engine that it was meant for, wherever the engine's path leads."""

import os

import pytest
from openai import APIStatusError

from tests.gateway.house import chat, house


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
async def test_a_socket_of_somebody_else_is_not_spoken_to() -> None:
    async with house() as made:
        folder = made.home / "theirs"
        folder.mkdir()
        os.chown(folder, 64_321, -1)  # an engine of another user, which owns its folder
        os.symlink(made.home / "engine.sock", folder / "engine.sock")
        theirs = made.snapshot.add_instance("theirs")
        made.add_replica(theirs, str(folder / "engine.sock"))
        async with made.sdk() as client:
            with pytest.raises(APIStatusError) as refused:
                await client.chat.completions.create(**chat() | {"model": "theirs"})
            assert refused.value.status_code == 503
            assert (await client.chat.completions.create(**chat())).choices
