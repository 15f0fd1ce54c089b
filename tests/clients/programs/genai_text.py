"""Text through onnxruntime-genai's own tokenizer: ids, chat template, and JSON that obeys a schema.

    python genai_text.py EXPORT_DIR GRAPH_FILE REQUEST      REQUEST: {"texts", "messages", "schema", "seeds"}

Prints {"ids": [...], "decoded": [...], "chat": text, "guided": [text, ...]}.
"""

import json
import sys

import onnxruntime_genai as og
from genai_session import open_model


def guided(model: og.Model, tokenizer: og.Tokenizer, schema: str, seed: int) -> str:
    """Random text that the schema allows."""
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=120, do_sample=True, temperature=1.0, random_seed=seed)
    params.set_guidance("json_schema", schema)
    generator = og.Generator(model, params)
    prompt = tokenizer.encode("value = ")
    generator.append_tokens(prompt)
    while not generator.is_done():
        generator.generate_next_token()
    return tokenizer.decode(generator.get_sequence(0)[len(prompt) :])


def main(export_dir: str, graph_file: str, request: str) -> None:
    with open(request, encoding="utf-8") as file:
        values = json.load(file)
    model = open_model(export_dir, graph_file)
    tokenizer = og.Tokenizer(model)
    ids = [tokenizer.encode(text).tolist() for text in values["texts"]]
    found = {
        "ids": ids,
        "decoded": [tokenizer.decode(tokens) for tokens in ids],
        "chat": tokenizer.apply_chat_template(json.dumps(values["messages"]), add_generation_prompt=True),
        "guided": [guided(model, tokenizer, values["schema"], seed) for seed in values["seeds"]],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
