"""What every tokenizer shares: decoding through bytes, streaming, fingerprint, saving. No TF."""

import codecs
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers

from tfgpt.errors import InputError
from tfgpt.files import replacing_file, write_json


class StreamDecoder:
    """Turns token ids into text as they come, holding back bytes until they form whole characters.

    The concatenation of every `push` and the final `flush` equals `decode` of all the ids.
    """

    def __init__(self, token_bytes: Sequence[bytes | None]):
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes; empty while a character is still missing bytes."""
        return self._decoder.decode(join_token_bytes(self._token_bytes, [token_id]))

    def flush(self) -> str:
        """What is left at the end of the stream: U+FFFD for an unfinished character, else nothing."""
        return self._decoder.decode(b"", final=True)


class Tokenizer:
    """The interface of every tokenizer in tfgpt, over one `tokenizers.Tokenizer`.

    Subclasses give `encode`, `encode_batch` and `_make_token_bytes`. Attributes:
        end_of_text_id: id of the token that ends a document, or None where the vocabulary has none.
        vocabulary_size: the largest id plus one, added tokens included.
    """

    tokenizer_class = "PreTrainedTokenizerFast"  # what tokenizer_config.json names for transformers

    def __init__(self, backend: tokenizers.Tokenizer, end_of_text_id: int | None):
        self.backend = backend
        self.end_of_text_id = end_of_text_id
        self.vocabulary_size = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self._token_bytes_cache = None
        self._fingerprint_cache = None

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`."""
        raise NotImplementedError

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, in parallel where the tokenizer can."""
        return [self.encode(text) for text in texts]

    def _make_token_bytes(self) -> list[bytes | None]:
        raise NotImplementedError

    @property
    def token_bytes(self) -> list[bytes | None]:
        """The bytes that each token id stands for; None at an id that the vocabulary leaves unused."""
        if self._token_bytes_cache is None:
            self._token_bytes_cache = self._make_token_bytes()
        return self._token_bytes_cache

    @property
    def encodes_lines_apart(self) -> bool:
        """Whether a text has the same ids in pieces that are cut between two lines.

        Not where the tokenizer puts something before every text it is given (`add_prefix_space`), or may do
        so in its normalizer.
        """
        if self.backend.normalizer is not None:
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
            InputError: an id outside of the vocabulary.
        """
        token_ids = list(token_ids)
        if skip_special_tokens:
            special = self.special_token_ids
            token_ids = [token_id for token_id in token_ids if token_id not in special]
        return join_token_bytes(self.token_bytes, token_ids).decode("utf-8", errors="replace")

    def stream_decoder(self) -> StreamDecoder:
        """A fresh decoder for one stream of token ids."""
        return StreamDecoder(self.token_bytes)

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with anything that changes the ids of a text.

        It depends on the vocabulary, the order of the merges, the added tokens, the normalizer and the
        pre-tokenizer, and not on the form of the files that they were read from.
        """
        if self._fingerprint_cache is None:
            canonical = json.dumps(_identity(json.loads(self.backend.to_str())), sort_keys=True)
            self._fingerprint_cache = hashlib.sha256(canonical.encode()).hexdigest()[:16]
        return self._fingerprint_cache

    def save_pretrained(self, directory: str | os.PathLike, model_max_length: int | None = None) -> None:
        """Writes tokenizer.json and tokenizer_config.json, as transformers and its relatives read them.

        `model_max_length` is the context length, in tokens, that clients should respect.
        """
        directory = Path(directory)
        with replacing_file(directory / "tokenizer.json") as temporary:
            self.backend.save(str(temporary))
        write_json(directory / "tokenizer_config.json", self._configuration(model_max_length))

    def _configuration(self, model_max_length: int | None) -> dict:
        # transformers 4 removes spaces before punctuation when decoding unless it is told not to.
        configuration = {
            "tokenizer_class": self.tokenizer_class,
            "clean_up_tokenization_spaces": False,
        }
        if self.end_of_text_id is not None:
            end_of_text = self.backend.id_to_token(self.end_of_text_id)
            configuration |= dict.fromkeys(("bos_token", "eos_token", "unk_token"), end_of_text)
        if model_max_length is not None:
            configuration["model_max_length"] = model_max_length
        return configuration


def join_token_bytes(token_bytes: Sequence[bytes | None], token_ids: Sequence[int]) -> bytes:
    """The bytes of `token_ids` joined; InputError for an id that is not in the vocabulary."""
    try:
        # A negative id would count from the end of the table.
        if min(token_ids, default=0) >= 0:
            return b"".join([token_bytes[token_id] for token_id in token_ids])
    except (IndexError, TypeError):
        pass
    size = len(token_bytes)
    wrong = next(i for i in token_ids if not 0 <= i < size or token_bytes[i] is None)
    raise InputError(
        f"found token id {int(wrong)}, expected an id of the vocabulary (0 to {size - 1}); "
        "use the tokenizer that belongs to this model"
    )


def _identity(state: dict) -> dict:
    """The parts of a tokenizer.json that decide the ids of a text."""
    model = state["model"]
    merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in model.get("merges", [])]
    vocabulary = dict(model["vocab"])
    added = {token["content"]: (token["id"], token["special"]) for token in state.get("added_tokens", [])}
    vocabulary |= {content: token_id for content, (token_id, _) in added.items()}
    return {
        "type": model.get("type", "BPE"),
        "vocabulary": vocabulary,
        "merges": merges,
        "special": sorted(content for content, (_, special) in added.items() if special),
        "normalizer": state.get("normalizer"),
        "pre_tokenizer": _without_offsets(state.get("pre_tokenizer")),
        "ignore_merges": bool(model.get("ignore_merges")),
    }


def _without_offsets(value):
    """Drops `trim_offsets`, which moves character offsets and never ids."""
    if isinstance(value, dict):
        return {key: _without_offsets(item) for key, item in value.items() if key != "trim_offsets"}
    if isinstance(value, list):
        return [_without_offsets(item) for item in value]
    return value
