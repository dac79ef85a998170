import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.gguf import Header, NotGguf, read
from tests.fakes.gguf import F16, gguf, tiny_gguf


def of(content: bytes, longest: int = 1 << 20) -> Header:
    return read(io.BytesIO(content), longest)


def test_it_says_what_the_model_is() -> None:
    header = of(tiny_gguf())

    assert header.whole and header.parameters == 2048
    assert header.text("general.architecture") == "llama"
    assert header.number("llama.context_length") == 4096
    assert "tokenizer.ggml.tokens" not in header.metadata


def test_of_figures_by_layer_the_greatest_counts() -> None:
    header = of(tiny_gguf(**{"llama.attention.head_count_kv": [2, 8, 0]}))

    assert header.number("llama.attention.head_count_kv") == 8


def test_the_beginning_tells_what_it_holds() -> None:
    whole = tiny_gguf()
    until = whole.index(b"tokenizer.ggml.tokens") + 40

    header = of(whole[:until])

    assert (header.whole, header.parameters) == (False, None)
    assert header.number("llama.block_count") == 2


@pytest.mark.parametrize(
    "content",
    [
        b"GGML" + bytes(20),
        struct.pack("<4sIQQ", b"GGUF", 99, 0, 0),
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 2**60),
        struct.pack("<4sIQQ", b"GGUF", 3, 2**60, 0),
        struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 2**60),  # a name without an end
        struct.pack("<4sIQQQ1sI", b"GGUF", 3, 0, 1, 1, b"a", 77),  # a type that is none
        struct.pack("<4sIQQQ1sIIQ", b"GGUF", 3, 0, 1, 1, b"a", 9, 9, 1),  # a list of lists
        struct.pack("<4sIQQQ1sIIQ", b"GGUF", 3, 0, 1, 1, b"a", 9, 8, 2**40),  # of texts
        struct.pack("<4sIQQQ1sIIQ", b"GGUF", 3, 0, 1, 1, b"a", 9, 6, 2**40),  # of numbers
        struct.pack("<4sIQQQ1sI", b"GGUF", 3, 1, 0, 1, b"a", 99),  # a tensor of 99 sides
        gguf({}, {"a": (F16, [2**40, 2**40], b"")}),
    ],
)
def test_what_counts_too_much_is_refused(content: bytes) -> None:
    with pytest.raises(NotGguf):
        of(content)


def test_a_header_without_an_end_is_refused() -> None:
    with pytest.raises(NotGguf):
        of(tiny_gguf(), longest=100)


@given(st.binary(max_size=200))
def test_no_file_brings_it_down(content: bytes) -> None:
    for begun in (content, tiny_gguf()[:24] + content):
        try:
            of(begun)
        except NotGguf:
            continue


@given(st.data())
def test_a_damaged_header_does_not_either(data: st.DataObject) -> None:
    whole = bytearray(tiny_gguf())
    whole[data.draw(st.integers(0, 500))] = data.draw(st.integers(0, 255))
    try:
        of(bytes(whole))
    except NotGguf:
        return


def test_older_versions_are_read_as_well() -> None:
    tensors = {"a": (F16, [4, 2], bytes(16))}

    assert of(gguf({"general.architecture": "gpt2"}, tensors, version=2)).parameters == 8
