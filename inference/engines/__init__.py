"""The engines, by name. PURE. One file each; a newcomer copies the nearest."""

from inference.engines import base, llama_cpp, transformers_serve, vllm

ENGINES: dict[str, base.Engine] = {
    engine.name: engine for engine in (vllm.ENGINE, llama_cpp.ENGINE, transformers_serve.ENGINE)
}


def loaders(weights_format: str) -> list[base.Engine]:
    """Those that load weights in this format ("safetensors", "gguf"), the usual one first."""
    return [engine for engine in ENGINES.values() if weights_format in engine.formats]
