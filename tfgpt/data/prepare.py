"""From text to token shards in one call: read, clean, split, learn a tokenizer, pack. No TF.

DIRECTORY/
  tokenizer/     tokenizer.json, tokenizer_config.json, inputs.json
  train/         token shards (shards.py)
  validation/    token shards
  report.json    what was read, left out, cleaned and written
"""

import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tfgpt.data.corpus import CleanedCorpus, CorpusOptions, Progress, TokenizerKind, select_files
from tfgpt.data.packing import write_shards
from tfgpt.data.shards import TokenShards
from tfgpt.data.splitting import name_hash
from tfgpt.data.text import CorpusFile, Document, corpus_files, standard_library_files
from tfgpt.errors import InputError
from tfgpt.files import read_json, write_json
from tfgpt.locks import in_turn
from tfgpt.replacing import replacing_directory
from tfgpt.tokenizers.base import Tokenizer
from tfgpt.tokenizers.byte_pair import BytePairTokenizer
from tfgpt.tokenizers.character import CharacterTokenizer
from tfgpt.tokenizers.file_names import SAVED_FILES
from tfgpt.tokenizers.loading import load_tokenizer

VERSION = 2  # part of the fingerprint: raise it when the same inputs give other shards

_CHUNK_TOKENS = 2**20
# The text that a tokenizer learns from is chosen by pieces of this size, so that one long file will do.
_SAMPLE_CHARACTERS = 2**13


@dataclass(frozen=True)
class PreparedCorpus:
    """A prepared corpus: where it is, its tokenizer and shards, and the content of report.json."""

    directory: Path
    tokenizer: Tokenizer
    train: TokenShards
    validation: TokenShards
    report: dict

    @classmethod
    def open(cls, directory: str | os.PathLike) -> "PreparedCorpus":
        """Opens what `prepare_corpus` wrote; InputError if it is not whole."""
        directory = Path(directory)
        report = _state(directory / "report.json")
        if not report:
            raise InputError(
                f"found no prepared corpus in {directory}, expected report.json; prepare the corpus"
            )
        tokenizer = load_tokenizer(directory / "tokenizer")
        train, validation = TokenShards.open(directory / "train"), TokenShards.open(directory / "validation")
        for split, shards in (("train", train), ("validation", validation)):
            shards.check_tokenizer(tokenizer)
            # While other inputs are being prepared in the same place, the report is the last to change.
            if shards.index.inputs_fingerprint != f"{report.get('inputs_fingerprint')}-{split}":
                raise InputError(
                    f"found {split} tokens of another corpus in {directory} than report.json tells of, "
                    "expected one corpus; prepare it again"
                )
        return cls(directory, tokenizer, train, validation, report)

    def text_bytes(self, split: str) -> bytes:
        """The cleaned UTF-8 text of "train" or "validation", documents joined by nothing, from its tokens."""
        shards = {"train": self.train, "validation": self.validation}[split]
        token_ids = shards.all_tokens()
        if shards.end_of_text_id is not None:
            token_ids = token_ids[token_ids != shards.end_of_text_id]
        table, text = list(self.tokenizer.token_bytes), bytearray()
        for start in range(0, len(token_ids), _CHUNK_TOKENS):  # as Python's integers they take ten times more
            part = token_ids[start : start + _CHUNK_TOKENS].tolist()
            text += b"".join([table[token_id] for token_id in part])
        return bytes(text)


