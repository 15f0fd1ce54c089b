"""Chat templates: the text of transformers' apply_chat_template, and no harm from hostile ones."""

import datetime
import json

import numpy as np
import pytest

from tfgpt.checkpoints.directory import copy_tokenizer
from tfgpt.errors import InputError
from tfgpt.tokenizers.byte_pair import BytePairTokenizer
from tfgpt.tokenizers.chat import render_chat
from tfgpt.tokenizers.loading import load_tokenizer

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] }}"
    "{{ '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# The means that published templates use: white space control, macros, namespaces, loop variables, break,
# tests, filters, tojson with its options, and {% generation %}.
BLOCKS = """\
{%- macro shout(text, times=2) -%}
    {{- (text ~ '!') * times -}}
{%- endmacro -%}
{{- bos_token -}}
{% set ns = namespace(found=false, last=-1) %}
{% for message in messages %}
  {% if loop.first and message.role == 'system' %}
    {% set ns.found = true %}
    <<{{ message.content | trim | upper }}>>
    {% continue %}
  {% endif %}
  {% if message.role == 'assistant' %}
    {% generation %}
[{{ message.content }}]{% set hidden = 1 %}{{ eos_token }}
    {% endgeneration %}
  {% elif message.content is string %}
{{ loop.index0 }}/{{ loop.length }} {{ message.content }} {{ shout('hey') }} {{ loop.last }}
{{ loop.revindex }}
  {% else %}
    {%- for part in message.content if part.type == 'text' %}
{{ part['text'] }}{{ ', ' if not loop.last }}{% endfor %}
  {% endif %}
  {% if loop.index > 5 %}{% break %}{% endif %}
{% endfor %}
{{ hidden is defined }} {{ ns.found }} {{ missing }} {{ extra | default('none') }}
{{ messages | map(attribute='role') | join(',') }} {{ messages[-1].content[:3] }} {{ messages | length }}
{% if tools %}{{ tools | tojson(indent=2) }}{{ tools[0] | tojson }}{% endif %}
{% for key, value in {'a': 1, 'b': [1.5, none, true]}.items() %}{{ key }}={{ value | tojson }};{% endfor %}
{{ "<é&'>" | tojson }} {{ dict(a=1)['a'] }} {{ range(3) | list }} {{ 'x' if add_generation_prompt else 'y' }}
"""
# gpt-oss's structure: macros that write TypeScript, a system message with the date, channels by namespace.
HARMONY = """\
{%- macro type_of(spec) -%}
    {%- if spec.type == "array" -%}{{ type_of(spec['items']) + '[]' }}
    {%- elif spec.enum -%}{{ '"' + spec.enum | join('" | "') + '"' }}
    {%- elif spec.type == "object" and spec.properties -%}
        {{- "{\\n" -}}
        {%- for name, value in spec.properties.items() -%}
            {{- name + ("?" if name not in (spec.required or []) else "") + ": " }}{{ type_of(value) }}
            {%- if not loop.last %}{{ "," }}{% endif -%}{{- "\\n" -}}
        {%- endfor -%}{{- "}" -}}
    {%- else -%}{{ {"integer": "number"}.get(spec.type, spec.type) }}
    {%- endif -%}
{%- endmacro -%}
{%- if reasoning_effort is not defined %}{% set reasoning_effort = "medium" %}{% endif -%}
{{- "<|start|>system<|message|>You are ChatGPT.\\nCurrent date: " + strftime_now("%Y-%m-%d") + "\\n\\n" -}}
{{- "Reasoning: " + reasoning_effort + "\\n\\n# Valid channels: analysis, commentary, final.<|end|>" -}}
{%- if messages[0].role == "developer" or messages[0].role == "system" -%}
    {%- set developer, rest = messages[0].content, messages[1:] -%}
{%- else -%}{%- set developer, rest = "", messages -%}{%- endif -%}
{%- if developer or tools -%}
    {{- "<|start|>developer<|message|>" }}{% if developer %}{{ "# Instructions\\n\\n" + developer }}{% endif -%}
    {%- if tools -%}{{- "\\n\\nnamespace functions {\\n" -}}
        {%- for tool in tools -%}{%- set tool = tool.function -%}
            {{- "// " + tool.description + "\\ntype " + tool.name + " = (_: " + type_of(tool.parameters) + ") => any;\\n" -}}
        {%- endfor -%}{{- "}" -}}{%- endif -%}{{- "<|end|>" -}}
{%- endif -%}
{%- set last = namespace(tool=none) -%}
{%- for message in rest -%}
    {%- if message.role == "assistant" -%}
        {%- if "tool_calls" in message -%}
            {%- set call = message.tool_calls[0].function -%}
            {%- if message.thinking -%}{{- "<|start|>assistant<|channel|>analysis<|message|>" + message.thinking + "<|end|>" }}{%- endif -%}
            {{- "<|start|>assistant to=functions." + call.name + "<|channel|>commentary json<|message|>" -}}
            {{- call.arguments | tojson }}{{ "<|call|>" -}}
            {%- set last.tool = call.name -%}
        {%- else -%}
            {{- "<|start|>assistant<|channel|>final<|message|>" + message.content + "<|end|>" -}}
        {%- endif -%}
    {%- elif message.role == "tool" -%}
        {%- if last.tool is none -%}{{- raise_exception("a tool's answer without a call") }}{%- endif -%}
        {{- "<|start|>functions." + last.tool + " to=assistant<|channel|>commentary<|message|>" + message.content | tojson + "<|end|>" -}}
    {%- else -%}{{- "<|start|>" + message.role + "<|message|>" + message.content + "<|end|>" -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}
"""  # noqa: E501
TEMPLATES = {"chatml": CHATML, "blocks": BLOCKS, "harmony": HARMONY}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The <weather> & more",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "array", "items": {"type": "integer"}},
                "unit": {"enum": ["C", "K"]},
            },
            "required": ["city"],
        },
    },
}
PARTS = [{"type": "text", "text": "one"}, {"type": "image"}, {"type": "text", "text": "two"}]
CONVERSATIONS = (
    [{"role": "user", "content": "Hello <|endoftext|> ünï"}],
    [{"role": "system", "content": " be brief "}, {"role": "user", "content": "a\n b"},
     {"role": "assistant", "content": "c", "tool_call_id": None}, {"role": "user", "content": "d"}],
    [{"role": "user", "content": "w?"},
     {"role": "assistant", "content": "", "reasoning_content": "hm",
      "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Bern"}}}]},
     {"role": "tool", "content": '"sunny"'}, {"role": "assistant", "content": "Sunny"}],
)  # fmt: skip


