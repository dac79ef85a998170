"""The fake engine with a record of its own: what it made for whom, told by nobody else."""

from collections import defaultdict
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from tests.fakes import engine as fake


@dataclass
class Made:
    """One request as this engine worked on it. Tokens."""

    prompt: int = 0
    completion: int = 0
    complete: bool = False  # it said all it had to say
    choices: int = 1  # the fake counts a prompt once for each, as vLLM's counters do


_now: ContextVar[Made | None] = ContextVar("_now", default=None)  # each request has its own task


class _Counters(dict[str, int]):
    """The engine's counters, which also count for the request under way."""

    def __setitem__(self, name: str, value: int) -> None:
        made = _now.get()
        if made is not None and name == "generation_tokens_total":
            made.completion += value - self[name]
        elif made is not None and name == "prompt_tokens_total":
            made.prompt += (value - self[name]) // made.choices
        super().__setitem__(name, value)


class RecordingEngine(fake.Engine):
    def __init__(self, *, made: defaultdict[str, list[Made]], **given: Any) -> None:
        super().__init__(fake.options(**given))
        self.counters = _Counters(self.counters)
        self.made = made  # by the request id that the gateway sent; several if it tried again

    async def answer(
        self, path: str, method: str, headers: fake.Json, raw: bytes, reply: fake.Reply
    ) -> None:
        if path.startswith("/v1/"):
            made = Made()
            self.made[reply.request_id].append(made)
            _now.set(made)
            await super().answer(path, method, headers, raw, reply)
            made.complete = True
        else:
            await super().answer(path, method, headers, raw, reply)

    def admit(self, prompt: list[str], n: int) -> int:
        made = _now.get()
        if made is not None:
            made.choices = n
        return super().admit(prompt, n)
