"""Harmony, the conversation format of gpt-oss: messages to token ids and back. No TF.

    <|start|>system<|message|>You are ChatGPT, ... Reasoning: high ... # Valid channels: ...<|end|>
    <|start|>developer<|message|># Instructions ... # Tools ...<|end|>
    <|start|>user<|message|>What is the weather?<|end|>
    <|start|>assistant<|channel|>analysis<|message|>I should look it up.<|end|>
    <|start|>assistant to=functions.weather<|channel|>commentary <|constrain|>json<|message|>{...}<|call|>
    <|start|>functions.weather to=assistant<|channel|>commentary<|message|>{"sky": "blue"}<|end|>
    <|start|>assistant<|channel|>final<|message|>Sunny.<|return|>

Format: https://cookbook.openai.com/articles/openai-harmony. Reference: github.com/openai/harmony,
src/encoding.rs, whose token ids these are. What users, tools and models write is encoded as text: "<|start|>"
in it is nine characters, and no message can pretend to be another. Not covered: the texts of the tools
"browser" and "python" that gpt-oss knows, which a `ToolNamespace` of the system message may give.
"""

import re
from collections.abc import Iterable, Sequence

from tfgpt.errors import InputError
from tfgpt.tokenizers.base import StreamDecoder, Tokenizer
from tfgpt.tokenizers.harmony_messages import (
    DeveloperContent,
    Marker,
    Message,
    ReasoningEffort,
    Role,
    SystemContent,
)
from tfgpt.tokenizers.harmony_tools import Tool, ToolNamespace

__all__ = [
    "DeveloperContent",
    "Harmony",
    "HarmonyParser",
    "Message",
    "ReasoningEffort",
    "Role",
    "SystemContent",
    "Tool",
    "ToolNamespace",
    "parse_header",
]


class Harmony:
    """Renders and parses conversations with the tokenizer of gpt-oss.

    Attributes:
        stop_ids: tokens after which the model's turn is over: <|return|> and <|call|>. A message that ends
            in <|end|> is followed by another one.
    """

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.ids = {marker: tokenizer.backend.token_to_id(marker.value) for marker in Marker}
        missing = [marker.value for marker, token_id in self.ids.items() if token_id is None]
        if missing:
            raise InputError(
                f"found no token {missing[0]} in the vocabulary, expected gpt-oss's (o200k_harmony); use "
                "apply_chat_template for other models"
            )
        self.stop_ids = (self.ids[Marker.RETURN], self.ids[Marker.CALL])

    def render(
        self,
        messages: Sequence[Message],
        next_role: Role | None = Role.ASSISTANT,
        keep_analysis: bool = False,
    ) -> list[int]:
        """Token ids of a conversation.

        Args:
            messages: in order.
            next_role: the ids end where a message of this role begins; None ends them after the last message.
            keep_analysis: once the assistant has given its final answer, its analysis before the first final
                message is left out, unless this is true.
        """
        parts = self._conversation(messages, keep_analysis)
        if next_role is not None:
            parts += [Marker.START, Role(next_role).value]
        return self._encode(parts)

    def render_for_training(self, messages: Sequence[Message], keep_analysis: bool = False) -> list[int]:
        """Token ids of a whole conversation; a final message at its end is closed by <|return|>."""
        parts = self._conversation(messages, keep_analysis)
        if messages and messages[-1].role is Role.ASSISTANT and messages[-1].channel == "final":
            parts[-1] = Marker.RETURN
        return self._encode(parts)

    def parse(self, token_ids: Iterable[int], role: Role | None = Role.ASSISTANT) -> list[Message]:
        """The messages in what the model generated.

        Args:
            token_ids: they may end within a message, which is returned as far as it goes.
            role: whose message begins, as `next_role` of the prompt; None where the ids begin with <|start|>.

        Raises:
            InputError: ids that are not in the format.
        """
        parser = HarmonyParser(self, role)
        for token_id in token_ids:
            parser.push(token_id)
        parser.finish()
        return parser.messages

    def _conversation(self, messages: Sequence[Message], keep_analysis: bool) -> list[str]:
        has_functions = any(
            isinstance(each.content, DeveloperContent) and each.content.tools for each in messages
        )
        spoken = [each for each in messages if each.role is Role.ASSISTANT]
        first_final = 0
        if not keep_analysis and spoken and spoken[-1].channel == "final":
            first_final = next(i for i, each in enumerate(messages) if each.channel == "final")
        return [
            part
            for place, message in enumerate(messages)
            if not (place < first_final and message.channel == "analysis")
            for part in _parts(message, has_functions)
        ]

    def _encode(self, parts: list[str]) -> list[int]:
        texts = [part for part in parts if not isinstance(part, Marker)]
        encoded = iter(self.tokenizer.encode_batch(texts, allow_special=False))
        return [
            token_id
            for part in parts
            for token_id in ([self.ids[part]] if isinstance(part, Marker) else next(encoded))
        ]


