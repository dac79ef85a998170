"""The engines, by name. PURE. One file each; a newcomer copies the nearest."""

from inference.engines import base, vllm

ENGINES: dict[str, base.Engine] = {vllm.ENGINE.name: vllm.ENGINE}