def prepare_corpus(
    source: str | os.PathLike | None,
    directory: str | os.PathLike,
    options: CorpusOptions | None = None,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> PreparedCorpus:
    """Makes training and validation shards of a corpus, or opens those that the same call made before.

    Stages that an interrupted call finished are not done again. Several processes may call it for one
    directory, as the workers of a job do: one prepares while the others wait. (Where a network file system
    has no locks, call it in one process first.) Inputs count as the same when options,
    tokenizer and the names, sizes and times of change of all files are.

    Args:
        source: a text file or a directory (.txt, .jsonl, .gz); None for the standard library's sources.
        directory: where to write; see the top of this file.
        options: how.
        tokenizer: a tokenizer to use, such as a published model's; None learns one from the training text.
        progress: called with (stage, done, total), in bytes of text.

    Raises:
        InputError: no text, a text too short to split, a broken .jsonl line.
    """
    directory, options = Path(directory), options or CorpusOptions()
    progress = progress or (lambda stage, done, total: None)
    files = standard_library_files() if source is None else _not_within(directory, corpus_files(source))
    files = select_files(files, options.max_bytes)
    inputs = inputs_fingerprint(files, options, tokenizer)
    prepared = _prepared(directory, inputs)
    if prepared is not None:
        return prepared
    with in_turn(directory):
        # Whoever had to wait finds it made.
        prepared = _prepared(directory, inputs)
        if prepared is not None:
            return prepared
        source = "the standard library" if source is None else source
        corpus = CleanedCorpus.read(files, options, progress, source)
        tokenizer = _stored_tokenizer(corpus, tokenizer, directory / "tokenizer", inputs, progress)
        return _pack(corpus, tokenizer, directory, (inputs, str(source)), progress)


def _prepared(directory: Path, inputs: str) -> PreparedCorpus | None:
    """What stands in `directory`, if these inputs made it and it is whole."""
    if _state(directory / "report.json").get("inputs_fingerprint") != inputs:
        return None
    try:
        return PreparedCorpus.open(directory)
    except InputError:  # damaged, or being made anew
        return None


def _pack(
    corpus: CleanedCorpus, tokenizer: Tokenizer, directory: Path, origin: tuple[str, str], progress: Progress
) -> PreparedCorpus:
    """The last two stages: shards, and the report that says they are whole."""
    inputs, source = origin
    shards = {}
    for split in ("train", "validation"):
        shards[split] = write_shards(
            corpus.documents(split),
            tokenizer,
            directory / split,
            inputs_fingerprint=f"{inputs}-{split}",
            progress=lambda done, split=split: progress(split, done, corpus.sizes[split]),
        )
    report = {"inputs_fingerprint": inputs, "source": source, **corpus.report()}
    report["tokenizer"] = {
        "kind": type(tokenizer).__name__,
        "vocabulary_size": tokenizer.vocabulary_size,
        "fingerprint": tokenizer.fingerprint(),
    }
    report["tokens"] = {split: value.num_tokens for split, value in shards.items()}
    write_json(directory / "report.json", report)
    return PreparedCorpus(directory, tokenizer, shards["train"], shards["validation"], report)


def _not_within(directory: Path, files: Sequence[CorpusFile]) -> list[CorpusFile]:
    """Where the output lies within the corpus, what was written there is no text of it."""
    root = directory.resolve()
    return [file for file in files if root not in file.path.resolve().parents]


def inputs_fingerprint(
    files: Sequence[CorpusFile], options: CorpusOptions, tokenizer: Tokenizer | None
) -> str:
    """Sixteen hexadecimal digits that change when the shards might."""
    state = {
        "version": VERSION,
        "options": asdict(options),
        "tokenizer": None if tokenizer is None else tokenizer.fingerprint(),
        "files": [(file.name, *file.size_and_time()) for file in files],
    }
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode(errors="surrogatepass")).hexdigest()[:16]


def _stored_tokenizer(
    corpus: CleanedCorpus, given: Tokenizer | None, directory: Path, inputs: str, progress: Progress
) -> Tokenizer:
    """The tokenizer in `directory` if the same inputs put it there, else the given or a learned one."""
    if _state(directory / "inputs.json").get("inputs_fingerprint") == inputs:
        try:
            return load_tokenizer(directory)
        except InputError:
            pass  # damaged since: stored again
    tokenizer = given or _learned_tokenizer(corpus, progress)
    with replacing_directory(directory, owned=(*SAVED_FILES, "inputs.json")) as temporary:
        tokenizer.save_pretrained(temporary)
        write_json(temporary / "inputs.json", {"inputs_fingerprint": inputs})
    return tokenizer


def _learned_tokenizer(corpus: CleanedCorpus, progress: Progress) -> Tokenizer:
    total, options = corpus.sizes["train"], corpus.options
    is_character = options.tokenizer_kind is TokenizerKind.CHARACTER
    share = 1.0 if is_character else options.tokenizer_bytes / max(total, 1)

    def texts():
        done = 0
        for document in corpus.documents("train"):
            done += len(document.text.encode())
            progress("tokenizer", done, total)
            yield document.text if share >= 1.0 else _sample(document, share)

    if is_character:
        # A closed alphabet must hold every character of validation too, as nanoGPT's does.
        rest = (document.text for document in corpus.documents("validation"))
        return CharacterTokenizer.train(itertools.chain(texts(), rest))
    return BytePairTokenizer.train(texts(), options.vocabulary_size)


def _sample(document: Document, share: float) -> str:
    """About `share` of a document, chosen by a hash of its name and the place."""
    starts = range(0, len(document.text), _SAMPLE_CHARACTERS)
    pieces = (document.text[start : start + _SAMPLE_CHARACTERS] for start in starts)
    chosen = (name_hash(f"{document.name}@{start}", "tokenizer") < share for start in starts)
    return "".join(itertools.compress(pieces, chosen))


def _state(path: Path) -> dict:
    """What an earlier run left in `path`; empty where there is nothing whole: then it is made again."""
    try:
        return read_json(path)
    except InputError:
        return {}