def _parts(message: Message, has_functions: bool) -> list[str]:
    """A message as markers and texts; each text is encoded by itself, as in the reference."""
    parts = [Marker.START]
    if message.role is Role.TOOL:
        parts.append(message.name)
    else:
        parts += [message.role.value, *([f":{message.name}"] if message.name else [])]
    if message.recipient not in (None, "all"):
        parts.append(f" to={message.recipient}")
    if message.channel is not None:
        parts += [Marker.CHANNEL, message.channel]
    if message.content_type is not None:
        constrained = message.content_type.removeprefix(Marker.CONSTRAIN)
        if constrained != message.content_type:
            parts += [" ", Marker.CONSTRAIN, constrained]
        else:
            parts.append(f" {message.content_type}")
    parts.append(Marker.MESSAGE)
    content = message.content
    if isinstance(content, SystemContent):
        content = content.text(has_functions)
    parts.append(content.text() if isinstance(content, DeveloperContent) else content)
    is_call = message.role is Role.ASSISTANT and message.recipient is not None
    return [*parts, Marker.CALL if is_call else Marker.END]


class HarmonyParser:
    """Parses token ids as they are generated.

    Attributes:
        messages: those that are complete.
        current: the message under way, once its header is complete, with the content so far; else None.
    """

    def __init__(self, harmony: Harmony, role: Role | None = Role.ASSISTANT):
        self._marker_of = {token_id: marker for marker, token_id in harmony.ids.items()}
        self._token_bytes = harmony.tokenizer.token_bytes
        self._role = None if role is None else Role(role)
        self._header: StreamDecoder | None = None if role is None else StreamDecoder(self._token_bytes)
        self._header_text = ""
        self._open: Message | None = None
        self._content: list[str] = []
        self.messages: list[Message] = []

    @property
    def current(self) -> Message | None:
        """The message under way, if its header is complete."""
        return None if self._open is None else self._with_content()

    def push(self, token_id: int) -> str:
        """Takes one token; returns the text that it adds to the current message's content.

        Raises:
            InputError: a token that cannot stand here, or a header that says nothing known.
        """
        marker = self._marker_of.get(token_id)
        if self._open is not None:
            if marker in (Marker.END, Marker.CALL, Marker.RETURN):
                return self._close()
            return self._add(self._decoder.push(token_id))
        if self._header is not None:
            if marker is Marker.MESSAGE:
                self._open = parse_header(self._header_text + self._header.flush(), self._role)
                self._header, self._role = None, None
                self._decoder = StreamDecoder(self._token_bytes)
            else:
                self._header_text += self._header.push(token_id)
            return ""
        if marker is not Marker.START:
            raise InputError(f"found token id {token_id} between two messages, expected <|start|>")
        self._header, self._header_text = StreamDecoder(self._token_bytes), ""
        return ""

    def finish(self) -> str:
        """Ends the stream, and with it a message under way; returns the rest of its content."""
        if self._header is not None:
            raise InputError(
                f"found the end of the tokens within the header {self._header_text!r}, expected <|message|>; "
                "generate more tokens"
            )
        return self._close() if self._open is not None else ""

    def _add(self, text: str) -> str:
        self._content.append(text)
        return text

    def _close(self) -> str:
        text = self._add(self._decoder.flush())
        self.messages.append(self._with_content())
        self._open, self._content = None, []
        return text

    def _with_content(self) -> Message:
        header = self._open
        text = "".join(self._content)
        return Message(header.role, text, header.name, header.channel, header.recipient, header.content_type)


def parse_header(header: str, role: Role | None) -> Message:
    """The message, still empty, that a header announces.

    A recipient may stand before the channel or after it, with "to=" or without; the last of two words is the
    content type. `role` is known where the prompt gave it.

    Raises:
        InputError: an unknown role, an empty channel, or words left over.
    """
    before, marker, after = header.partition(Marker.CHANNEL)
    channel = None
    if marker:
        channel = re.match(r"[^\s<]*", after)[0]
        if not channel:
            raise InputError(f"found the header {header!r} with an empty channel, expected its name")
        after = after[len(channel) :]
    words = (before + after).replace(Marker.CONSTRAIN, f" {Marker.CONSTRAIN}").split()
    name = None
    if role is None:
        role, name = _author(words, header)
    if words and words[0] == role:
        del words[0]
    recipient = content_type = None
    if words:
        last = words.pop()
        if last.startswith("to=") or (not words and not last.startswith(Marker.CONSTRAIN)):
            recipient = last.removeprefix("to=")
        else:
            content_type = last
            recipient = words.pop().removeprefix("to=") if words else None
    if words:
        raise InputError(
            f"found {' '.join(words)!r} left over in the header {header!r}, expected nothing more"
        )
    return Message(role, "", name, channel, recipient, content_type)


def _author(words: list[str], header: str) -> tuple[Role, str | None]:
    """The role that the first word names; a word that is none is the name of a tool, if it says to whom."""
    first = words[0] if words else ""
    role, _, name = first.partition(":")
    if role in [each.value for each in Role if each is not Role.TOOL]:
        words[0] = role
        return Role(role), name or None
    if first and (len(words) > 1 or first.startswith("to=")):
        del words[0]
        return Role.TOOL, first
    raise InputError(f"found the header {header!r}, expected it to begin with one of {', '.join(Role)}")
