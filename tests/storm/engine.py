"""The fake engine, with a record of its own of what it made for each request."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from tests.fakes import engine as fake


def note(line: list[object]) -> None:
    with Path(os.environ["STORM_RECORD"]).open("a") as file:
        file.write(json.dumps(line) + "\n")


class Recorded(fake.Generation):
    """Writes one line when it ends, however it ends: request id, prompt and completion tokens."""

    made = 0

    async def _tokens(self) -> AsyncIterator[tuple[int, fake.Request, int, str]]:
        async for each in super()._tokens():
            self.made += 1
            yield each

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            note([self.reply.request_id, self.prompt_tokens, self.made])


if __name__ == "__main__":
    fake.Generation = Recorded  # type: ignore[misc]
    sys.exit(asyncio.run(fake.main(sys.argv[1:])))
