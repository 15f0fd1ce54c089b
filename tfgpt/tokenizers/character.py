"""One token per character, as nanoGPT's data/shakespeare_char/prepare.py does it. No TF."""

from collections.abc import Callable, Iterable

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from tfgpt.errors import InputError
from tfgpt.tokenizers.base import Tokenizer
from tfgpt.tokenizers.settings import TokenizerSettings


class CharacterTokenizer(Tokenizer):
    """Each Unicode character of a closed alphabet is one token; there is no end-of-text token.

    Saved as a valid tokenizer.json (WordLevel over single characters), so that transformers and the clients
    of an export read the same file format as for byte-level BPE.
    """

    kind = "one of single characters (WordLevel)"

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        end_of_text_id: None = None,
        settings: TokenizerSettings | None = None,
    ):
        super().__init__(backend, end_of_text_id, settings)
        self._ids = backend.get_vocab(with_added_tokens=True)
        wrong = next((token for token in self._ids if len(token) != 1), None)
        if wrong is not None:
            raise InputError(f"found the token {wrong!r}, expected a vocabulary of single characters")

    @classmethod
    def from_characters(cls, characters: Iterable[str]) -> "CharacterTokenizer":
        """A tokenizer whose ids are the places in `characters`."""
        vocabulary = {character: token_id for token_id, character in enumerate(characters)}
        backend = tokenizers.Tokenizer(models.WordLevel(vocab=vocabulary))
        backend.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), behavior="isolated")
        backend.decoder = decoders.Fuse()
        return cls(backend)

    @classmethod
    def train(cls, texts: Iterable[str]) -> "CharacterTokenizer":
        """The alphabet of `texts`, in order of code points, as nanoGPT numbers it."""
        alphabet = sorted(set().union(*texts))
        if not alphabet:
            raise InputError("found no text, expected at least one character to make a vocabulary of")
        return cls.from_characters(alphabet)

    @classmethod
    def fits(cls, backend: tokenizers.Tokenizer) -> bool:
        """Whether `backend` looks whole words up; that they are single characters is checked later."""
        return isinstance(backend.model, models.WordLevel)

    def encode(self, text: str, allow_special: bool = True) -> list[int]:
        """Token ids of `text`; `allow_special` changes nothing, as there are no special tokens.

        Raises:
            InputError: a character that is not in the alphabet.
        """
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            raise InputError(
                f"found the character {error.args[0]!r}, expected only the {self.vocabulary_size} characters "
                "of the training text; remove it or train the vocabulary on text that has it"
            ) from error

    def encode_batch(self, texts: Iterable[str], allow_special: bool = True) -> list[list[int]]:
        """`encode` of each text."""
        return [self.encode(text) for text in texts]

    def _bytes_reader(self) -> Callable[[int], bytes | None]:
        characters = {token_id: character.encode() for character, token_id in self._ids.items()}
        return characters.get
