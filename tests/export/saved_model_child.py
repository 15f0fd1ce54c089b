"""Run by test_saved_model.py in a process of its own: SavedModels with TensorFlow and nothing else.

    python saved_model_child.py FOLDER...

Each folder has `model/` and `request.npz`; what the signatures give is left there as `answer.npz`.
"""

import sys
from pathlib import Path

FOREIGN = ("tfgpt", "tfgpt_export", "keras", "keras_hub", "tensorflow_text", "tokenizers")
for name in FOREIGN:
    sys.modules[name] = None  # importing it is an error from here on

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

INTEGERS = ("max_new_tokens", "top_k", "seed", "end_of_text_id")
NUMBERS = ("temperature", "top_p")


def options(rows, **changes):
    """Greedy and ten tokens unless told otherwise, one number for each row."""
    values = {"max_new_tokens": 10, "top_k": 0, "seed": 0, "end_of_text_id": -1, "temperature": 0, "top_p": 1}
    values = {name: np.broadcast_to(value, rows) for name, value in {**values, **changes}.items()}
    return {name: tf.constant(values[name], tf.int64) for name in INTEGERS} | {
        name: tf.constant(values[name], tf.float32) for name in NUMBERS
    }


def generated(model, token_ids, mask, **changes):
    """The new tokens of each row, a row of `token_ids` padded with -1."""
    found = model.signatures["generate"](
        input_ids=tf.constant(token_ids),
        attention_mask=tf.constant(mask),
        **options(len(token_ids), **changes),
    )
    tokens, lengths = found["token_ids"].numpy(), found["lengths"].numpy()
    return np.where(np.arange(tokens.shape[1]) < lengths[:, None], tokens, -1)


def answer(model, request):
    """Every signature that the model has, by the name of the test that reads it."""
    token_ids, mask, drawn = request["token_ids"], request["mask"], request["drawn"]
    drawn = {"temperature": drawn[0], "top_k": int(drawn[1]), "top_p": drawn[2]}
    seeds = np.arange(len(token_ids))
    found = {"greedy": generated(model, token_ids, mask)}
    for row in range(len(token_ids)):
        one = slice(row, row + 1)
        only = token_ids[one][mask[one] == 1][None]  # the prompt without its padding
        found[f"greedy_{row}"] = generated(model, only, np.ones_like(only))
        found[f"drawn_{row}"] = generated(model, only, np.ones_like(only), seed=seeds[one], **drawn)
    found["drawn"] = generated(model, token_ids, mask, seed=seeds, **drawn)
    found["drawn_again"] = generated(model, token_ids, mask, seed=seeds, **drawn)
    found["other_seeds"] = generated(model, token_ids, mask, seed=seeds + 10, **drawn)
    end = int(found["greedy"][0, 4])
    found["ended"] = generated(model, token_ids, mask, end_of_text_id=end)
    ids, real = tf.constant(token_ids), tf.constant(mask)
    whole = model.signatures["serving_default"](input_ids=ids, attention_mask=real)
    found["logits"] = whole["logits"].numpy()
    if "generate_text" in model.signatures:
        found |= texts(model, request)
    return found


def texts(model, request):
    """What the signatures of texts give; strings as bytes with a mark, which NumPy does not strip."""
    given = tf.constant(request["texts"].tolist())
    encoded = model.signatures["encode"](texts=given)
    lengths = tf.reduce_sum(encoded["attention_mask"], axis=1)
    decoded = model.signatures["decode"](token_ids=encoded["input_ids"], lengths=lengths)
    rows = len(request["texts"])
    end = int(request["end"])
    text = model.signatures["generate_text"](texts=given, **options(rows, end_of_text_id=end))
    drawn = options(rows, end_of_text_id=end, temperature=1.0, seed=np.arange(rows))
    drawn = model.signatures["generate_text"](texts=given, **drawn)
    outputs = {"decoded": decoded, "text": text, "drawn_text": drawn}
    return {
        "encoded": encoded["input_ids"].numpy(),
        "encoded_mask": encoded["attention_mask"].numpy(),
        **{
            name: np.array([each.decode() + "|" for each in output["texts"].numpy()])
            for name, output in outputs.items()
        },
    }


def main(folders):
    for folder in map(Path, folders):
        model = tf.saved_model.load(str(folder / "model"))
        with np.load(folder / "request.npz", allow_pickle=False) as request:
            np.savez(folder / "answer.npz", **answer(model, request))
    assert all(sys.modules[name] is None for name in FOREIGN)


if __name__ == "__main__":
    main(sys.argv[1:])
