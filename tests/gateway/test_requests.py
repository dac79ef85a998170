"""What a body may say, field by field."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.gateway.errors import Refusal
from inference.gateway.fields import FIELDS, IGNORED
from inference.gateway.request import MAX_DEPTH, parse

CHAT = "chat/completions"
ALL_USAGE = {"include_usage": True, "continuous_usage_stats": True}


def body(**given: object) -> bytes:
    return json.dumps({"model": "demo", "messages": []} | given, separators=(",", ":")).encode()


def refused(raw: bytes, endpoint: str = CHAT) -> Refusal:
    with pytest.raises(Refusal) as refusal:
        parse(endpoint, raw)
    return refusal.value


def test_a_plain_body_goes_on_untouched():
    raw = b'{ "model":"demo" ,\n"messages" : [ {"role":"user","content":"\\u4f60\xe5\xa5\xbd"} ]}'
    assert parse(CHAT, raw).body_for("demo") is raw


def test_a_stream_asks_the_engine_for_all_usage_and_changes_nothing_else():
    raw = body(stream=True, stream_options={"include_usage": True}, temperature=0.5)
    parsed = parse(CHAT, raw)
    assert (parsed.stream, parsed.include_usage, parsed.continuous_usage) == (True, True, False)
    sent = json.loads(parsed.body_for(parsed.model))
    assert sent.pop("stream_options") == ALL_USAGE
    assert sent == {"model": "demo", "messages": [], "stream": True, "temperature": 0.5}


def test_openai_s_bookkeeping_and_nulls_are_left_out():
    parsed = parse(CHAT, body(metadata={"a": "b"}, store=True, unheard_of=None))
    assert json.loads(parsed.body_for(parsed.model)) == {"model": "demo", "messages": []}


@pytest.mark.parametrize(
    "field",
    [
        "chat_template",
        "prompt_embeds",
        "kv_transfer_params",
        "vllm_xargs",
        "cache_salt",
        "request_id",
        "priority",
        "mm_processor_kwargs",
        "media_io_kwargs",
        "logits_processors",
        "use_beam_search",
        "mm_payload",
        "return_mm_kwargs",
        "session_id",
        "watermarking",
        "prompt",
        "Model",
        "__class__",
        "",
    ],
)
@pytest.mark.parametrize("endpoint", FIELDS)
def test_what_is_not_listed_is_refused_by_name(endpoint, field):
    if field in FIELDS[endpoint]:
        field = f"{field}s"
    refusal = refused(json.dumps({"model": "demo", field: "x"}).encode(), endpoint)
    assert (refusal.status, refusal.param, refusal.code) == (400, field, "unknown_parameter")


@pytest.mark.parametrize(
    "twice",
    [
        b'{"model":"demo","messages":[],"model":"other"}',
        b'{"model":"demo","messages":[],"model":"demo"}',
        b'{"model":"demo","mod\\u0065l":"demo","messages":[]}',
        b'{"n":1, "model":"demo","messages":[] , "n" :1}',
        b'{"model":"demo","user":"}","user":"{"}',
    ],
)
def test_a_name_that_stands_twice_is_refused(twice):
    assert "given twice" in refused(twice).message


def once(members: list[tuple[str, object]]) -> dict[str, object]:
    assert len(dict(members)) == len(members)
    return dict(members)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(sorted({*FIELDS["completions"], *IGNORED} - {"model", "stream_options"})),
        st.recursive(
            st.none() | st.booleans() | st.text(max_size=9),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
            max_leaves=8,
        ),
    ),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_no_sound_body_is_taken_for_one_with_doubles(fields, indent, ascii_only):
    raw = json.dumps({"model": "demo"} | fields, indent=indent, ensure_ascii=ascii_only).encode()
    try:
        parsed = parse("completions", raw)
        kept = {name: value for name, value in json.loads(raw).items() if name not in IGNORED}
        kept |= {"stream_options": ALL_USAGE} if parsed.stream else {}
        assert json.loads(parsed.body_for(parsed.model), object_pairs_hook=once) == kept
    except Refusal as refusal:
        assert "twice" not in refusal.message
        assert refusal.param in fields


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"null",
        b"[]",
        b'"model"',
        b"{",
        b'{"model":"demo"}x',
        b'{"model":"demo",}',
        b'{"model":"demo","messages":[}',
        b'\xef\xbb\xbf{"model":"demo"}',
        b'{"model":"demo","messages":["\xff\xfe"]}',
        b'{"model":"demo","temperature":NaN}',
        b'{"model":"demo","messages":"\x01"}',
        b'{"model":' + b"[" * 100_000,
        b"[" * 100_000,
    ],
)
def test_what_is_no_json_object_is_refused(bad):
    assert refused(bad).status == 400


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", 5),
        ("model", ""),
        ("model", None),
        ("stream", "true"),
        ("stream", 1),
        ("n", 0),
        ("n", 129),
        ("n", "2"),
        ("n", 1.5),
        ("n", 10**30),
        ("top_logprobs", 21),
        ("logprobs", 21),
        ("logprobs", -1),
        ("max_tokens", -1),
        ("max_completion_tokens", 10**9),
        ("stream_options", {"include_usage": True}),  # without a stream
        ("stream_options", "all"),
        ("chat_template_kwargs", {"chat_template": True}),
        ("chat_template_kwargs", {"enable_thinking": "no"}),
    ],
)
def test_values_out_of_bounds_name_their_field(field, value):
    refusal = refused(body(**{field: value}))
    assert (refusal.status, refusal.param) == (400, field)


@pytest.mark.parametrize("extra", [0, 1])
def test_depth_is_bounded(extra):
    depth = MAX_DEPTH - 1 + extra  # the body itself is one level
    raw = body(tools=json.loads("[" * depth + "]" * depth))
    assert ("deeper" in refused(raw).message) if extra else parse(CHAT, raw)


def test_brackets_in_text_are_not_depth():
    text = '[{"\\' * 500
    messages = [{"role": "user", "content": text}, *({"role": "user"} for _ in range(100))]
    assert parse(CHAT, body(messages=messages))


PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


def test_a_picture_may_come_inside():
    assert parse(CHAT, body(messages=[{"role": "user", "content": [PART]}]))


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"image_url": "https://example.org/a.png"},
        {"type": "video_url", "video_url": {"url": "HTTP://x"}},
        {"type": "image_embeds", "image_embeds": "gASV"},
        {"type": "image_pil", "image_pil": "x"},
        {"type": "image_url", "image_url": {"url": ["data:"]}},
    ],
)
@pytest.mark.parametrize("hidden", [False, True])
def test_an_engine_fetches_and_unpickles_nothing(part, hidden):
    raw = body(messages=[{"role": "user", "content": [part]}])
    if hidden:
        raw = raw.replace(b"_url", b"\\u005furl").replace(b"_embeds", b"\\u005fembeds")
    assert refused(raw).param == "messages"


def test_words_about_pictures_are_only_words():
    raw = body(messages=[{"role": "user", "content": 'Use "image_url": "http://x" \u00e9'}])
    assert parse(CHAT, raw).body_for("demo") is raw