@pytest.fixture
def directory(tmp_path):
    """A tokenizer without a template; `template(...)` gives it one."""
    BytePairTokenizer.train(["to be or not to be"], 270).save_pretrained(tmp_path)
    return tmp_path


def with_template(directory, template):
    (directory / "chat_template.jinja").write_text(template)
    return load_tokenizer(directory)


def test_content_in_parts_equals_transformers(directory):
    transformers = pytest.importorskip("transformers")
    ours = with_template(directory, BLOCKS)
    messages = [{"role": "user", "content": PARTS}, {"role": "assistant", "content": "x"}]
    reference = transformers.AutoTokenizer.from_pretrained(directory)
    assert ours.apply_chat_template(messages) == reference.apply_chat_template(messages, tokenize=False)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_text_equals_transformers(directory, template, messages):
    transformers = pytest.importorskip("transformers")
    ours = with_template(directory, template)
    reference = transformers.AutoTokenizer.from_pretrained(directory)
    for arguments in (
        {},
        {"add_generation_prompt": True},
        {"tools": [TOOL], "reasoning_effort": "high", "extra": np.float32(1.5)},
    ):
        expected = reference.apply_chat_template(messages, tokenize=False, **arguments)
        assert ours.apply_chat_template(messages, **arguments) == expected
        assert ours.encode(expected) == reference.apply_chat_template(
            messages, return_dict=False, **arguments
        )


