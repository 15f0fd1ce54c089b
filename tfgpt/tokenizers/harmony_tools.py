"""How harmony shows functions to gpt-oss: JSON schemas as TypeScript types. No TF.

Format: https://cookbook.openai.com/articles/openai-harmony, "Function calling"; the finer points (comments,
oneOf, defaults) as github.com/openai/harmony, src/encoding.rs renders them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tool:
    """A function that the model may call; `parameters` is a JSON schema of type object, or None."""

    name: str
    description: str = ""
    parameters: Mapping | None = None


@dataclass(frozen=True)
class ToolNamespace:
    """Functions under one name; a namespace without any is described by its text alone."""

    name: str
    tools: tuple[Tool, ...] = ()
    description: str | None = None


def tools_section(namespaces: Sequence[ToolNamespace]) -> str:
    """The section "# Tools", namespaces in order of their names."""
    ordered = sorted(namespaces, key=lambda namespace: namespace.name)
    return "\n\n".join(["# Tools", *map(_namespace, ordered)])


def typescript_type(schema: Mapping, indent: str = "") -> str:
    """The TypeScript type of a JSON schema; what has no TypeScript here (anyOf, $ref, ...) is `any`."""
    variants, kind = schema.get("oneOf"), schema.get("type")
    if isinstance(variants, list):
        return "".join(f"\n{indent} | {_variant(each, indent)}{_comments(each)}" for each in variants)
    if isinstance(kind, list) and any(isinstance(each, str) for each in kind):
        return " | ".join("number" if each == "integer" else each for each in kind if isinstance(each, str))
    if kind == "object":
        return _object(schema, indent)
    if kind == "array":
        items = schema.get("items")
        return "Array<any>" if items is None else f"{typescript_type(items, indent)}[]"
    if kind == "string":
        choices = [f'"{each}"' for each in schema.get("enum") or () if isinstance(each, str)]
        return " | ".join(choices) or "string"
    return {"number": "number", "integer": "number", "boolean": "boolean"}.get(kind, "any")


def _namespace(namespace: ToolNamespace) -> str:
    comment = "// " if namespace.tools else ""
    lines = [f"## {namespace.name}\n", *(comment + line for line in _lines(namespace.description or ""))]
    if namespace.tools:
        lines.append(f"namespace {namespace.name} {{\n")
        for tool in namespace.tools:
            lines += [f"// {line}" for line in _lines(tool.description)]
            arguments = "" if tool.parameters is None else f"_: {typescript_type(tool.parameters)}"
            lines.append(f"type {tool.name} = ({arguments}) => any;\n")
        lines.append(f"}} // namespace {namespace.name}")
    return "\n".join(lines)


def _object(schema: Mapping, indent: str) -> str:
    required = schema.get("required") or ()
    description = _text(schema, "description")
    head = "" if description is None else f"{indent}// {description}\n"
    properties = (schema.get("properties") or {}).items()
    lines = [
        line
        for name, value in properties
        for line in _property(name if name in required else f"{name}?", value, indent)
    ]
    return head + "{\n" + "".join(f"{indent}{line}\n" for line in lines) + indent + "}"


def _property(name: str, schema: Mapping, indent: str) -> list[str]:
    """The lines of one property, its comments first."""
    lines, description = [], _text(schema, "description")
    if (title := _text(schema, "title")) is not None:
        lines += [f"// {title}", "//"]
    if description is not None and "oneOf" not in schema:
        lines.append(f"// {description}")
    if examples := schema.get("examples"):
        lines += ["// Examples:", *(f'// - "{each}"' for each in examples if isinstance(each, str))]
    if isinstance(schema.get("oneOf"), list):
        return lines + _choice(name, schema, indent)
    default = f" // {_default(schema)}" if "default" in schema and "oneOf" not in schema else ""
    type_of = _nullable(schema, typescript_type(schema, indent + "    "))
    return [*lines, f"{name}: {type_of},{default}"]


def _choice(name: str, schema: Mapping, indent: str) -> list[str]:
    """A property with oneOf: its description above, or, where the first variant repeats it, with that."""
    variants, description = schema["oneOf"], _text(schema, "description")
    is_above = description is not None and not (variants and _text(variants[0], "description") == description)
    lines = [f"// {description}"] if is_above else []
    if "default" in schema:
        lines.append(f"// {_default(schema)}")
    lines.append(f"{name}:")
    for number, variant in enumerate(variants):
        said = None if number == 0 and is_above else _text(variant, "description")
        comments = [said] if said is not None and said != description else []
        comments += [_default(variant)] if "default" in variant else []
        lines.append(f" | {_variant(variant, indent)}" + (f" // {' '.join(comments)}" if comments else ""))
    return [*lines, ","]


def _variant(schema: Mapping, indent: str) -> str:
    return _nullable(schema, typescript_type(schema, indent + "   "))


def _comments(schema: Mapping) -> str:
    """What follows a variant of a type that is oneOf itself."""
    description = _text(schema, "description")
    comments = [] if description is None else [description]
    if "default" in schema:
        comments.append(f"default: {_json(schema['default'])}")
    return f" // {' '.join(comments)}" if comments else ""


def _default(schema: Mapping) -> str:
    default = schema["default"]
    bare = isinstance(default, str) and bool(schema.get("enum"))
    return f"default: {default if bare else _json(default)}"


def _nullable(schema: Mapping, type_of: str) -> str:
    return f"{type_of} | null" if schema.get("nullable") is True and "null" not in type_of else type_of


def _text(schema: Mapping, key: str) -> str | None:
    value = schema.get(key)
    return value if isinstance(value, str) else None


def _json(value) -> str:
    # A text stands in quotes as it is, without escapes.
    return (
        f'"{value}"'
        if isinstance(value, str)
        else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    )


def _lines(text: str) -> list[str]:
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []
