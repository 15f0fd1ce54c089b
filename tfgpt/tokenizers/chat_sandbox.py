"""The sandbox that chat templates run in: Jinja's, with transformers' extras and an end to every loop. No TF.

Jinja's immutable sandbox keeps a template from attributes that lead to Python's insides, and from changing
what it is given; there is no loader, so it can include and import nothing. On top of that each iteration of a
loop and each call is counted, since a few nested loops would run for years, and products and powers may not
be huge. Memory is not bounded otherwise.
"""

import contextlib
import contextvars
import datetime
import json
from collections.abc import Iterator

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MOST_STEPS = 2_000_000  # some seconds; a conversation of a thousand messages takes some ten thousand
LARGEST_RESULT = 10_000_000  # of a product or a power: items of a sequence, or bits of an integer
_COUNTED = "_counted"

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
    environment.filters[_COUNTED] = _counted
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "dict": _TemplateDict(),
        "namespace": _TemplateNamespace,
    }
    return environment


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Counts the steps of every loop and call, and refuses huge products."""

    intercepted_binops = frozenset(("*", "**"))

    def _parse(self, source, name, filename) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, _COUNTED, [], [], None, None, lineno=loop.lineno)
        return tree.set_environment(self)

    def call(self, context, callee, *args, **kwargs):
        """Calls what the sandbox allows; a call is a step, and so is each iteration of `loop(...)`."""
        _step()
        if isinstance(callee, LoopContext) and args:
            args = (_counted(args[0]), *args[1:])
        return super().call(context, callee, *args, **kwargs)

    def call_binop(self, context, operator, left, right):
        """`left * right` or `left ** right`, if the result can be held."""
        sizes = [len(side) if isinstance(side, str | list | tuple) else None for side in (left, right)]
        if operator == "**":
            size = abs(right) * left.bit_length() if isinstance(left, int) and isinstance(right, int) else 0
        elif sizes == [None, None]:
            size = left.bit_length() + right.bit_length() if type(left) is type(right) is int else 0
        else:
            length, times = (sizes[0], right) if sizes[0] is not None else (sizes[1], left)
            size = length * times if isinstance(times, int) else 0
        if size > LARGEST_RESULT:
            raise SecurityError(f"it makes something of size {size}, and at most {LARGEST_RESULT} is allowed")
        return super().call_binop(context, operator, left, right)


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
