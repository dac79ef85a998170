"""GGUF files, written: small ones out of thin air, and the demo model's own weights as one.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; names of members and tensors as
llama.cpp's `convert_hf_to_gguf.py` writes them for a Llama.
"""

import json
import struct
from pathlib import Path
from typing import Any

F32, F16, BF16 = 0, 1, 30  # types of tensors
ALIGNMENT = 32
_NUMBERS = {bool: (7, "<?"), int: (4, "<I"), float: (6, "<f")}

Tensors = dict[str, tuple[int, list[int], bytes]]  # type, sides (the shortest step first), content


def gguf(metadata: dict[str, Any], tensors: Tensors | None = None, version: int = 3) -> bytes:
    tensors = tensors or {}
    head = [b"GGUF", struct.pack("<IQQ", version, len(tensors), len(metadata))]
    for name, value in metadata.items():
        head += [_text(name), _typed(value)]
    offset, content = 0, b""
    for name, (kind, sides, data) in tensors.items():
        head += [_text(name), struct.pack("<I", len(sides))]
        head += [struct.pack("<Q", side) for side in sides]
        head.append(struct.pack("<IQ", kind, offset))
        content += data + bytes(-len(data) % ALIGNMENT)
        offset = len(content)
    start = b"".join(head)
    return start + bytes(-len(start) % ALIGNMENT) + content


def tiny_gguf(**metadata: Any) -> bytes:
    """A Llama of 2,048 parameters, without a vocabulary; `metadata` adds to what it says."""
    said = {
        "general.architecture": "llama",
        "general.license": "apache-2.0",
        "general.file_type": 15,  # Q4_K_M
        "llama.context_length": 4096,
        "llama.embedding_length": 64,
        "llama.block_count": 2,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "tokenizer.ggml.tokens": ["a", "b"],
        "tokenizer.chat_template": "{{ messages }}",
    }
    return gguf(said | metadata, {"token_embd.weight": (F16, [64, 32], bytes(64 * 32 * 2))})


def of_folder(folder: Path) -> bytes:
    """The weights of a small Llama with a byte-level tokenizer, such as the bundled demo model's.

    Norms become 32-bit numbers and the rest stays as it is, so that it computes the same.
    """
    config = json.loads((folder / "config.json").read_text())
    weights = _safetensors((folder / "model.safetensors").read_bytes())
    tensors: Tensors = {}
    for name, (sides, data) in weights.items():
        ours = _name(name)
        if len(sides) == 1:
            tensors[ours] = (F32, sides, _widened(data))
            continue
        for part, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
            if part in name:
                data = _interleaved(data, sides, config[heads])
        tensors[ours] = (BF16, sides[::-1], data)
    return gguf(_said(folder, config), tensors)


def _said(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    special = {token["content"] for token in tokenizer["added_tokens"] if token["special"]}
    tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].__getitem__)
    return {
        "general.architecture": "llama",
        "general.name": "demo",
        "general.file_type": 32,  # mostly BF16
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"],
        "llama.block_count": config["num_hidden_layers"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": config["num_attention_heads"],
        "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "llama.rope.dimension_count": config["head_dim"],
        "llama.rope.freq_base": config["rope_theta"],
        "llama.vocab_size": config["vocab_size"],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in tokenizer["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": config["eos_token_id"],
        "tokenizer.ggml.padding_token_id": config["pad_token_id"],
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": settings["chat_template"],
    }


_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "model.layers.": "blk.",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def _name(name: str) -> str:
    for theirs, ours in _NAMES.items():
        name = name.replace(theirs, ours)
    return name


def _safetensors(content: bytes) -> dict[str, tuple[list[int], bytes]]:
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    data = content[8 + length :]
    tensors = {name: said for name, said in header.items() if name != "__metadata__"}
    assert {said["dtype"] for said in tensors.values()} == {"BF16"}
    return {
        name: (said["shape"], data[slice(*said["data_offsets"])]) for name, said in tensors.items()
    }


def _widened(data: bytes) -> bytes:
    """BF16 → F32: the lower half of each number is zeros."""
    return b"".join(b"\0\0" + data[i : i + 2] for i in range(0, len(data), 2))


def _interleaved(data: bytes, sides: list[int], heads: int) -> bytes:
    """Rows of a head as llama.cpp's rotary embedding wants them: pairs beside each other, where
    transformers has the first half and then the second."""
    rows, columns = sides
    size, half = 2 * columns, rows // heads // 2
    lines = [data[i * size : (i + 1) * size] for i in range(rows)]
    order = [h * 2 * half + s * half + i for h in range(heads) for i in range(half) for s in (0, 1)]
    return b"".join(lines[i] for i in order)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _typed(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value, list):
        kind = 8 if isinstance(value[0], str) else 5
        items = [_text(v) if kind == 8 else struct.pack("<i", v) for v in value]
        return struct.pack("<IIQ", 9, kind, len(value)) + b"".join(items)
    kind, form = _NUMBERS[type(value)]
    return struct.pack("<I", kind) + struct.pack(form, value)
