"""GPT-2's byte-level BPE: Radford et al. 2019, section 2.2; reference github.com/openai/gpt-2/src/encoder.py.

Text is cut by a regular expression, its UTF-8 bytes are written as 256 printable characters, and merges
join them in order of priority. No text is unknown and decoding gives back exactly the text. No TF.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from tfgpt.errors import InputError
from tfgpt.tokenizers.base import Tokenizer
from tfgpt.tokenizers.settings import TokenizerSettings
from tfgpt.tokenizers.vocabulary_files import END_OF_TEXT, byte_level_backend, merges_of

LONGEST_RUN = 1024
_LONG_RUN = re.compile(rf"(?<!\S)\S{{{LONGEST_RUN + 1},}}|(?<!\s)\s{{{LONGEST_RUN + 1},}}")


class BytePairTokenizer(Tokenizer):
    """Byte-level BPE on the `tokenizers` library, of GPT-2, GPT-3, GPT-Neo, GPT-J, GPT-NeoX and gpt-oss.

    They differ in what their files say: the regular expression, GPT-NeoX's NFC normalizer, added tokens. Ids
    equal those of transformers. Not covered: tokens that a post-processor puts around every text, which no
    GPT has and which are refused.

    Attributes:
        missing_bytes: bytes that the vocabulary has no token for; none where it is complete.
    """

    kind = "byte-level BPE (BPE with decoder ByteLevel), as GPT-2, GPT-NeoX and gpt-oss have it"

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        end_of_text: str = END_OF_TEXT,
        settings: TokenizerSettings | None = None,
    ):
        end_of_text_id = backend.token_to_id(end_of_text)
        if end_of_text_id is None:
            raise InputError(
                f"found no token {end_of_text!r} in the vocabulary of {backend.get_vocab_size()} tokens, "
                "expected one that ends documents; name it as eos_token in tokenizer_config.json"
            )
        super().__init__(backend, end_of_text_id, settings)
        model = backend.model
        self.missing_bytes = bytes(
            byte for character, byte in _BYTE_OF.items() if model.token_to_id(character) is None
        )

    @property
    def tokenizer_class(self) -> str:
        """The class that tokenizer_config.json names.

        transformers 5 rebuilds GPT2Tokenizer and GPTNeoXTokenizer from the vocabulary and merges alone, so
        these names are right only with the parts that it builds.
        """
        pre_tokenizer, normalizer = self.backend.pre_tokenizer, self.backend.normalizer
        is_plain = (
            isinstance(pre_tokenizer, pre_tokenizers.ByteLevel)
            and pre_tokenizer.use_regex
            and not pre_tokenizer.add_prefix_space
            and not self.backend.model.ignore_merges
        )
        if is_plain and normalizer is None:
            return "GPT2Tokenizer"
        # Its padding token is <|padding|>, whatever the files say: transformers adds it where there is none.
        has_padding = self.backend.token_to_id("<|padding|>") is not None
        if is_plain and isinstance(normalizer, normalizers.NFC) and has_padding:
            return "GPTNeoXTokenizer"
        return "PreTrainedTokenizerFast"

    @classmethod
    def fits(cls, backend: tokenizers.Tokenizer) -> bool:
        """Whether `backend` is BPE over the characters of bytes."""
        return isinstance(backend.model, models.BPE) and isinstance(backend.decoder, decoders.ByteLevel)

    @classmethod
    def from_backend(cls, backend: tokenizers.Tokenizer, settings: TokenizerSettings) -> "BytePairTokenizer":
        """The end-of-text token is the stated eos_token, else <|endoftext|>; InputError without either."""
        return cls(backend, settings.special_tokens.get("eos_token", END_OF_TEXT), settings)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocabulary_size: int = 8192, minimum_frequency: int = 2
    ) -> "BytePairTokenizer":
        """Learns merges from `texts`, with all 256 bytes first and <|endoftext|> last, as in GPT-2.

        Runs of more than `LONGEST_RUN` characters without white space (or of nothing else) are learned from
        in pieces: the trainer's time grows with the square of a word's length, and three million equal
        letters would take an hour. Other texts are learned from as they are.

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
        backend.train_from_iterator((piece for text in texts for piece in cut_long_runs(text)), trainer)
        # The trainer would number special tokens first, so the model is rebuilt with it in last place.
        model = json.loads(backend.to_str())["model"]
        vocabulary = model["vocab"] | {END_OF_TEXT: len(model["vocab"])}
        return cls(byte_level_backend(vocabulary, merges_of(model)))

    def encode_batch(self, texts: Sequence[str], allow_special: bool = True) -> list[list[int]]:
        """`encode` of each text; InputError for a byte that an incomplete vocabulary lacks."""
        texts = list(texts)
        token_ids = super().encode_batch(texts, allow_special)
        if self.missing_bytes and self.backend.normalizer is None:
            self._check_nothing_lost(texts, token_ids)
        return token_ids

    def _check_nothing_lost(self, texts: list[str], token_ids: list[list[int]]) -> None:
        """The library drops a byte that the vocabulary lacks without a word."""
        for text, ids in zip(texts, token_ids, strict=True):
            if self.decode(ids) != text:
                lost = next((c for c in text if set(c.encode()) & set(self.missing_bytes)), text[:20])
                raise InputError(
                    f"found {lost!r} in the text, expected only bytes of the vocabulary, which lacks "
                    f"{len(self.missing_bytes)} of 256; use a complete byte-level vocabulary"
                )

    def _bytes_reader(self) -> Callable[[int], bytes | None]:
        backend = self.backend
        # Added tokens are matched in the text as it is.
        added = {number: token.content for number, token in backend.get_added_tokens_decoder().items()}

        def bytes_of(token_id: int) -> bytes | None:
            if token_id in added:
                return added[token_id].encode()
            token = backend.id_to_token(token_id)
            if token is None:
                return None
            try:
                return bytes([_BYTE_OF[character] for character in token])
            except KeyError:
                return token.encode()

        return bytes_of


def cut_long_runs(text: str) -> Iterator[str]:
    """`text` in pieces, cut within runs of more than `LONGEST_RUN` characters, and nowhere else."""
    start = 0
    for run in _LONG_RUN.finditer(text):
        for cut in range(run.start() + LONGEST_RUN, run.end(), LONGEST_RUN):
            yield text[start:cut]
            start = cut
    yield text[start:]


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


_BYTE_OF = {character: byte for byte, character in enumerate(byte_characters())}
