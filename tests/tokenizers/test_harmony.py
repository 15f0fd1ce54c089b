"""Harmony against openai-harmony: recorded texts, ids and messages; the real vocabulary where it is there."""

import dataclasses
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfgpt.errors import InputError
from tfgpt.tokenizers.byte_pair import BytePairTokenizer
from tfgpt.tokenizers.harmony import (
    DeveloperContent,
    Harmony,
    HarmonyParser,
    Message,
    ReasoningEffort,
    Role,
    SystemContent,
    Tool,
    parse_header,
)
from tfgpt.tokenizers.loading import load_tokenizer

WAYS = {
    "completion": lambda harmony, messages: harmony.render(messages),
    "kept": lambda harmony, messages: harmony.render(messages, keep_analysis=True),
    "alone": lambda harmony, messages: harmony.render(messages, next_role=None),
    "training": lambda harmony, messages: harmony.render_for_training(messages),
}


@pytest.fixture(scope="module")
def harmony(fixtures_directory):
    return Harmony(load_tokenizer(fixtures_directory / "tokenizers" / "gpt_oss"))


@pytest.fixture(scope="module")
def records(fixtures_directory):
    return json.loads((fixtures_directory / "harmony.json").read_text())


def make(spec):
    """A `Message` from a recorded one."""
    if "system" in spec:
        values = dict(spec["system"])
        if values.get("reasoning_effort"):
            values["reasoning_effort"] = ReasoningEffort(values["reasoning_effort"])
        if "channels" in values:
            values["channels"] = tuple(values["channels"])
        return Message(Role.SYSTEM, SystemContent(**values))
    if "developer" in spec:
        values = spec["developer"]
        tools = tuple(Tool(**tool) for tool in values.get("tools", ()))
        return Message(Role.DEVELOPER, DeveloperContent(values.get("instructions"), tools))
    return Message(**spec)


def to_spec(message):
    values = dataclasses.asdict(message)
    return {key: value for key, value in values.items() if value is not None}


def test_rendered_texts(harmony, records):
    assert len(records["conversations"]) == 11
    for name, record in records["conversations"].items():
        messages = [make(spec) for spec in record["messages"]]
        for way, render in WAYS.items():
            found = harmony.tokenizer.decode(render(harmony, messages))
            assert found == record["rendered"][way]["text"], (name, way)


def test_rendering_marks_only_what_is_a_marker(harmony, records):
    """A user's "<|start|>" is text: as many markers as the reference has."""
    messages = [make(spec) for spec in records["conversations"]["one question"]["messages"]]
    ids = harmony.render(messages)
    start = harmony.tokenizer.backend.token_to_id("<|start|>")
    assert ids.count(start) == 3
    assert harmony.tokenizer.decode(ids).count("<|start|>") == 4


def test_parsed_completions(harmony, records):
    for record in records["completions"]:
        ids = harmony.tokenizer.encode(record["text"])
        assert [to_spec(message) for message in harmony.parse(ids)] == record["messages"], record["text"]


def test_real_vocabulary(records):
    """The very ids of openai-harmony; TFGPT_GPT_OSS names a directory with gpt-oss's tokenizer.json."""
    if "TFGPT_GPT_OSS" not in os.environ:
        pytest.skip("TFGPT_GPT_OSS is not set: no tokenizer of gpt-oss")
    harmony = Harmony(load_tokenizer(os.environ["TFGPT_GPT_OSS"]))
    assert harmony.stop_ids == (200002, 200012)
    for name, record in records["conversations"].items():
        messages = [make(spec) for spec in record["messages"]]
        for way, render in WAYS.items():
            assert render(harmony, messages) == record["rendered"][way]["ids"], (name, way)
    for record in records["completions"]:
        assert harmony.tokenizer.encode(record["text"]) == record["ids"]
        assert [to_spec(message) for message in harmony.parse(record["ids"])] == record["messages"]


