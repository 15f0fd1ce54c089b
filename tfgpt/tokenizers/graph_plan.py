"""What a tokenizer.json asks of the tokenizer in the graph; whatever is not understood is refused. No TF.

The `tokenizers` library works in four steps, and so does the graph:

    text -> added tokens as they are -> normalizer -> added tokens in normalized text -> pre-tokenizer -> BPE
"""

import dataclasses
import enum
import json

import tokenizers
from tokenizers import normalizers

from tfgpt.errors import InputError

# tokenizer.json of openai/gpt-oss-20b, pre_tokenizer.
O200K_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Splitting(enum.Enum):
    """How text is cut into the pieces that BPE works on."""

    GPT2 = "the regular expression of GPT-2's encoder.py"
    O200K = "the regular expression of o200k (gpt-oss)"
    BERT = "white space and punctuation (BERT's pre-tokenizer, in GPT-1)"


@dataclasses.dataclass(frozen=True)
class GraphPlan:
    """The four steps of one tokenizer.

    Fields:
        splitting: the regular expression of the pre-tokenizer.
        add_prefix_space: whether text that does not begin with a space gets one.
        normalizer: `None`, or as tokenizer.json states it: NFC or BertNormalizer with its options.
        ignore_merges: whether a piece that is a token is that token, whatever the merges say.
        end_of_word: what the token of a word's last character ends with; `None` where BPE is of bytes.
        unknown_token: what a character that has no token becomes; `None` for nothing, and for bytes.
        added_tokens: content to id of the tokens searched for in the text as it is, and of those searched
            for after normalization.
    """

    splitting: Splitting
    add_prefix_space: bool
    normalizer: dict | None
    ignore_merges: bool
    end_of_word: str | None
    unknown_token: str | None
    added_tokens: tuple[dict[str, int], dict[str, int]]


def read_plan(backend: tokenizers.Tokenizer, allow_special: bool = True) -> GraphPlan:
    """The plan of `backend`, from its own description.

    Args:
        backend: a BPE tokenizer.
        allow_special: False leaves special tokens in the text unrecognized, as `Tokenizer.encode` does.

    Raises:
        InputError: a normalizer, pre-tokenizer, model or added token that the graph cannot follow exactly.
    """
    state = json.loads(backend.to_str())
    for name in ("truncation", "padding"):
        if state.get(name) is not None:
            raise refusal(f"stored {name}", "none; call no_truncation() and no_padding() on the tokenizer")
    normalizer = state.get("normalizer")
    if normalizer and normalizer.get("type") not in ("NFC", "BertNormalizer"):
        raise refusal(f"normalizer {normalizer.get('type')}", "none, NFC or BERT's")
    model = state["model"]
    splitting, add_prefix_space = _read_pre_tokenizer(state.get("pre_tokenizer"))
    of_characters = splitting is Splitting.BERT
    _check_model(model, of_characters)
    return GraphPlan(
        splitting=splitting,
        add_prefix_space=add_prefix_space,
        normalizer=normalizer,
        ignore_merges=bool(model.get("ignore_merges")),
        end_of_word=(model.get("end_of_word_suffix") or "") if of_characters else None,
        unknown_token=model.get("unk_token") if of_characters else None,
        added_tokens=_read_added_tokens(state.get("added_tokens", []), allow_special, backend.normalizer),
    )


def refusal(found: str, expected: str) -> InputError:
    """The one line for what the graph cannot do."""
    return InputError(
        f"found a tokenizer with {found}, expected {expected}; encode such text outside of the graph"
    )


def _check_model(model: dict, of_characters: bool) -> None:
    if model.get("type", "BPE") != "BPE":
        raise refusal(f"a {model['type']} model", "BPE or a CharacterTokenizer")
    # An unknown token may be stated of bytes: it never comes up where each has a token, as is checked.
    others = ("fuse_unk",) if of_characters else ("end_of_word_suffix",)
    for name in ("dropout", "continuing_subword_prefix", "byte_fallback", *others):
        if model.get(name):
            raise refusal(f"{name} {model[name]!r} in its model", "BPE without it")


def _read_pre_tokenizer(description: dict | None) -> tuple[Splitting, bool]:
    """The regular expression, and whether a space is put before the text."""
    kind = description.get("type") if description else None
    if kind == "BertPreTokenizer":
        return Splitting.BERT, False
    if kind == "ByteLevel" and description.get("use_regex", True):
        return Splitting.GPT2, bool(description["add_prefix_space"])
    if kind == "Sequence" and len(description["pretokenizers"]) == 2:
        split, level = description["pretokenizers"]
        if split.get("type") == "Split" and level.get("type") == "ByteLevel":
            return _read_split(split, level)
    raise refusal(
        f"pre-tokenizer {_outline(description)}", "ByteLevel, o200k's Split with ByteLevel, or BERT's"
    )


def _read_split(split: dict, level: dict) -> tuple[Splitting, bool]:
    isolated = split["behavior"] == "Isolated" and not split["invert"]
    matches_kept = split["behavior"] == "Removed" and split["invert"]
    if split["pattern"].get("Regex") != O200K_PATTERN:
        raise refusal(f"the pre-tokenizer's pattern {str(split['pattern'])[:60]!r}", "o200k's")
    if not (isolated or matches_kept):
        raise refusal(f"a Split that is {split['behavior']}", "one that is Isolated")
    # With its own expression, or a space put before every piece, ByteLevel would cut once more.
    if level.get("use_regex", True) or level["add_prefix_space"]:
        raise refusal("a Split before a ByteLevel that splits too", "use_regex and add_prefix_space false")
    return Splitting.O200K, False


def _outline(description: dict | None) -> str:
    if not description:
        return "none"
    inner = [each.get("type", "?") for each in description.get("pretokenizers", [])]
    return f"{description.get('type')} {inner}" if inner else str(description.get("type"))


def _read_added_tokens(
    added: list[dict], allow_special: bool, normalizer: normalizers.Normalizer | None
) -> tuple[dict[str, int], dict[str, int]]:
    stages: tuple[dict[str, int], dict[str, int]] = ({}, {})
    ignored = []
    for token in added:
        for flag in ("single_word", "lstrip", "rstrip"):
            if token[flag]:
                raise refusal(f"the added token {token['content']!r} with {flag}", "added tokens without")
        content, stage = token["content"], stages[bool(token["normalized"])]
        if token["normalized"] and normalizer:
            content = normalizer.normalize_str(content)
        if token["special"] and not allow_special:
            ignored.append(content)
            continue
        # The library itself is of two minds about such a token.
        if not content or content in stage:
            raise refusal(
                f"the added token {token['content']!r}, which is {content!r} when normalized",
                "added tokens that are neither nothing nor each other then",
            )
        stage[content] = token["id"]
    # The library searches for special tokens even then, and passes over what it finds: a token that
    # overlaps one would be found here, and not there.
    for special in ignored:
        for content in (*stages[0], *stages[1]):
            if _overlap(special, content):
                raise refusal(
                    f"the added token {content!r}, which overlaps the special {special!r}",
                    "no overlap when special tokens are left unrecognized",
                )
    return stages


def _overlap(left: str, right: str) -> bool:
    """Whether an occurrence of one can share a character with an occurrence of the other."""
    if left in right or right in left:
        return True
    lengths = range(1, min(len(left), len(right)))
    return any(left[-n:] == right[:n] or right[-n:] == left[:n] for n in lengths)
