"""Letting an engine answer what it is answering before it is asked to end.

Nothing new comes by then: the controller has told the gateways first. vLLM itself would cut
everything off at the polite signal.
"""

import asyncio
from collections.abc import Callable, Mapping

from inference.node import figures
from inference.node.client import EngineClient

LOOK = 0.25  # seconds
QUIET_LOOKS = 2  # a request may just be on its way in
SILENT_LOOKS = 3  # without an answer, and there is nothing to wait for
SHUTDOWN = 10.0  # seconds of the grace that are kept for the end itself


async def until_idle(
    client: EngineClient, names: Mapping[str, str | tuple[str, ...]], over: Callable[[], bool]
) -> None:
    """Wait until it has no request, or says nothing any more, or it is `over`."""
    quiet = silent = 0
    while not over():
        text = await client.metrics()
        silent = 0 if text else silent + 1
        quiet = quiet + 1 if text and not _busy(text, names) else 0
        if quiet == QUIET_LOOKS or silent == SILENT_LOOKS:
            return
        await asyncio.sleep(LOOK)


def drains_for(grace: float) -> float:
    """Seconds of the grace in which requests may end."""
    return grace - min(SHUTDOWN, grace / 2)


def _busy(text: str, names: Mapping[str, str | tuple[str, ...]]) -> bool:
    now = figures.parse(text, names, "", figures.Load())
    return bool(now.running or now.waiting)
