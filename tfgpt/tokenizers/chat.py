"""Chat templates: a conversation becomes the text that a model was trained on. No TF.

Reference: transformers' `apply_chat_template` and utils/chat_template_utils.py, whose text it equals. What a
template may do stands in `chat_sandbox.py`.
"""

import functools
from collections.abc import Mapping, Sequence

from tfgpt.errors import InputError, one_line

# Names that a message's reasoning is passed under; templates read the first, gpt-oss's the second.
_REASONING = ("reasoning_content", "thinking", "reasoning")


def choose_template(templates: Mapping[str, str], wanted: str | None, with_tools: bool) -> str:
    """The template to use.

    Args:
        templates: {name: template} of the tokenizer.
        wanted: a name, or a template itself; None takes "tool_use" where there are tools, then "default".
        with_tools: whether tools are given.

    Raises:
        InputError: the tokenizer has no template, or several and none by default.
    """
    if wanted is not None:
        return templates.get(wanted, wanted)
    for name in ("tool_use", "default") if with_tools else ("default",):
        if name in templates:
            return templates[name]
    if templates:
        raise InputError(
            f"found the chat templates {', '.join(sorted(templates))} and none named default, expected "
            "chat_template to name one of them"
        )
    raise InputError(
        "found no chat template in the tokenizer, expected chat_template.jinja or chat_template in "
        "tokenizer_config.json; use a model that was trained to chat, or pass chat_template"
    )


def render_chat(
    template: str, messages: Sequence[Mapping], tools: Sequence[Mapping] | None, context: Mapping
) -> str:
    """The text that `template` makes of a conversation.

    Templates come from strangers: everything that they see is plain data, they run in a sandbox, and whatever
    goes wrong in them is an InputError. Keys of a message whose value is None are left out, and reasoning is
    offered under each of its names, as in transformers.

    Args:
        template: Jinja.
        messages: {"role": ..., "content": ...} each, at least one.
        tools: JSON schemas, or None.
        context: further variables: the roles of special tokens, `add_generation_prompt`, the caller's own.

    Raises:
        InputError: messages or tools of another form, or a template that is wrong, fails or never ends.
    """
    from jinja2 import TemplateError

    from tfgpt.tokenizers import chat_sandbox

    try:
        compiled = _compiled(template)
        with chat_sandbox.limited():
            pieces = compiled.generate(
                messages=[_message(message) for message in _checked("messages", messages)],
                tools=None if tools is None else _plain(_checked("tools", tools)),
                documents=None,
                **_plain(dict(context)),
            )
            return chat_sandbox.joined(pieces)
    except InputError:
        raise
    except TemplateError as error:  # also what the template says itself, by raise_exception
        raise InputError(f"found a chat template that stopped: {one_line(error)}") from error
    except Exception as error:  # anything can go wrong in code that a stranger wrote
        raise InputError(
            f"found a chat template that failed ({type(error).__name__}: {one_line(error)}), expected one "
            "that fits these messages; look at the roles and the keys that it reads"
        ) from error


@functools.lru_cache(maxsize=16)
def _compiled(template: str):
    from tfgpt.tokenizers.chat_sandbox import make_environment

    return make_environment().from_string(template)


def _checked(name: str, values) -> list[Mapping]:
    if isinstance(values, str | Mapping) or not isinstance(values, Sequence):
        raise InputError(f"found {type(values).__name__} for {name}, expected a list of dictionaries")
    wrong = next((value for value in values if not isinstance(value, Mapping)), None)
    if wrong is not None:
        raise InputError(f"found {type(wrong).__name__} among the {name}, expected dictionaries")
    if name == "messages" and not values:
        raise InputError("found no messages, expected at least one")
    return list(values)


def _message(message: Mapping) -> dict:
    plain = _plain({key: value for key, value in message.items() if value is not None})
    reasoning = next((plain[key] for key in _REASONING if plain.get(key) is not None), None)
    if reasoning is not None:
        plain = {"thinking": reasoning, **plain, "reasoning_content": reasoning}
    return plain


def _plain(value):
    """JSON's own types, rebuilt: other objects have methods that a template could call."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):  # an enum's member, a NumPy scalar
            return getattr(kind, f"__{kind.__name__}__")(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value)) if type(value) in (list, tuple) else [_plain(v) for v in value]
    if hasattr(value, "item") and hasattr(value, "dtype") and not getattr(value, "ndim", 1):
        return _plain(value.item())
    return f"<{type(value).__name__}>"
