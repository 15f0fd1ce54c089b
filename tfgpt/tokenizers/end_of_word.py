"""GPT-1's BPE: lower case, words cut at white space and punctuation, `</w>` at the end of a word. No TF.

Radford et al. 2018, section 4.1; Sennrich et al. 2016, algorithm 1. The reference is transformers'
models/openai/tokenization_openai.py (BertNormalizer, BertPreTokenizer). OpenAI's text_utils.py
(github.com/openai/finetune-transformer-lm) cut words with spaCy after ftfy had mended the text; where neither
changes anything, for plain English, the ids are the same.
"""

import functools
from collections.abc import Callable, Sequence

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from tfgpt.tokenizers.base import Tokenizer, unknown_token_id, whole_numbers
from tfgpt.tokenizers.settings import TokenizerSettings


class EndOfWordTokenizer(Tokenizer):
    """BPE over characters whose tokens say where a word ends, on the `tokenizers` library.

    It loses case, accents and white space: decoding puts one space after each word but the last. A character
    that the vocabulary lacks becomes <unk>, or nothing where there is no <unk>. GPT-1 has no end-of-text
    token, so documents follow each other directly; a stated eos_token ends them.
    """

    kind = "BPE with ends of words (BPE with decoder BPEDecoder), as GPT-1 has it"

    @property
    def tokenizer_class(self) -> str:
        """OpenAIGPTTokenizer only with GPT-1's parts: transformers rebuilds it from vocabulary and merges."""
        normalizer = self.backend.normalizer
        is_gpt1 = (
            isinstance(normalizer, normalizers.BertNormalizer)
            and normalizer.lowercase
            and normalizer.clean_text
            and normalizer.handle_chinese_chars
            and normalizer.strip_accents is None
            and isinstance(self.backend.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
            and self.backend.model.end_of_word_suffix == self._suffix
        )
        return "OpenAIGPTTokenizer" if is_gpt1 else "PreTrainedTokenizerFast"

    @classmethod
    def fits(cls, backend: tokenizers.Tokenizer) -> bool:
        """Whether `backend` is BPE whose decoder turns ends of words into spaces."""
        return isinstance(backend.model, models.BPE) and isinstance(backend.decoder, decoders.BPEDecoder)

    @classmethod
    def from_backend(cls, backend: tokenizers.Tokenizer, settings: TokenizerSettings) -> "EndOfWordTokenizer":
        """Documents end with the stated eos_token if the vocabulary has it, else with nothing."""
        return cls(backend, backend.token_to_id(settings.special_tokens.get("eos_token", "")), settings)

    @property
    def _suffix(self) -> str:
        return self.backend.decoder.suffix

    @functools.cached_property
    def _tokens(self) -> list[str | None]:
        table: list[str | None] = [None] * self.vocabulary_size
        for token, token_id in self.backend.get_vocab(with_added_tokens=True).items():
            table[token_id] = token
        return table

    def _text_of(self, token_ids: list[int]) -> str:
        """A space stands at the end of every word but one that the last token ends."""
        stream = self.stream_decoder()
        return "".join([stream.push(token_id) for token_id in token_ids]) + stream.flush()

    def stream_decoder(self) -> "WordStreamDecoder":
        """A fresh decoder for one stream of token ids."""
        return WordStreamDecoder(self._tokens, self._suffix)

    @property
    def last_token_bytes(self) -> list[bytes | None]:
        """What each token stands for at the end of a text, where no space follows a word."""
        suffix = self._suffix
        return [None if token is None else token.replace(suffix, "").encode() for token in self._tokens]

    def _bytes_reader(self) -> Callable[[int], bytes | None]:
        """A token that ends a word stands for a space, too, which `decode` leaves out at a text's end."""
        tokens, suffix = self._tokens, self._suffix

        def bytes_of(token_id: int) -> bytes | None:
            token = tokens[token_id]
            return None if token is None else token.replace(suffix, " ").encode()

        return bytes_of


class WordStreamDecoder:
    """Turns token ids into text as they come; the space after a word waits for the next token."""

    def __init__(self, tokens: Sequence[str | None], suffix: str):
        self._tokens = tokens
        self._suffix = suffix
        self._ending = ""  # of the token before: what is a space if another follows, and nothing if none does

    def push(self, token_id: int) -> str:
        """The text that `token_id` makes certain."""
        [token_id] = whole_numbers([token_id])
        token = self._tokens[token_id] if 0 <= token_id < len(self._tokens) else None
        if token is None:
            raise unknown_token_id(self._tokens, [token_id])
        before = self._ending.replace(self._suffix, " ")
        text, mark, rest = token.partition(self._suffix)
        self._ending = mark + rest
        return before + text

    def flush(self) -> str:
        """What is left at the end of the stream."""
        return self._ending.replace(self._suffix, "")
