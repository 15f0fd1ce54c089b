"""What stands beside a vocabulary: roles of special tokens, added tokens, chat templates. No TF.

    tokenizer_config.json            all of it, since transformers 4.34 ("added_tokens_decoder")
    special_tokens_map.json          the roles, in older directories
    added_tokens.json                added tokens and their ids, in older directories
    chat_template.jinja              the chat template; wins over the one in tokenizer_config.json
    additional_chat_templates/       further ones, NAME.jinja

Reference: transformers' tokenization_utils_base.py, `_from_pretrained` and `save_chat_templates`.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import tokenizers

from tfgpt.errors import InputError
from tfgpt.files import read_json, write_text
from tfgpt.tokenizers.file_names import (
    ADDED_TOKENS_FILE,
    CHAT_TEMPLATE_FILE,
    CHAT_TEMPLATE_FOLDER,
    CONFIGURATION_FILE,
    SPECIAL_TOKENS_FILE,
    TOKENIZER_FILE,
)

# SPECIAL_TOKENS_ATTRIBUTES of transformers.
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# These classes of transformers build their pre-tokenizer from tokenizer_config.json's `add_prefix_space`.
_CLASSES_THAT_PREFIX = ("GPT2Tokenizer", "GPTNeoXTokenizer")
_PLAIN_NAME = re.compile(r"[\w-][\w. -]*")


@dataclass(frozen=True)
class TokenizerSettings:
    """The settings of one tokenizer.

    Attributes:
        special_tokens: {role: token}, such as {"eos_token": "<|endoftext|>"}.
        extra_special_tokens: special tokens without a role.
        added_tokens: {id: token} that the vocabulary file need not know.
        add_prefix_space: whether a space goes before every text, where that is stated; else None.
        adds_tokens: whether the files ask for a token before or after every text.
        chat_templates: {name: Jinja template}; the one that is used unless asked otherwise is "default".
    """

    special_tokens: Mapping[str, str] = field(default_factory=dict)
    extra_special_tokens: tuple[str, ...] = ()
    added_tokens: Mapping[int, tokenizers.AddedToken] = field(default_factory=dict)
    add_prefix_space: bool | None = None
    adds_tokens: bool = False
    chat_templates: Mapping[str, str] = field(default_factory=dict)


def read_settings(directory: str | os.PathLike) -> TokenizerSettings:
    """The settings in `directory`; all of its files may be missing.

    Raises:
        InputError: a file that is no JSON, or holds something of another kind than transformers writes.
    """
    directory = Path(directory)
    values = _optional_json(directory / CONFIGURATION_FILE)
    decoder = values.get("added_tokens_decoder")
    if decoder is None:
        values |= _optional_json(directory / SPECIAL_TOKENS_FILE)
    try:
        roles = {role: _content(values[role]) for role in ROLES if values.get(role) is not None}
        extra = values.get("extra_special_tokens") or values.get("additional_special_tokens") or []
        extra = tuple(_content(token) for token in (extra.values() if isinstance(extra, dict) else extra))
        special = {*roles.values(), *extra}
        if decoder is not None:
            added = {int(token_id): _added_token(token) for token_id, token in decoder.items()}
        else:
            added = {
                int(token_id): tokenizers.AddedToken(
                    content, normalized=content not in special, special=content in special
                )
                for content, token_id in _optional_json(directory / ADDED_TOKENS_FILE).items()
            }
        return TokenizerSettings(
            special_tokens=roles,
            extra_special_tokens=extra,
            added_tokens=added,
            add_prefix_space=_add_prefix_space(values),
            # A tokenizer.json says itself what it adds; without one these flags do.
            adds_tokens=not (directory / TOKENIZER_FILE).is_file()
            and bool(values.get("add_bos_token") or values.get("add_eos_token")),
            chat_templates=_chat_templates(directory, values.get("chat_template")),
        )
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"found settings in {directory / CONFIGURATION_FILE} that are not a tokenizer's ({error}), "
            "expected them as transformers writes them; copy the file again"
        ) from None


def write_chat_templates(directory: Path, templates: Mapping[str, str]) -> None:
    """Writes the templates as files of their own, as transformers does."""
    for name, template in templates.items():
        if name == "default":
            write_text(directory / CHAT_TEMPLATE_FILE, template)
        elif _PLAIN_NAME.fullmatch(name):
            write_text(directory / CHAT_TEMPLATE_FOLDER / f"{name}.jinja", template)
        else:
            raise InputError(f"found a chat template named {name!r}, expected a name that can be a file's")


def apply_settings(backend: tokenizers.Tokenizer, settings: TokenizerSettings, source) -> None:
    """Adds the added tokens and marks the special ones, as transformers does when it loads.

    A special token that is in no vocabulary is left out, where transformers would give it an id for which
    the model has no embedding.

    Raises:
        InputError: an added token whose id is not the next one, or tokens that go around every text.
    """
    there = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    for token_id, token in sorted(settings.added_tokens.items()):
        if token.content not in there:
            backend.add_tokens([token])
            there[token.content] = token
        if backend.token_to_id(token.content) != token_id:
            raise InputError(
                f"found {token.content!r} with id {token_id} among the added tokens of {source}, expected id "
                f"{backend.token_to_id(token.content)} after the vocabulary; take all tokenizer files from "
                "the same model"
            )
    # An added token becomes special by a role, not by being named among the extra ones.
    wanted = [
        *settings.special_tokens.values(),
        *(t for t in settings.extra_special_tokens if t not in there),
    ]
    for content in wanted:
        if backend.token_to_id(content) is not None and not (content in there and there[content].special):
            backend.add_special_tokens([_special(there.get(content), content)])
    if settings.add_prefix_space is not None and isinstance(
        backend.pre_tokenizer, tokenizers.pre_tokenizers.ByteLevel
    ):
        pre_tokenizer = backend.pre_tokenizer
        pre_tokenizer.add_prefix_space = settings.add_prefix_space
        backend.pre_tokenizer = pre_tokenizer
    if settings.adds_tokens or backend.num_special_tokens_to_add(is_pair=False):
        raise InputError(
            f"found a tokenizer in {source} that puts tokens around every text (its post_processor, or "
            "add_bos_token), expected a GPT's, which adds none; remove that setting and write the token into "
            "the text where it is wanted"
        )


def _optional_json(path: Path) -> dict:
    return read_json(path) if path.is_file() else {}


def _content(token) -> str:
    content = token["content"] if isinstance(token, dict) else token  # an AddedToken written out
    if not isinstance(content, str):
        raise TypeError(f"a token is {content!r}")
    return content


def _special(token: tokenizers.AddedToken | None, content: str) -> tokenizers.AddedToken:
    if token is None:
        return tokenizers.AddedToken(content, special=True, normalized=False)
    return tokenizers.AddedToken(
        content,
        special=True,
        normalized=token.normalized,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
    )


def _added_token(token: dict) -> tokenizers.AddedToken:
    flags = {
        name: bool(token[name]) for name in ("single_word", "lstrip", "rstrip", "special") if name in token
    }
    return tokenizers.AddedToken(
        _content(token), normalized=bool(token.get("normalized", not token.get("special", False))), **flags
    )


def _add_prefix_space(values: dict) -> bool | None:
    name = str(values.get("tokenizer_class", "")).removesuffix("Fast")
    return (
        bool(values["add_prefix_space"])
        if name in _CLASSES_THAT_PREFIX and "add_prefix_space" in values
        else None
    )


def _chat_templates(directory: Path, stated) -> dict[str, str]:
    files = {path.stem: path for path in sorted((directory / CHAT_TEMPLATE_FOLDER).glob("*.jinja"))}
    if (directory / CHAT_TEMPLATE_FILE).is_file():
        files["default"] = directory / CHAT_TEMPLATE_FILE
    if files:
        return {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    if isinstance(stated, list):
        stated = {template["name"]: template["template"] for template in stated}
    templates = {"default": stated} if isinstance(stated, str) else dict(stated or {})
    wrong = next((name for name, text in templates.items() if not isinstance(text, str)), None)
    if wrong is not None:
        raise TypeError(f"the chat template {wrong!r} is no text")
    return templates