@given(
    st.lists(
        st.builds(
            Message,
            role=st.just(Role.ASSISTANT),
            content=st.text(max_size=20),
            channel=st.sampled_from(("analysis", "commentary", "final")),
            recipient=st.sampled_from((None, "functions.now")),
            content_type=st.sampled_from((None, "<|constrain|>json")),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_what_is_rendered_is_parsed(harmony, messages):
    ids = harmony.render(messages, next_role=None, keep_analysis=True)
    assert harmony.parse(ids, role=None) == messages
    parser, pieces = HarmonyParser(harmony, role=None), []
    for token_id in ids:
        pieces.append(parser.push(token_id))
    assert "".join(pieces) == "".join(message.content for message in messages)
    assert parser.messages == messages


def test_stream(harmony):
    text = "<|channel|>analysis<|message|>Hm\u00e9.<|end|><|start|>assistant<|channel|>final<|message|>Yes"
    parser, seen = HarmonyParser(harmony), []
    for token_id in harmony.tokenizer.encode(text):
        piece = parser.push(token_id)
        assert "\ufffd" not in piece  # half a character waits for its other half
        if parser.current is not None and piece:
            seen.append((parser.current.channel, piece))
            assert parser.current.content.endswith(piece)
    assert {channel for channel, _ in seen} == {"analysis", "final"}
    assert "".join(piece for channel, piece in seen if channel == "final") == "Yes"
    assert [message.content for message in parser.messages] == ["Hm\u00e9."]
    assert parser.finish() == ""
    assert [message.content for message in parser.messages] == ["Hm\u00e9.", "Yes"]
    assert parser.current is None


@pytest.mark.parametrize(
    ("header", "role", "expected"),
    [
        ("user:alice", None, {"role": "user", "name": "alice"}),
        ("functions.f to=assistant", None, {"role": "tool", "name": "functions.f", "recipient": "assistant"}),
        ("assistant<|channel|>final", None, {"role": "assistant", "channel": "final"}),
        # openai-harmony 0.0.8 took this for a recipient; its later source does not.
        (
            "<|channel|>final <|constrain|>json",
            Role.ASSISTANT,
            {"role": "assistant", "channel": "final", "content_type": "<|constrain|>json"},
        ),
        ("assistant<|channel|>final", Role.ASSISTANT, {"role": "assistant", "channel": "final"}),
    ],
)
def test_headers(header, role, expected):
    assert to_spec(parse_header(header, role)) == {"content": "", **expected}


@pytest.mark.parametrize(
    ("text", "role", "message"),
    [
        ("hello", None, r"expected <\|start\|>"),
        ("<|channel|>final", Role.ASSISTANT, "within the header"),
        ("<|channel|><|message|>", Role.ASSISTANT, "empty channel"),
        ("<|channel|> final<|message|>", Role.ASSISTANT, "empty channel"),
        ("<|channel|>final a b c<|message|>", Role.ASSISTANT, "left over"),
        ("<|start|>nobody<|message|>", None, "expected it to begin with"),
        ("<|start|><|message|>", None, "expected it to begin with"),
    ],
)
def test_completions_out_of_format(harmony, text, role, message):
    with pytest.raises(InputError, match=message) as caught:
        harmony.parse(harmony.tokenizer.encode(text), role)
    assert "\n" not in str(caught.value)


def test_bad_messages(harmony):
    for arguments, message in (
        (("nobody", "x"), "found role 'nobody'"),
        ((Role.TOOL, "x"), "without a name"),
        ((Role.USER, 3), "found int as a message's content"),
        ((Role.USER, SystemContent()), "expected one of the system"),
        ((Role.SYSTEM, DeveloperContent()), "expected one of the developer"),
    ):
        with pytest.raises(InputError, match=message):
            Message(*arguments)
    with pytest.raises(InputError, match=r"found no token <\|start\|>"):
        Harmony(BytePairTokenizer.train(["a"], 257))
    with pytest.raises(InputError, match="found token id 99999"):
        harmony.parse([*harmony.tokenizer.encode("<|channel|>final<|message|>"), 99999])
