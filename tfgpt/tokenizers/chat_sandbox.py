"""The sandbox that chat templates run in: Jinja's, with transformers' extras and an end to every loop. No TF.

Jinja's immutable sandbox keeps a template from attributes that lead to Python's insides, and from changing
what it is given; there is no loader, so it can include and import nothing. On top of that each iteration of a
loop and each call is counted, since a few nested loops would run for years, and no step may make anything
huge: products, powers and sums, `~`, fields of formats, methods and filters that pad, repeat or replace.
"""

import contextlib
import contextvars
import datetime
import functools
import json
import re
from collections.abc import Iterable, Iterator

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MOST_STEPS = 2_000_000  # some seconds; a conversation of a thousand messages takes some ten thousand
LARGEST_RESULT = 10_000_000  # of one step: characters, items of a sequence, or bits of an integer
_COUNTED, _JOINED = "_counted", "_joined"
# A width or a precision of six digits or more, or one that is taken from the arguments.
_WIDE_PERCENT = re.compile(r"%[^a-zA-Z%]*(\*|\d{6})")
_WIDE_FIELD = re.compile(r"\{[^}]*(\{|\d{6})")

_steps_left: contextvars.ContextVar[list[int]] = contextvars.ContextVar("steps left to a template")


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Gives the template that runs inside `MOST_STEPS` steps."""
    token = _steps_left.set([MOST_STEPS])
    try:
        yield
    finally:
        _steps_left.reset(token)


def make_environment() -> "ChatEnvironment":
    """An environment with what transformers gives to templates (`_cached_compile_jinja_template`)."""
    environment = ChatEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.filters = {name: _bounded(name, each) for name, each in environment.filters.items()}
    environment.filters |= {_COUNTED: _counted, _JOINED: lambda *parts: joined(parts)}
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "dict": _TemplateDict(),
        "namespace": _TemplateNamespace,
    }
    return environment


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Counts the steps of every loop and call, and refuses what would be huge."""

    intercepted_binops = frozenset(("*", "**", "+", "%"))

    def _parse(self, source, name, filename) -> nodes.Template:
        tree = _Guards().visit(super()._parse(source, name, filename))
        return tree.set_environment(self)

    def call(self, context, callee, *args, **kwargs):
        """Calls what the sandbox allows; a call is a step, and so is each iteration of `loop(...)`."""
        _step()
        if isinstance(callee, LoopContext) and args:
            args = (_counted(args[0]), *args[1:])
        owner = getattr(callee, "__self__", None)
        if isinstance(owner, str):
            _check_text_step(callee.__name__, owner, args, kwargs)
        return super().call(context, callee, *args, **kwargs)

    def wrap_str_format(self, value):
        """`str.format` without wide fields."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None and _WIDE_FIELD.search(value.__self__):
            raise SecurityError(
                "a field of a format is wider than 99999 characters, or as wide as it is told"
            )
        return wrapped

    def call_binop(self, context, operator, left, right):
        """The result, if it can be held."""
        sizes = [len(side) if isinstance(side, str | list | tuple) else None for side in (left, right)]
        if operator == "%":
            _check_fields(left, _WIDE_PERCENT)
            size = 0
        elif operator == "+":
            size = sum(filter(None, sizes))
        elif operator == "**":
            size = abs(right) * left.bit_length() if isinstance(left, int) and isinstance(right, int) else 0
        elif sizes == [None, None]:
            size = left.bit_length() + right.bit_length() if type(left) is type(right) is int else 0
        else:
            length, times = (sizes[0], right) if sizes[0] is not None else (sizes[1], left)
            size = length * times if isinstance(times, int) else 0
        _check_size(size)
        return super().call_binop(context, operator, left, right)


class _Guards(NodeTransformer):
    """Counts what loops go through, and measures what `~` joins."""

    def visit_For(self, node, *args, **kwargs):
        self.generic_visit(node, *args, **kwargs)
        node.iter = nodes.Filter(node.iter, _COUNTED, [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node, *args, **kwargs):
        self.generic_visit(node, *args, **kwargs)
        first, *others = node.nodes
        return nodes.Filter(first, _JOINED, others, [], None, None, lineno=node.lineno)


class GenerationTag(Extension):
    """`{% generation %}...{% endgeneration %}`: marks what the assistant wrote, and changes no text."""

    tags = frozenset(("generation",))

    def parse(self, parser) -> nodes.CallBlock:
        """The block, as a call: what it sets stays within it, as in transformers."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller) -> str:
        return caller()


class _TemplateDict:
    """`dict` without the type's attributes."""

    def __call__(self, *args, **kwargs):
        return dict(*args, **kwargs)

    def fromkeys(self, *args, **kwargs):
        return dict.fromkeys(*args, **kwargs)


class _TemplateNamespace(Namespace):
    """`namespace` without names that begin with an underscore."""

    def __init__(*args, **kwargs):  # so that `namespace(self=1)` is allowed
        self, args = args[0], args[1:]
        attributes = dict(*args, **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name, value):
        _check_name(name)
        Namespace.__setitem__(self, name, value)


def _check_name(name) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace has no attribute {name!r}: names may not begin with an underscore")


def _step() -> None:
    left = _steps_left.get()
    left[0] -= 1
    if left[0] < 0:
        raise SecurityError(f"it runs on after {MOST_STEPS} steps")


def _check_size(size: int) -> None:
    if size > LARGEST_RESULT:
        raise SecurityError(f"it makes something of size {size}, and at most {LARGEST_RESULT} is allowed")


def _check_fields(form, wide: re.Pattern) -> None:
    if isinstance(form, str) and wide.search(form):
        raise SecurityError("a field of a format is 100000 characters wide or more, or as wide as it is told")


def _check_text_step(name: str, text: str, args, kwargs) -> None:
    """Refuses a method or a filter that would make a text huge: by a width, a replacement, or by joining."""
    given = (*args, *kwargs.values())
    _check_size(max((each for each in given if type(each) is int), default=0))
    longest = max((len(each) for each in given if isinstance(each, str)), default=0)
    if name == "format":  # the filter; the method is met in `wrap_str_format`
        _check_fields(text, _WIDE_PERCENT)
    if name in ("replace", "translate", "indent"):
        _check_size((len(text) + 1) * longest)
    if name == "join":
        items = next((each for each in given if isinstance(each, list | tuple)), ())
        _check_size(sum(len(str(item)) + max(len(text), longest) for item in items))


def _bounded(name: str, function):
    """A filter of Jinja's that makes nothing huge."""

    @functools.wraps(function)
    def bounded(*args, **kwargs):
        _step()
        # Some filters are given a context or an environment before the text.
        text = next((each for each in args if isinstance(each, str)), "")
        _check_text_step(name, text, args, kwargs)
        return function(*args, **kwargs)

    return bounded


def joined(parts: Iterable) -> str:
    """The texts of the parts, one after the other, if they can be held."""
    texts, size = [], 0
    for part in parts:
        texts.append(str(part))
        size += len(texts[-1])
        _check_size(size)
    return "".join(texts)


def _counted(values):
    for value in values:
        _step()
        yield value


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    """Jinja's own would write HTML escapes."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _raise_exception(message):
    raise TemplateError(message)
