"""Which files are for validation: by a hash of the name, so that adding files moves no other file. No TF."""

import hashlib
from collections.abc import Iterable, Sequence

from tfgpt.data.text import Document
from tfgpt.errors import InputError


def name_hash(name: str, seed: int | str = 0) -> float:
    """A number in [0, 1) that depends on `name` and `seed` alone, the same on every machine."""
    digest = hashlib.blake2b(f"{seed}\n{name}".encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def validation_files(
    names: Iterable[str], validation_fraction: float = 0.05, seed: int = 0
) -> frozenset[str]:
    """The names that go to validation: about `validation_fraction` of them, at least one and never all.

    A name stays on its side when others are added or removed, except where a side would be empty: then the
    name nearest to the border moves.

    Raises:
        InputError: fewer than two names, or a fraction outside of (0, 1).
    """
    if not 0.0 < validation_fraction < 1.0:
        raise InputError(
            f"found validation_fraction {validation_fraction}, expected a number between 0 and 1"
        )
    hashes = {name: name_hash(name, seed) for name in names}
    if len(hashes) < 2:
        raise InputError(
            f"found {len(hashes)} file(s) with text, expected at least 2 to split into train and validation; "
            "add files"
        )
    chosen = {name for name, value in hashes.items() if value < validation_fraction}
    by_hash = sorted(hashes, key=hashes.get)
    if not chosen:
        chosen = {by_hash[0]}
    elif len(chosen) == len(hashes):
        chosen = set(by_hash[:-1])
    return frozenset(chosen)


def split_by_file(
    documents: Sequence[Document], validation_fraction: float = 0.05, seed: int = 0
) -> tuple[list[Document], list[Document]]:
    """(train, validation): all documents of a file on the same side, and copies of a text too.

    A corpus of one file cannot be split so; its tail becomes validation: the last records of a .jsonl file,
    or the last lines of a text, as nanoGPT splits Shakespeare.

    Raises:
        InputError: no documents, or one that is too short to cut.
    """
    documents = list(documents)
    if len({document.file for document in documents}) < 2:
        return _split_tail(documents, validation_fraction)
    chosen = validation_files((document.file for document in documents), validation_fraction, seed)
    train = [document for document in documents if document.file not in chosen]
    train_texts = {document.digest() for document in train}
    validation = [
        document for document in documents if document.file in chosen and document.digest() not in train_texts
    ]
    if not validation:
        raise InputError(
            "found only copies of training texts for validation, expected other texts; add files"
        )
    return train, validation


def _split_tail(documents: list[Document], fraction: float) -> tuple[list[Document], list[Document]]:
    if not 0.0 < fraction < 1.0:
        raise InputError(f"found validation_fraction {fraction}, expected a number between 0 and 1")
    if not documents:
        raise InputError("found no documents, expected text to split into train and validation; add files")
    if len(documents) == 1:
        return _cut(documents[0], fraction)
    total = sum(len(document.text) for document in documents)
    kept, border = 0, len(documents) - 1
    for index, document in enumerate(documents[:-1]):
        kept += len(document.text)
        if kept > total * (1.0 - fraction):
            border = max(index, 1)
            break
    train, train_texts = documents[:border], {document.digest() for document in documents[:border]}
    validation = [document for document in documents[border:] if document.digest() not in train_texts]
    if not validation:
        raise InputError(
            "found only copies of training texts for validation, expected other texts; add records"
        )
    return train, validation


def _cut(document: Document, fraction: float) -> tuple[list[Document], list[Document]]:
    """One text in two, after the line that holds the border, or at the border where there are no lines."""
    border = int(len(document.text) * (1.0 - fraction))
    line_end = document.text.find("\n", border) + 1
    if 0 < line_end < len(document.text):
        border = line_end
    head, tail = document.text[:border], document.text[border:]
    if not head.strip() or not tail.strip():
        raise InputError(
            f"found only {len(document.text)} characters in {document.name}, expected enough for train "
            "and validation; add text"
        )
    name = document.file
    return [Document(f"{name}#head", head, name)], [Document(f"{name}#tail", tail, name)]
