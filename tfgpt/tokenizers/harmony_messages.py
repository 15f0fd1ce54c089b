"""What a harmony conversation is made of: roles, messages, and the texts of its first two. No TF.

See `harmony.py` for the format.
"""

from dataclasses import dataclass
from enum import StrEnum

from tfgpt.errors import InputError
from tfgpt.tokenizers.harmony_tools import Tool, ToolNamespace, tools_section


class Role(StrEnum):
    """Who wrote a message."""

    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class ReasoningEffort(StrEnum):
    """How long the model should think."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class Marker(StrEnum):
    """The special tokens of the format."""

    START = "<|start|>"
    MESSAGE = "<|message|>"
    CHANNEL = "<|channel|>"
    CONSTRAIN = "<|constrain|>"
    END = "<|end|>"
    CALL = "<|call|>"
    RETURN = "<|return|>"


@dataclass(frozen=True)
class SystemContent:
    """What the system message states; None leaves a line out.

    Attributes:
        identity: who the model is.
        knowledge_cutoff: a month, such as "2024-06".
        current_date: a day, such as "2025-06-28".
        reasoning_effort: how long to think.
        channels: those that every message must name one of.
        namespaces: tools that the model was trained with, such as its browser.
    """

    identity: str | None = "You are ChatGPT, a large language model trained by OpenAI."
    knowledge_cutoff: str | None = "2024-06"
    current_date: str | None = None
    reasoning_effort: ReasoningEffort | None = ReasoningEffort.MEDIUM
    channels: tuple[str, ...] = ("analysis", "commentary", "final")
    namespaces: tuple[ToolNamespace, ...] = ()

    def text(self, has_functions: bool) -> str:
        """The message; `has_functions` is whether a developer message of the conversation gives functions."""
        top = [self.identity] if self.identity is not None else []
        top += [] if self.knowledge_cutoff is None else [f"Knowledge cutoff: {self.knowledge_cutoff}"]
        top += [] if self.current_date is None else [f"Current date: {self.current_date}"]
        sections = ["\n".join(top)] if top else []
        if self.reasoning_effort is not None:
            sections.append(f"Reasoning: {self.reasoning_effort}")
        if self.namespaces:
            sections.append(tools_section(self.namespaces))
        if self.channels:
            channels = ", ".join(self.channels)
            line = f"# Valid channels: {channels}. Channel must be included for every message."
            calls = "\nCalls to these tools must go to the commentary channel: 'functions'."
            sections.append(line + calls if has_functions else line)
        return "\n\n".join(sections)


@dataclass(frozen=True)
class DeveloperContent:
    """What others call the system prompt, and the functions that the model may call."""

    instructions: str | None = None
    tools: tuple[Tool, ...] = ()

    def text(self) -> str:
        """The message."""
        sections = [] if self.instructions is None else ["# Instructions", self.instructions]
        if self.tools:
            sections.append(tools_section((ToolNamespace("functions", self.tools),)))
        return "\n\n".join(sections)


@dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        role: who wrote it.
        content: its text; a system or developer message may give the parts of it.
        name: of the tool that answers ("functions.weather"), or of a user.
        channel: of the assistant's messages and the tools' answers: "analysis", "commentary" or "final".
        recipient: whom it is for: the function called, or "assistant".
        content_type: of a call: "<|constrain|>json".
    """

    role: Role
    content: str | SystemContent | DeveloperContent
    name: str | None = None
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None

    def __post_init__(self):
        """Raises InputError for parts that do not go together."""
        try:
            object.__setattr__(self, "role", Role(self.role))
        except ValueError:
            raise InputError(f"found role {self.role!r}, expected one of {', '.join(Role)}") from None
        if self.role is Role.TOOL and not self.name:
            raise InputError(
                "found a tool's message without a name, expected one such as 'functions.weather'"
            )
        allowed = {SystemContent: Role.SYSTEM, DeveloperContent: Role.DEVELOPER}.get(type(self.content))
        if allowed is None and not isinstance(self.content, str):
            raise InputError(f"found {type(self.content).__name__} as a message's content, expected text")
        if allowed not in (None, self.role):
            raise InputError(
                f"found {type(self.content).__name__} in a message of the {self.role}, expected one of the "
                f"{allowed}"
            )