def test_recorded_texts(directory):
    """Without transformers: what it made of the plain template, and today's date."""
    messages = CONVERSATIONS[1][:2]
    found = with_template(directory, CHATML).apply_chat_template(messages, add_generation_prompt=True)
    assert found == (
        "<|im_start|>system\n be brief <|im_end|>\n<|im_start|>user\na\n b<|im_end|>\n<|im_start|>assistant\n"
    )
    today = with_template(directory, "{{ strftime_now('%Y') }}").apply_chat_template(messages)
    assert today == str(datetime.datetime.now().year)


def test_which_template_is_used(directory):
    """Of several: by name, "tool_use" where there are tools, else "default"; a file wins over the list."""
    path = directory / "tokenizer_config.json"
    values = json.loads(path.read_text())
    messages = CONVERSATIONS[0]

    def used(stated, **arguments):
        path.write_text(json.dumps(values | {"chat_template": stated}))
        return load_tokenizer(directory).apply_chat_template(messages, **arguments)

    several = [{"name": name, "template": f"<{name}>"} for name in ("default", "tool_use", "rag")]
    assert used("one") == "one"
    assert used(several) == "<default>"
    assert used(several, tools=[TOOL]) == "<tool_use>"
    assert used(several, chat_template="rag", tools=[TOOL]) == "<rag>"
    assert used(several, chat_template="{{ messages[0].role }}") == "user"
    with pytest.raises(InputError, match="rag, tool_use and none named default"):
        used(several[1:])
    with pytest.raises(InputError, match="found no chat template"):
        used(None)
    (directory / "chat_template.jinja").write_text("from a file")
    assert used("one") == "from a file"


def test_templates_are_saved_and_copied(directory, tmp_path):
    transformers = pytest.importorskip("transformers")
    several = [{"name": name, "template": f"<{name}>\n"} for name in ("default", "tool_use")]
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": several}))
    tokenizer = load_tokenizer(directory)
    saved, copied = tmp_path / "saved", tmp_path / "copied"
    tokenizer.save_pretrained(saved)
    assert "chat_template" not in json.loads((saved / "tokenizer_config.json").read_text())
    copied.mkdir()
    copy_tokenizer(saved, copied)
    for place in (saved, copied):
        assert load_tokenizer(place).settings.chat_templates == {
            "default": "<default>\n",
            "tool_use": "<tool_use>\n",
        }
        reference = transformers.AutoTokenizer.from_pretrained(place)
        assert reference.chat_template == {"default": "<default>\n", "tool_use": "<tool_use>\n"}


def test_template_names_stay_in_their_folder(directory, tmp_path):
    path = directory / "tokenizer_config.json"
    several = [{"name": "../../escaped", "template": "x"}]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": several}))
    with pytest.raises(InputError, match=r"found a chat template named '\.\./\.\./escaped'"):
        load_tokenizer(directory).save_pretrained(tmp_path / "a" / "b")
    assert not list(tmp_path.rglob("escaped*"))


