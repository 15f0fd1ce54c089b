"""GPT-2's byte-level BPE: Radford et al. 2019, section 2.2; reference github.com/openai/gpt-2/src/encoder.py.

Text is cut by a regular expression, its UTF-8 bytes are written as 256 printable characters, and merges
join them in order of priority. No text is unknown and decoding gives back exactly the text. No TF.
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import pre_tokenizers, trainers

from tfgpt.errors import InputError
from tfgpt.tokenizers.base import Tokenizer
from tfgpt.tokenizers.vocabulary_files import END_OF_TEXT, byte_level_backend, read_backend, read_json


class BytePairTokenizer(Tokenizer):
    """Byte-level BPE on the `tokenizers` library; ids equal those of transformers' GPT2TokenizerFast.

    Not covered: vocabularies that are not byte-level (SentencePiece, GPT-1's), which `from_pretrained`
    refuses, and tokens added around a text by a post-processor, which GPT tokenizers do not have.
    """

    def __init__(self, backend: tokenizers.Tokenizer, end_of_text: str = END_OF_TEXT):
        end_of_text_id = backend.token_to_id(end_of_text)
        if end_of_text_id is None:
            raise InputError(
                f"found no token {end_of_text!r} in the vocabulary of {backend.get_vocab_size()} tokens, "
                "expected one that ends documents; name it as eos_token in tokenizer_config.json"
            )
        super().__init__(backend, end_of_text_id)
        self._plain_backend = None
        vocabulary = backend.get_vocab(with_added_tokens=False)
        self._missing_bytes = bytes(
            byte for byte, character in enumerate(byte_characters()) if character not in vocabulary
        )

    @property
    def tokenizer_class(self) -> str:
        """The class that tokenizer_config.json names.

        transformers 5 rebuilds GPT2Tokenizer from the vocabulary and merges alone, so that name is right
        only with GPT-2's own pre-tokenizer.
        """
        pre_tokenizer = self.backend.pre_tokenizer
        is_gpt2 = (
            isinstance(pre_tokenizer, pre_tokenizers.ByteLevel)
            and pre_tokenizer.use_regex
            and not pre_tokenizer.add_prefix_space
            and self.backend.normalizer is None
        )
        return "GPT2Tokenizer" if is_gpt2 else "PreTrainedTokenizerFast"

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike) -> "BytePairTokenizer":
        """Reads tokenizer.json, or vocab.json with merges.txt, or encoder.json with vocab.bpe.

        The end-of-text token is eos_token of tokenizer_config.json where that is stated, else <|endoftext|>.

        Raises:
            InputError: files that are missing, corrupt, do not fit together, or are not byte-level BPE.
        """
        directory = Path(directory)
        backend = read_backend(directory)
        model, decoder = type(backend.model).__name__, type(backend.decoder).__name__
        if model != "BPE" or decoder != "ByteLevel":
            raise InputError(
                f"found a {model} tokenizer with decoder {decoder} in {directory}, expected byte-level BPE "
                "(BPE with decoder ByteLevel); use a GPT-2-like tokenizer"
            )
        configuration_path = directory / "tokenizer_config.json"
        configuration = read_json(configuration_path) if configuration_path.is_file() else {}
        end_of_text = configuration.get("eos_token") or END_OF_TEXT
        if isinstance(end_of_text, dict):  # an AddedToken written out
            end_of_text = end_of_text.get("content", END_OF_TEXT)
        return cls(backend, end_of_text)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocabulary_size: int = 8192, minimum_frequency: int = 2
    ) -> "BytePairTokenizer":
        """Learns merges from `texts`, with all 256 bytes first and <|endoftext|> last, as in GPT-2.

        Args:
            texts: the training texts; read once, in order.
            vocabulary_size: the number of tokens. Small texts have fewer pairs worth merging: then the
                vocabulary is smaller, and `tokenizer.vocabulary_size` says how large it is.
            minimum_frequency: pairs seen less often are not merged.
        """
        if vocabulary_size < 257:
            raise InputError(
                f"found vocabulary_size {vocabulary_size}, expected at least 257: 256 bytes and {END_OF_TEXT}"
            )
        backend = byte_level_backend({}, [])
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary_size - 1,
            min_frequency=minimum_frequency,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        # The trainer would number special tokens first, so the model is rebuilt with it in last place.
        model = json.loads(backend.to_str())["model"]
        merges = [
            tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model["merges"]
        ]
        return cls(byte_level_backend(model["vocab"] | {END_OF_TEXT: len(model["vocab"])}, merges))

    def encode(self, text: str, allow_special: bool = True) -> list[int]:
        """Token ids of `text`.

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
        self._check_encodable(texts)
        # encode_batch_fast leaves out the character offsets, which nobody reads here.
        token_ids = [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
        if self._missing_bytes and self.backend.normalizer is None:
            self._check_nothing_lost(texts, token_ids)
        return token_ids

    def _without_special(self) -> tokenizers.Tokenizer:
        # A second backend, since the switch is a state of the backend and threads may share this object.
        if self._plain_backend is None:
            plain = tokenizers.Tokenizer.from_str(self.backend.to_str())
            plain.encode_special_tokens = True
            self._plain_backend = plain
        return self._plain_backend

    def _check_encodable(self, texts: list[str]) -> None:
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

    def _check_nothing_lost(self, texts: list[str], token_ids: list[list[int]]) -> None:
        """The library drops a byte that the vocabulary lacks without a word."""
        for text, ids in zip(texts, token_ids, strict=True):
            if self.decode(ids) != text:
                lost = next((c for c in text if set(c.encode()) & set(self._missing_bytes)), text[:20])
                raise InputError(
                    f"found {lost!r} in the text, expected only bytes of the vocabulary, which lacks "
                    f"{len(self._missing_bytes)} of 256; use a complete byte-level vocabulary"
                )

    def _make_token_bytes(self) -> list[bytes | None]:
        byte_of = {character: byte for byte, character in enumerate(byte_characters())}
        table: list[bytes | None] = [None] * self.vocabulary_size
        for token, token_id in self.backend.get_vocab(with_added_tokens=False).items():
            table[token_id] = (
                bytes(byte_of[c] for c in token) if all(c in byte_of for c in token) else token.encode()
            )
        for token_id, token in self.backend.get_added_tokens_decoder().items():
            table[token_id] = token.content.encode()  # added tokens are matched in the text as it is
        return table


def byte_characters() -> list[str]:
    """The printable character that stands for each byte (`bytes_to_unicode` of OpenAI's encoder.py)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    characters, shifted = [], 256
    for byte in range(256):
        if byte in printable:
            characters.append(chr(byte))
        else:
            characters.append(chr(shifted))
            shifted += 1
    return characters
