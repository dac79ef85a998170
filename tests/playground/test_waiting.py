"""What the playground shows while a question waits for its instance to wake."""

import httpx2

from inference.playground.generation import Message, Start, events

STREAM = (
    ": waking — loading the model, about 40 s left\n\n"
    ": waking — warming up\n\n"
    ": of a provider\n\n"
    'data: {"choices":[{"delta":{"content":"a\u2028b"},"finish_reason":"stop"}]}\n\n'
    "data: [DONE]\n\n"
)


async def test_the_reader_is_told_what_it_does_and_for_how_long():
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, content=STREAM.encode()))
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
        told = [e async for e in events(client, "key", Start("one", "demo", [Message("user", "")]))]
    first, second, delta, end = told
    assert first["t"] == second["t"] == "wait"
    assert first["message"] == "It wakes up: Loading weights · about 40 s left"
    assert (first["seconds_left"], second["seconds_left"]) == (40, None)
    assert second["message"] == "It wakes up: First words"
    assert delta == {"t": "d", "s": "a\u2028b"} and end["finish"] == "stop"
