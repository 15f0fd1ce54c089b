"""What every tokenizer shares: decoding through bytes, streaming, fingerprint, saving. No TF."""

import codecs
import functools
import json
import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType

import tokenizers
from tokenizers import normalizers

from tfgpt.errors import InputError, one_line
from tfgpt.files import write_json
from tfgpt.paths import user_path
from tfgpt.replacing import replacing_file
from tfgpt.tokenizers.chat import choose_template, render_chat
from tfgpt.tokenizers.file_names import CONFIGURATION_FILE, TOKENIZER_FILE
from tfgpt.tokenizers.fingerprint import fingerprint
from tfgpt.tokenizers.settings import (
    TokenizerSettings,
    apply_settings,
    read_settings,
    write_chat_templates,
)
from tfgpt.tokenizers.vocabulary_files import read_backend


class TokenBytes(Sequence):
    """The bytes that each id adds to a text, or None where the vocabulary leaves an id unused.

    They are made as they are asked for: one text needs few, and all of GPT-2's take a tenth of a second. Ids
    do not count from the end. `list(...)` of it is the faster table where most of them are needed.
    """

    def __init__(self, size: int, bytes_of: Callable[[int], bytes | None]):
        self._size = size
        self._bytes_of = bytes_of
        self._known: dict[int, bytes | None] = {}

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, token_id: int) -> bytes | None:
        token_id = operator.index(token_id)
        try:
            return self._known[token_id]
        except KeyError:
            if not 0 <= token_id < self._size:
                raise IndexError(token_id) from None
        found = self._known[token_id] = self._bytes_of(token_id)
        return found

    def join(self, token_ids: list[int]) -> bytes:
        """The bytes of `token_ids` together; InputError for one that is not in the vocabulary."""
        known = self._known
        try:
            for token_id in set(token_ids).difference(known):
                self[token_id]
            return b"".join([known[token_id] for token_id in token_ids])
        except (IndexError, TypeError):  # TypeError: an unused id has None
            raise unknown_token_id(self, token_ids) from None