NESTED = "{% for i in x %}{% for j in x %}{% endfor %}{% endfor %}"
HOSTILE = {
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__['json'] }}",
    "code": "{{ strftime_now.__code__.co_code }}",
    "format": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "attribute filter": "{{ (messages | attr('__class__')).mro() }}",
    "namespace": "{% set ns = namespace(__class__=1) %}",
    "changes messages": "{{ messages.append(1) }}",
    "import": "{% import 'os' as os %}{{ os.listdir('/') }}",
    "include": "{% include '/etc/passwd' %}",
    "import call": "{{ __import__('os').system('true') }}",
    "long range": "{% for i in range(10 ** 9) %}{% endfor %}",
    "nested ranges": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "nested lists": "{% set x = range(9999) | list %}" + NESTED,
    "recursive loop": "{% set x = [range(9999) | list] * 3000 %}"
    "{% for i in x recursive %}{{ loop(i) if i is sequence }}{% endfor %}",
    "recursive macro": "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "product": "{{ 'x' * 10 ** 12 }}",
    "list product": "{{ [0] * 10 ** 12 }}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "sum": "{% set ns = namespace(x='x' * 9999999) %}{% set ns.x = ns.x + ns.x %}",
    "joined": "{% set ns = namespace(x='x') %}"
    "{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "percent": "{{ '%999999999d' % 1 }}",
    "percent as told": "{{ '%*d' % (999999999, 1) }}",
    "field": "{{ '{:999999999}'.format(1) }}",
    "field as told": "{{ '{:{}}'.format(1, 999999999) }}",
    "format filter": "{{ '%999999999d' | format(1) }}",
    "padded": "{{ 'a'.center(10 ** 10) }}",
    "padded by a filter": "{{ 'a' | center(10 ** 10) }}",
    "indented": "{{ ('\\n' * 9999) | indent('x' * 99999) }}",
    "replaced": "{% set x = 'a' * 9999999 %}{{ x.replace('a', x) }}",
    "replaced by a filter": "{% set x = 'a' * 9999999 %}{{ x | replace('a', x) }}",
    "list joined": "{{ (['x' * 9999999] * 9999) | join }}",
    "joined by a method": "{{ ('x' * 999999).join(['x'] * 9999) }}",
    "indented json": "{{ messages | tojson(indent=10 ** 10) }}",
    "long answer": "{% for i in range(999) %}{{ 'x' * 99999 }}{% endfor %}",
    "syntax": "{% for %}",
    "unfinished": "{% if true %}",
    "undefined": "{{ nothing.there }}",
    "refuses": "{{ raise_exception('roles\nmust alternate') }}",
    "types": "{{ 'a' + 1 }}",
    "zero": "{{ 1 / 0 }}",
}


@pytest.mark.parametrize("template", HOSTILE.values(), ids=HOSTILE)
def test_hostile_templates(template):
    with pytest.raises(InputError, match="found a chat template that") as caught:
        text = render_chat(template, [{"role": "user", "content": "x"}], None, {})
        pytest.fail(f"rendered {text[:200]!r}")
    assert "\n" not in str(caught.value)


def test_keys_without_a_value_are_left_out():
    """As in transformers: APIs say content=None, and templates would write it."""
    message = {"role": "user", "content": None, "reasoning": "hm"}
    template = "{{ 'content' in messages[0] }} {{ messages[0].thinking }} {{ messages[0].reasoning_content }}"
    assert render_chat(template, [message], None, {}) == "False hm hm"


def test_objects_are_hidden_from_templates():
    """Only plain data reaches a template, as in transformers: a path has methods that write files."""

    class Loaded:
        secret = "s"

    text = render_chat(
        "{{ messages[0].content }}{{ x.secret }}", [{"content": Loaded()}], None, {"x": Loaded()}
    )
    assert text == "<Loaded>"


@pytest.mark.parametrize(
    ("messages", "tools", "message"),
    [
        ([], None, "found no messages"),
        ("hello", None, "found str for messages"),
        ({"role": "user"}, None, "found dict for messages"),
        (["hello"], None, "found str among the messages"),
        ([{"role": "user", "content": "x"}], [len], "among the tools"),
    ],
)
def test_bad_messages(messages, tools, message):
    with pytest.raises(InputError, match=message):
        render_chat(CHATML, messages, tools, {})


def test_harmony_template_refusal_is_one_line():
    with pytest.raises(InputError, match="stopped: a tool's answer without a call"):
        render_chat(HARMONY, [{"role": "tool", "content": "x"}], None, {})
