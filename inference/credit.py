"""Credit in the hands of this machine's gateways: the meter's side of `inference.gateway.purse`.

What a gateway asks for is taken from the organization's credit by `billing.holds`, in one thread
of its own, in turn: with the database away questions wait, and gateways go on with what they hold.
When one is short, the others are asked for what they do not use.

A gateway says in all how much it holds, and so does each question to the database, so that nothing
is lost or counted twice, whichever of the two is killed in between: what never arrived is void.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar
from uuid import UUID

from django.db import Error, InterfaceError, OperationalError, connection

from billing import holds
from billing.holds import Taken
from inference.gateway.leases import Held, Recall, Take
from inference.gateway.purse import CREDIT

log = logging.getLogger(__name__)

AWAY_FOR = 0.5  # seconds between tries while the database is away
CLOSING = 1.0  # seconds
PATIENCE = 0.4  # seconds for other gateways to hand back; who asks waits a second in all

T = TypeVar("T")


class Gateway(Protocol):
    """One gateway process that is connected; `gone` once it is not."""

    writer: str
    gone: bool

    def send(self, message: Recall) -> None: ...


@dataclass
class Purses:
    """One organization's: nano-units that each gateway was granted in all, less what it handed
    back."""

    held: dict[Gateway, int] = field(default_factory=dict)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    asked_back: set[Gateway] = field(default_factory=set)
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    def has_answered(self, gateway: Gateway) -> None:
        self.asked_back.discard(gateway)
        if not self.asked_back:
            self.answered.set()


class Credit:
    """All of this machine. Lives on one event loop."""

    def __init__(self, machine: UUID) -> None:
        """`machine` is where the gateways' journals are."""
        self._machine = machine
        self._purses: dict[bytes, Purses] = {}
        self._thread = ThreadPoolExecutor(1, "credit")

    async def told(self, gateway: Gateway, lease: Held) -> None:
        """A gateway that has connected says what it holds."""
        purses = self._of(lease.limit_id)
        purses.held[gateway] = lease.granted
        async with purses.turn:
            await self._lower(purses, gateway, lease.limit_id)

    async def take(self, gateway: Gateway, take: Take) -> Taken:
        """What it is granted of what it asks for."""
        purses = self._of(take.limit_id)
        purses.held.setdefault(gateway, 0)
        granted, left = await self._taken(purses, gateway, take, take.want)
        if granted < take.least and await self._asked_back(purses, gateway, take.limit_id):
            more, left = await self._taken(purses, gateway, take, take.least - granted)
            granted += more
        return Taken(granted, left)

    async def given(self, gateway: Gateway, organization: bytes, units: int) -> None:
        """It hands back so much; 0 answers that it has nothing to spare."""
        purses = self._of(organization)
        async with purses.turn:
            if units and gateway in purses.held:
                purses.held[gateway] -= units
                await self._lower(purses, gateway, organization)
        purses.has_answered(gateway)

    def left(self, gateway: Gateway) -> None:
        """It is connected no more. What it held stays reserved until it has connected again, or its
        journal has come in to its end."""
        for purses in self._purses.values():
            purses.held.pop(gateway, None)
            purses.has_answered(gateway)

    def close(self) -> None:
        """A question that the database has not answered by now is left to itself."""
        wait([self._thread.submit(lambda: connection.close())], timeout=CLOSING)  # that thread's
        self._thread.shutdown(wait=False)

    def _of(self, organization: bytes) -> Purses:
        return self._purses.setdefault(organization, Purses())

    async def _taken(self, purses: Purses, gateway: Gateway, take: Take, want: int) -> Taken:
        async with purses.turn:
            held = purses.held.get(gateway, 0)
            question = partial(
                holds.take,
                UUID(bytes=take.limit_id),
                gateway.writer,
                machine=self._machine,
                held=held,
                want=want,
                least=min(take.least, want),
            )
            taken = await self._ask(gateway, question) or Taken(0, 0)
            if gateway in purses.held:
                purses.held[gateway] += taken.nano
            return taken

    async def _lower(self, purses: Purses, gateway: Gateway, organization: bytes) -> None:
        """Write down that it holds no more than that. Within its turn."""
        held = purses.held.get(gateway, 0)
        what = partial(holds.give_back, UUID(bytes=organization), gateway.writer, held=held)
        await self._ask(gateway, what)

    async def _asked_back(self, purses: Purses, asker: Gateway, organization: bytes) -> bool:
        """Whether others had something that they might have handed back."""
        others = {each for each, held in purses.held.items() if held > 0 and each is not asker}
        if not others:
            return False
        for other in others - purses.asked_back:
            other.send(Recall(organization, CREDIT))
        purses.asked_back |= others
        purses.answered.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await purses.answered.wait()
        return True

    async def _ask(self, gateway: Gateway, question: Callable[[], T]) -> T | None:
        """The answer, however long it takes; None where it is of no use any more."""
        while not gateway.gone:
            try:
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._thread, self._answer, question)
            except (OperationalError, InterfaceError) as error:
                log.warning("credit waits for the database: %s", error)
                await asyncio.sleep(AWAY_FOR)
            except Error:  # whatever it was, the next question is heard
                log.exception("credit could not be granted or handed back")
                return None
        return None

    def _answer(self, question: Callable[[], T]) -> T:
        try:
            return question()
        except (OperationalError, InterfaceError):
            connection.close()
            raise