class StreamDecoder:
    """Turns token ids into text as they come, holding back bytes until they form whole characters.

    The concatenation of every `push` and the final `flush` equals `decode` of all the ids.
    """

    def __init__(self, token_bytes: TokenBytes):
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes; empty while a character is still missing bytes."""
        return self._decoder.decode(self._token_bytes.join(whole_numbers([token_id])))

    def flush(self) -> str:
        """What is left at the end of the stream: U+FFFD for an unfinished character, else nothing."""
        return self._decoder.decode(b"", final=True)


class Tokenizer:
    """The interface of every tokenizer in tfgpt, over one `tokenizers.Tokenizer`.

    Subclasses say which backends they `fit`, give `_bytes_reader` and, where decoding is more than joining
    bytes, `_text_of` and `stream_decoder`. Attributes:
        end_of_text_id: id of the token that ends a document, or None where the vocabulary has none.
        vocabulary_size: the largest id plus one, added tokens included.
        settings: roles of special tokens and chat templates, as read from the directory.
    """

    tokenizer_class = "PreTrainedTokenizerFast"  # what tokenizer_config.json names for transformers
    kind = "a tokenizer"  # for messages

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        end_of_text_id: int | None,
        settings: TokenizerSettings | None = None,
    ):
        self.backend = backend
        self.end_of_text_id = end_of_text_id
        self.settings = settings or TokenizerSettings()
        self._plain_backend = None
        self.vocabulary_size = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self._fingerprint_cache = None

    @classmethod
    def fits(cls, backend: tokenizers.Tokenizer) -> bool:
        """Whether `backend` is of this kind, judged by its model and its decoder."""
        raise NotImplementedError

    @classmethod
    def from_backend(cls, backend: tokenizers.Tokenizer, settings: TokenizerSettings) -> "Tokenizer":
        """The tokenizer over a backend that `fits`."""
        return cls(backend, None, settings)

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike) -> "Tokenizer":
        """Reads a tokenizer of this kind; `tfgpt.tokenizers.loading.load_tokenizer` reads every kind.

        Raises:
            InputError: files that are missing, corrupt, do not fit together, or hold another kind.
        """
        backend, settings = read_backend(directory), read_settings(directory)
        if not cls.fits(backend):
            raise InputError(f"{found_kind(backend)} in {directory}, expected {cls.kind}")
        apply_settings(backend, settings, directory)
        return cls.from_backend(backend, settings)

    def __getstate__(self) -> dict:
        # Another process makes the bytes of tokens by itself: functions of the backend do not travel.
        return {name: value for name, value in self.__dict__.items() if name != "token_bytes"}

    def encode(self, text: str, allow_special: bool = True) -> list[int]:
        """Token ids of `text`, equal to those of transformers.

        Args:
            text: any text; the empty text gives no ids.
            allow_special: whether special tokens written in the text, such as "<|endoftext|>", become their
                ids, as transformers does by default; False encodes them as the characters they are, which is
                right for text that is not trusted.

        Raises:
            InputError: a lone surrogate, which is no Unicode text.
        """
        return self.encode_batch([text], allow_special)[0]

    def encode_batch(self, texts: Sequence[str], allow_special: bool = True) -> list[list[int]]:
        """`encode` of each text, on all cores (the environment's TOKENIZERS_PARALLELISM=false: on one)."""
        backend = self.backend if allow_special else self._without_special()
        texts = list(texts)
        check_encodable(texts)
        # encode_batch_fast leaves out the character offsets, which nobody reads here.
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]

    def _without_special(self) -> tokenizers.Tokenizer:
        # A second backend, since the switch is a state of the backend and threads may share this object.
        if self._plain_backend is None:
            plain = tokenizers.Tokenizer.from_str(self.backend.to_str())
            plain.encode_special_tokens = True
            self._plain_backend = plain
        return self._plain_backend

    @functools.cached_property
    def token_bytes(self) -> TokenBytes:
        """The bytes that each token id adds to a text."""
        return TokenBytes(self.vocabulary_size, self._bytes_reader())

    def _bytes_reader(self) -> Callable[[int], bytes | None]:
        """A function of the backend, not of this object, from an id below `vocabulary_size` to its bytes."""
        raise NotImplementedError

    @property
    def encodes_lines_apart(self) -> bool:
        """Whether a text has the same ids in pieces that are cut between two lines.

        Not where the tokenizer puts something before every text it is given (`add_prefix_space`), or may do
        so in its normalizer. NFC, and BERT's normalizer, join nothing across the end of a line.
        """
        if not isinstance(self.backend.normalizer, NoneType | normalizers.NFC | normalizers.BertNormalizer):
            return False
        pre_tokenizer = json.dumps(json.loads(self.backend.to_str()).get("pre_tokenizer"))
        return '"add_prefix_space": true' not in pre_tokenizer

    @property
    def special_token_ids(self) -> frozenset[int]:
        """The ids of special (control) tokens."""
        added = self.backend.get_added_tokens_decoder()
        return frozenset(token_id for token_id, token in added.items() if token.special)

    def decode(self, token_ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """Text of `token_ids`. Bytes that are not UTF-8 become U+FFFD, as in transformers.

        Raises:
            InputError: an id outside of the vocabulary, or something else than ids.
        """
        token_ids = whole_numbers(token_ids)
        if skip_special_tokens:
            special = self.special_token_ids
            token_ids = [token_id for token_id in token_ids if token_id not in special]
        return self._text_of(token_ids)

    def _text_of(self, token_ids: list[int]) -> str:
        return self.token_bytes.join(token_ids).decode("utf-8", errors="replace")

    def stream_decoder(self) -> StreamDecoder:
        """A fresh decoder for one stream of token ids."""
        return StreamDecoder(self.token_bytes)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping],
        *,
        add_generation_prompt: bool = False,
        tools: Sequence[Mapping] | None = None,
        chat_template: str | None = None,
        **variables,
    ) -> str:
        """The text of a conversation; see `tfgpt.tokenizers.chat.render_chat`.

        Args:
            messages: {"role": ..., "content": ...} each, with whatever else the template reads.
            add_generation_prompt: whether the text ends where the model's answer begins.
            tools: JSON schemas of functions that the model may call.
            chat_template: the name of one of the tokenizer's templates, or a template.
            variables: further values for the template, such as reasoning_effort="high".

        Raises:
            InputError: no template, messages of another form, or a template that fails.
        """
        template = choose_template(self.settings.chat_templates, chat_template, tools is not None)
        context = {**self._roles(), **variables, "add_generation_prompt": add_generation_prompt}
        return render_chat(template, messages, tools, context)

    def _roles(self) -> dict[str, str]:
        if self.settings.special_tokens or self.end_of_text_id is None:
            return dict(self.settings.special_tokens)
        return dict.fromkeys(
            ("bos_token", "eos_token", "unk_token"), self.backend.id_to_token(self.end_of_text_id)
        )

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with anything that changes the ids of a text.

        It depends on the vocabulary, the order of the merges, the added tokens, the normalizer and the
        pre-tokenizer, and not on the form of the files that they were read from.
        """
        if self._fingerprint_cache is None:
            self._fingerprint_cache = fingerprint(json.loads(self.backend.to_str()))
        return self._fingerprint_cache

    def save_pretrained(self, directory: str | os.PathLike, model_max_length: int | None = None) -> None:
        """Writes tokenizer.json, tokenizer_config.json and the chat templates, as transformers reads them.

        `model_max_length` is the context length, in tokens, that clients should respect.
        """
        directory = user_path(directory)
        with replacing_file(directory / TOKENIZER_FILE) as temporary:
            self.backend.save(str(temporary))
        write_json(directory / CONFIGURATION_FILE, self._configuration(model_max_length))
        write_chat_templates(directory, self.settings.chat_templates)

    def _configuration(self, model_max_length: int | None) -> dict:
        # transformers 4 removes spaces before punctuation when decoding unless it is told not to.
        configuration = {
            "tokenizer_class": self.tokenizer_class,
            "clean_up_tokenization_spaces": False,
        }
        configuration |= self._roles()
        if self.settings.extra_special_tokens:
            configuration["extra_special_tokens"] = list(self.settings.extra_special_tokens)
        if model_max_length is not None:
            configuration["model_max_length"] = model_max_length
        return configuration


def found_kind(backend: tokenizers.Tokenizer) -> str:
    """The beginning of a message about a backend of the wrong kind."""
    return f"found a {type(backend.model).__name__} tokenizer with decoder {type(backend.decoder).__name__}"


def check_encodable(texts: Iterable[str]) -> None:
    """InputError for what is no text, or holds a lone surrogate, which UTF-8 cannot spell."""
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"found {type(text).__name__}, expected text (str) to encode")
        try:
            # isascii is instant; other text pays for one encoding, to find surrogates.
            text.isascii() or text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"found a lone surrogate at character {error.start}, expected Unicode text; decode the "
                "source with errors='replace'"
            ) from error


def whole_numbers(token_ids: Iterable[int]) -> list[int]:
    """Token ids as Python's integers; InputError for anything else, such as a list of rows."""
    try:
        token_ids = list(token_ids)
        return list(map(operator.index, token_ids))
    except (TypeError, ValueError, AttributeError):  # what Python, NumPy and TensorFlow make of it
        raise InputError(
            f"found {one_line(repr(token_ids))} for token ids, expected integers in one row"
        ) from None


def unknown_token_id(table: Sequence, token_ids: Sequence[int]) -> InputError:
    """The error for the first of `token_ids` that has no entry in `table`."""
    size = len(table)
    wrong = next(i for i in token_ids if not 0 <= i < size or table[i] is None)
    return InputError(
        f"found token id {int(wrong)}, expected an id of the vocabulary (0 to {size - 1}); "
        "use the tokenizer that belongs to this model"
    )
