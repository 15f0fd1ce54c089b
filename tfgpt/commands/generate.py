"""`tfgpt generate`: continue prompts with a model directory (Keras) or an export (onnxruntime alone)."""

from pathlib import Path

from tfgpt.commands.output import print_json
from tfgpt.errors import InputError
from tfgpt.paths import user_path


def add_arguments(parser) -> None:
    """The arguments of the command."""
    parser.add_argument("directory", metavar="MODEL_DIR|EXPORT_DIR")
    parser.add_argument("prompts", nargs="+", metavar="PROMPT", help="several prompts make one batch")
    parser.add_argument("--max-new-tokens", type=int, default=64, metavar="N")
    parser.add_argument(
        "--temperature", type=float, default=0.0, metavar="T", help="0, the default, is greedy"
    )
    parser.add_argument("--top-k", type=int, default=0, metavar="K")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P")
    parser.add_argument("--min-p", type=float, default=0.0, metavar="P")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, metavar="R")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="may be given several times"
    )
    parser.add_argument(
        "--precision", help="of an export: fp32, fp16, int8 or int4; by default the first that is there"
    )
    parser.add_argument("--threads", type=int, help="of onnxruntime; by default all cores")
    parser.add_argument(
        "--chat",
        action="store_true",
        help="each prompt is what a user says: it goes through the model's chat template",
    )
    parser.add_argument(
        "--speculate",
        type=int,
        default=0,
        metavar="N",
        help="of an export: guess up to N tokens at once from the text so far; changes the speed alone",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list, an object for each prompt")
    parser.add_argument("--logprobs", action="store_true", help="with --json: of the new tokens")
    parser.add_argument(
        "--prompt-logprobs", action="store_true", help="with --json, of an export: of the prompt's tokens"
    )
    parser.add_argument(
        "--top-logprobs",
        type=int,
        default=0,
        metavar="N",
        help="with one of those: the N most probable tokens at each place, too",
    )


def run(arguments) -> int:
    """Streams one prompt as it is written; prints several when all are done."""
    from tfgpt.generation.options import GenerationOptions

    options = GenerationOptions(
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        repetition_penalty=arguments.repetition_penalty,
        seed=arguments.seed,
        stop=tuple(arguments.stop),
        logprobs=arguments.logprobs,
        prompt_logprobs=arguments.prompt_logprobs,
        top_logprobs=arguments.top_logprobs,
        speculate=arguments.speculate,
    )
    _check_logprobs(arguments)
    generate, tokenizer = _opened(arguments)
    prompts = arguments.prompts
    if arguments.chat:
        prompts = [
            tokenizer.apply_chat_template([{"role": "user", "content": said}], add_generation_prompt=True)
            for said in prompts
        ]
    streaming = len(prompts) == 1 and not arguments.json
    shown = "" if arguments.chat else prompts[0]
    results = generate(prompts, options, _Stream(shown) if streaming else None)
    answered = list(zip(arguments.prompts, results, strict=True))
    if arguments.json:
        print_json([_to_dict(prompt, result) for prompt, result in answered])
    elif streaming:
        print()
    else:
        for prompt, result in answered:
            print(f"{prompt}{': ' if arguments.chat else ''}{result.text}\n{'-' * 20}")
    return 0


def _check_logprobs(arguments) -> None:
    if (arguments.logprobs or arguments.prompt_logprobs) and not arguments.json:
        raise InputError(
            "found --logprobs or --prompt-logprobs without --json, expected both: probabilities are printed "
            "as JSON alone; add --json"
        )
    if arguments.top_logprobs and not (arguments.logprobs or arguments.prompt_logprobs):
        raise InputError("found --top-logprobs alone, expected --logprobs or --prompt-logprobs beside it")


def _opened(arguments):
    """`generate(prompts, options, on_token)` of whatever the directory holds, and the tokenizer."""
    directory = user_path(arguments.directory)
    if not directory.is_dir():
        raise InputError(f"{directory} is not a directory: expected a model directory or an export")
    if (directory / "onnx").is_dir():
        session = _open_export(directory, arguments)
        return session.generate, session.tokenizer
    given = ("precision", "threads", "speculate", "prompt_logprobs")
    if wrong := [f"--{name.replace('_', '-')}" for name in given if getattr(arguments, name)]:
        raise InputError(f"{directory} is a model directory: {', '.join(wrong)} works with exports alone")
    return _open_model(directory)


def _open_export(directory: Path, arguments):
    from tfgpt.serving import Session
    from tfgpt.serving.export_directory import precisions_in

    there = precisions_in(directory)
    precision = arguments.precision or (there[0] if there else "fp32")
    # One answer, and then the process ends: loading a graph for long prompts takes longer than it saves.
    session = Session.open(directory, precision=precision, num_threads=arguments.threads, prompt_graph=False)
    if session.tokenizer is None:
        raise InputError(f"{directory} has no tokenizer.json: prompts in text need one")
    return session


def _open_model(directory: Path):
    from tfgpt.checkpoints.directory import read_model_config
    from tfgpt.tokenizers.loading import check_vocabulary, load_tokenizer

    tokenizer = load_tokenizer(directory)
    check_vocabulary(tokenizer, read_model_config(directory)[1].vocabulary_size, directory)
    from tfgpt.commands.backend import load_keras

    load_keras()
    from tfgpt.models.causal_lm import CausalLM

    model = CausalLM.from_pretrained(directory)

    def generate(prompts, options, on_token):
        return model.generate(prompts, options, tokenizer=tokenizer, on_token=on_token)

    return generate, tokenizer


class _Stream:
    """Writes a prompt, once it has turned out to be a possible one, and its continuation as it comes."""

    def __init__(self, prompt: str):
        self.unwritten = prompt

    def __call__(self, row: int, token_id: int, text: str) -> None:
        print(self.unwritten + text, end="", flush=True)
        self.unwritten = ""


def _to_dict(prompt: str, result) -> dict:
    asked = {
        "logprobs": result.logprobs,
        "top_logprobs": result.top_logprobs if result.logprobs is not None else None,
        "prompt_token_ids": result.prompt_ids if result.prompt_logprobs is not None else None,
        "prompt_logprobs": result.prompt_logprobs,
        "prompt_top_logprobs": result.prompt_top_logprobs,
    }
    return {
        "prompt": prompt,
        "text": result.text,
        "finish_reason": result.finish_reason,
        "prompt_tokens": len(result.prompt_ids),
        "completion_tokens": len(result.token_ids),
        "token_ids": [int(token) for token in result.token_ids],
        **{name: value for name, value in asked.items() if value is not None},
    }
