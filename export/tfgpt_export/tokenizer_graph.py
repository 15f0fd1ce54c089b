"""The tokenizer as two ONNX graphs of one operator each, for runtimes with onnxruntime-extensions.

    tokenizer.onnx      input_text string [batch]        -> input_ids, attention_mask int64 [batch, length]
    detokenizer.onnx    ids int64 [batch, length]        -> str string [batch]

Operators `GPT2Tokenizer` and `BpeDecoder` of domain ai.onnx.contrib, as
`onnxruntime_extensions.gen_processing_models` makes them; neither it nor transformers is needed here. Rows of
a batch are padded on the right.

The operators are one pipeline: GPT-2's. A tokenizer that does anything else gets no files; see `refusal`. Two
control characters are read otherwise (0.15.2): what follows a NUL (U+0000) is dropped, up to the next
<|endoftext|>, and a NEL (U+0085) is a symbol, not white space, when the text is cut.
"""

import json
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from tfgpt._version import __version__
from tfgpt.errors import InputError
from tfgpt.replacing import replacing_file
from tfgpt.tokenizers.base import Tokenizer
from tfgpt.tokenizers.byte_pair import BytePairTokenizer, byte_characters
from tfgpt.tokenizers.graph_plan import Splitting, read_plan
from tfgpt.tokenizers.vocabulary_files import END_OF_TEXT, merges_of

GRAPHS = TOKENIZER_GRAPH, DETOKENIZER_GRAPH = "tokenizer.onnx", "detokenizer.onnx"
DOMAIN = "ai.onnx.contrib"
# The lowest that the runtimes in use read; the operators of the domain have version 1 alone.
OPSET, IR_VERSION = 17, 8


def refusal(tokenizer: Tokenizer) -> str | None:
    """Why the operators cannot be this tokenizer; `None` where they are."""
    if not isinstance(tokenizer, BytePairTokenizer):
        return f"the operators are byte-level BPE, the tokenizer is of the class {type(tokenizer).__name__}"
    try:
        plan = read_plan(tokenizer.backend)
    except InputError as error:
        return str(error)
    if plan.splitting is not Splitting.GPT2:
        return f"the operator cuts text by the regular expression of GPT-2, not by {plan.splitting.value}"
    if plan.add_prefix_space:
        return "the operator puts no space before a text"
    if plan.normalizer:
        return f"the operator does not normalize text ({plan.normalizer['type']})"
    if tokenizer.missing_bytes:
        return f"{len(tokenizer.missing_bytes)} of 256 bytes are not in the vocabulary"
    return _refused_vocabulary(tokenizer)


def _refused_vocabulary(tokenizer: BytePairTokenizer) -> str | None:
    backend = tokenizer.backend
    added = backend.get_added_tokens_decoder()
    if END_OF_TEXT not in {token.content for token in added.values()}:
        return f"the operator takes {END_OF_TEXT} for a special token, which it is not here"
    if others := [token.content for token in added.values() if token.content != END_OF_TEXT]:
        # Given as its attribute added_token they are found, but of a text that ends within one ("... <|ext")
        # the operator (0.15.2) loses the end.
        return f"the operator reads no added token but {END_OF_TEXT}, and the tokenizer has {others[0]!r}"
    if len(_tokens(tokenizer)) != tokenizer.vocabulary_size:
        return "the ids of the vocabulary have gaps"
    # The operator takes a piece that is a token for that token, whatever the merges say.
    model = backend.model
    for token, token_id in backend.get_vocab(with_added_tokens=False).items():
        if token_id not in added and [each.id for each in model.tokenize(token)] != [token_id]:
            return f"the merges do not make the token {token!r}, which the operator finds as it is"
    return None


def write_tokenizer_graphs(tokenizer: Tokenizer, directory: Path) -> str | None:
    """Writes both files where they are exact; else nothing, and returns why."""
    reason = refusal(tokenizer)
    if reason is None:
        for name, model in ((TOKENIZER_GRAPH, encoder(tokenizer)), (DETOKENIZER_GRAPH, decoder(tokenizer))):
            with replacing_file(directory / name) as temporary:
                temporary.write_bytes(model.SerializeToString())
    return reason


def encoder(tokenizer: BytePairTokenizer) -> onnx.ModelProto:
    """Text to ids."""
    model = json.loads(tokenizer.backend.to_str())["model"]
    node = helper.make_node(
        "GPT2Tokenizer",
        ["input_text"],
        ["input_ids", "attention_mask"],
        domain=DOMAIN,
        model_name="GPT2",
        vocab=json.dumps(_tokens(tokenizer), separators=(",", ":")),
        merges="\n".join(" ".join(pair) for pair in merges_of(model)),
    )
    rows = ["batch_size", "sequence_length"]
    return _model(
        [node],
        [helper.make_tensor_value_info("input_text", TensorProto.STRING, rows[:1])],
        [helper.make_tensor_value_info(name, TensorProto.INT64, rows) for name in node.output],
    )


def decoder(tokenizer: BytePairTokenizer) -> onnx.ModelProto:
    """Ids to text; special tokens are written out.

    The operator (0.15.2) divides by the number of ids, and none at all ended the process: every row gets one
    more, which stands for no text.
    """
    names = {token_id: token for token, token_id in _tokens(tokenizer).items()}
    added = tokenizer.backend.get_added_tokens_decoder()
    nothing = tokenizer.vocabulary_size
    pad = helper.make_node("Pad", ["ids", "one_column", "nothing"], ["padded"])
    node = helper.make_node(
        "BpeDecoder",
        ["padded"],
        ["str"],
        domain=DOMAIN,
        id_vocab="\n".join(names[token_id] for token_id in sorted(names)),
        byte_decoder="\n".join(f"{ord(each)}\t{byte}" for byte, each in enumerate(byte_characters())),
        added_tokens="\n".join(
            [*(f"{token_id}\t{token.content}" for token_id, token in added.items()), f"{nothing}\t"]
        ),
        all_special_ids="\n".join(str(token_id) for token_id in sorted(tokenizer.special_token_ids)),
        skip_special_tokens=0,
    )
    rows = ["batch_size", "sequence_length"]
    constants = [
        helper.make_tensor("one_column", TensorProto.INT64, [4], [0, 0, 0, 1]),
        helper.make_tensor("nothing", TensorProto.INT64, [], [nothing]),
    ]
    return _model(
        [pad, node],
        [helper.make_tensor_value_info("ids", TensorProto.INT64, rows)],
        [helper.make_tensor_value_info("str", TensorProto.STRING, rows[:1])],
        constants,
    )


def _tokens(tokenizer: BytePairTokenizer) -> dict[str, int]:
    return tokenizer.backend.get_vocab(with_added_tokens=True)


def _model(nodes, inputs, outputs, constants=()) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "tfgpt_" + nodes[-1].op_type.lower(), inputs, outputs, list(constants))
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    model.producer_name, model.producer_version = "tfgpt", __version__
    return model
