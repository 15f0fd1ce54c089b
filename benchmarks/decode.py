"""Decoding speed of GPT-2 124m on a CPU, one request: tfgpt's export, Optimum's, CTranslate2, llama.cpp.

Goals of the project's numbers: fp32 at least 1.6 times Optimum's export of the same weights, int8 at least
2.4 times CTranslate2's int8; fp32 at least 0.95 of llama.cpp's f32 and 0.85 of what the memory allows, int8
1.15 times its q8_0, int4 1.3 times its q4_0.

Command:  python benchmarks/peers.py make optimum ctranslate2 llama_cpp
          python benchmarks/decode.py [--output benchmarks/results/NAME.json]
Setting:  one directory of random weights (random_gpt2.py) for every side, 2 threads, greedy, a prompt of 16
          tokens, 64 new ones. Steady state: the 63 tokens after the first, by the time between the first and
          the last, so that prefill does not count; the cache grows from 17 to 80 positions meanwhile. Each
          side is a process of its own that loads its own files, generates once to warm up, and is asked in
          turn. The greedy tokens of all fp32 sides have to agree, or the benchmark fails. llama.cpp's files
          are those of its own quantizer (q4_0 keeps the table in 6 bits). `memory reads` is how often a
          second 2 threads can read as many bytes as there are fp32 weights: a token needs each of them once.
Hardware: any CPU; about 5 GB of disk for the converted models (--folder keeps them for the next run).
Time:     about 6 minutes on 2 cores, two of them conversions.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import measure

PROMPT_TOKENS = 16
NEW_TOKENS = 64
PACKAGES = (
    *("tfgpt", "onnxruntime", "optimum-onnx", "transformers", "torch", "ctranslate2"),
    *("llama-cpp-python", "numpy"),
)
TFGPT_PRECISIONS = ("fp32", "fp16", "int8", "int4")
SIDES = (
    *(f"tfgpt {precision}" for precision in TFGPT_PRECISIONS),
    *("optimum fp32", "ctranslate2 fp32", "ctranslate2 int8"),
    *("llama_cpp fp32", "llama_cpp q8_0", "llama_cpp q4_0", "memory reads"),
)
GOALS = (
    ("tfgpt fp32", "optimum fp32", 1.6),
    ("tfgpt int8", "ctranslate2 int8", 2.4),
    ("tfgpt fp32", "llama_cpp fp32", 0.95),
    ("tfgpt fp32", "memory reads", 0.85),
    ("tfgpt int8", "llama_cpp q8_0", 1.15),
    ("tfgpt int4", "llama_cpp q4_0", 1.3),
)


def prepare_tfgpt(folder: Path, precision: str):
    """`tfgpt.serving.Session` on the directory that tfgpt exported."""
    from tfgpt.generation.options import GenerationOptions
    from tfgpt.serving import Session

    session = Session.open(folder / "tfgpt", precision=precision, num_threads=measure.THREADS)
    options = GenerationOptions(max_new_tokens=NEW_TOKENS, end_of_text_ids=())

    def generate(prompt, clock):
        return session.generate([prompt], options, on_token=lambda *_: clock())[0].token_ids

    return generate


def prepare_optimum(folder: Path, precision: str):
    """Optimum's `generate` on the directory that Optimum exported."""
    import onnxruntime
    import torch
    from optimum.onnxruntime import ORTModelForCausalLM
    from transformers.generation.streamers import BaseStreamer

    torch.set_num_threads(measure.THREADS)
    threads = onnxruntime.SessionOptions()
    threads.intra_op_num_threads = measure.THREADS
    model = ORTModelForCausalLM.from_pretrained(folder / "optimum", session_options=threads)
    limits = {"min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS, "do_sample": False}

    class Clock(BaseStreamer):
        """Called with the prompt first, then with every new token."""

        def __init__(self, clock):
            self.clock = clock
            self.calls = 0

        def put(self, value):
            if self.calls:
                self.clock()
            self.calls += 1

        def end(self):
            pass

    def generate(prompt, clock):
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        found = model.generate(ids, attention_mask=mask, streamer=Clock(clock), pad_token_id=50256, **limits)
        return found[0, len(prompt) :].tolist()

    return generate


def prepare_ctranslate2(folder: Path, precision: str):
    """CTranslate2's generator on the directory that its converter wrote."""
    import ctranslate2
    from transformers import AutoTokenizer

    compute_type = {"fp32": "float32", "int8": "int8"}[precision]
    directory = str(folder / f"ctranslate2-{precision}")
    generator = ctranslate2.Generator(directory, compute_type=compute_type, intra_threads=measure.THREADS)
    tokenizer = AutoTokenizer.from_pretrained(folder / "weights")

    def generate(prompt, clock):
        result = generator.generate_batch(
            [tokenizer.convert_ids_to_tokens(prompt)],
            beam_size=1,
            max_length=NEW_TOKENS,
            min_length=NEW_TOKENS,
            include_prompt_in_result=False,
            callback=lambda _: clock() or False,
        )
        return result[0].sequences_ids[0]

    return generate


def prepare_llama_cpp(folder: Path, precision: str):
    """llama.cpp through its Python binding's own calls, the best token chosen by numpy."""
    import llama_cpp
    import numpy as np

    model = llama_cpp.Llama(
        str(folder / f"llama_cpp-{precision}" / "model.gguf"),
        n_ctx=PROMPT_TOKENS + NEW_TOKENS,
        n_threads=measure.THREADS,
        n_threads_batch=measure.THREADS,
        verbose=False,
    )
    shape = (model.n_vocab(),)

    def best() -> int:
        return int(np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(model.ctx, -1), shape).argmax())

    def generate(prompt, clock):
        model.reset()
        model.eval(prompt)
        token_ids = [best()]
        clock()
        while len(token_ids) < NEW_TOKENS:
            model.eval(token_ids[-1:])
            token_ids.append(best())
            clock()
        return token_ids

    return generate


def prepare_memory():
    """How often a second all threads together read as many bytes as the weights have; NumPy's maximum."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    import random_gpt2

    sizes = [int(np.prod(shape)) for shape in random_gpt2.tensor_shapes().values()]
    parts = np.array_split(np.ones(sum(sizes), np.float32), measure.THREADS)
    pool = ThreadPoolExecutor(measure.THREADS)
    times = 16

    def measurement() -> dict:
        start = time.perf_counter()
        for _ in range(times):
            list(pool.map(np.max, parts))
        return {"value": times / (time.perf_counter() - start)}

    return measurement


PREPARATIONS = {
    "tfgpt": prepare_tfgpt,
    "optimum": prepare_optimum,
    "ctranslate2": prepare_ctranslate2,
    "llama_cpp": prepare_llama_cpp,
}


def prepare_side(side: str, folder: Path):
    """The measurement of one side: {"value": tokens per second, "token_ids": the new tokens}."""
    import random_gpt2

    name, precision = side.split()
    if name == "memory":
        return prepare_memory()
    generate = PREPARATIONS[name](folder, precision)
    prompt = random_gpt2.prompt(PROMPT_TOKENS)

    def measurement() -> dict:
        times = []
        token_ids = [int(each) for each in generate(prompt, lambda: times.append(time.perf_counter()))]
        if len(times) != NEW_TOKENS or len(token_ids) != NEW_TOKENS:
            raise SystemExit(f"found {len(times)} times and {len(token_ids)} tokens, expected {NEW_TOKENS}")
        return {"value": (NEW_TOKENS - 1) / (times[-1] - times[0]), "token_ids": token_ids}

    measurement()
    return measurement


def convert(side: str, folder: Path) -> None:
    """Makes what `side` loads, in the interpreter of its own environment. Runs before anything is timed."""
    name, precision = side.split()
    weights = str(folder / "weights")
    target = converted(side, folder)
    unfinished = target.with_name(target.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    if name == "tfgpt":
        import tfgpt_export

        # Unverified for speed: the token check below compares with two other implementations.
        tfgpt_export.export(weights, unfinished, TFGPT_PRECISIONS, verify=False, saved_model=False)
    elif name == "optimum":
        from optimum.exporters.onnx import main_export

        main_export(weights, unfinished, task="text-generation-with-past", do_validation=False)
    elif name == "llama_cpp":
        convert_to_gguf(Path(weights), unfinished, precision)
    else:
        from ctranslate2.converters import TransformersConverter

        quantization = {"fp32": None, "int8": "int8"}[precision]
        TransformersConverter(weights).convert(str(unfinished), quantization=quantization)
    unfinished.rename(target)


def convert_to_gguf(weights: Path, target: Path, precision: str) -> None:
    """model.gguf in float32, and from it what llama.cpp's own quantizer makes."""
    import gguf_gpt2
    import llama_cpp

    target.mkdir()
    path = target / "model.gguf"
    gguf_gpt2.write(weights, path)
    if precision != "fp32":
        parameters = llama_cpp.llama_model_quantize_default_params()
        parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{precision.upper()}")
        parameters.nthread = measure.THREADS
        float_path = path.rename(target / "float.gguf")
        if llama_cpp.llama_model_quantize(str(float_path).encode(), str(path).encode(), parameters) != 0:
            raise SystemExit(f"llama.cpp made no {precision} of {float_path}")
        float_path.unlink()


def converted(side: str, folder: Path) -> Path:
    name, precision = side.split()
    return folder / (f"{name}-{precision}" if name in ("ctranslate2", "llama_cpp") else name)


def command_of(side: str, folder: Path, action: str, script: str = __file__) -> list[str]:
    """The command line that converts for (`--convert`) or serves (`--side`, by `script`) a side."""
    import peers

    name = side.split()[0]
    python = sys.executable if name in ("tfgpt", "memory") else peers.python(name)
    return [str(python), script, action, side, "--folder", str(folder)]


def prepare_folder(folder: Path, sides) -> None:
    """Writes the weights and every side's converted files, as far as they are not there yet."""
    import random_gpt2

    if not (folder / "weights").exists():
        print("writing random weights ...", file=sys.stderr, flush=True)
        random_gpt2.write(folder / "weights")
    for side in sides:
        if side != "memory reads" and not converted(side, folder).exists():
            print(f"converting for {side} ...", file=sys.stderr, flush=True)
            measure.child_cost(command_of(side, folder, "--convert"))


def check_tokens(answers) -> None:
    """Raises SystemExit unless every repetition of every fp32 side gave the same greedy tokens."""
    fp32 = {name: rows for name, rows in answers.items() if name.endswith("fp32")}
    found = {name: {tuple(row["token_ids"]) for row in rows} for name, rows in fp32.items()}
    if len(set().union(*found.values())) > 1:
        lines = [f"{name}: {sorted(tokens)}" for name, tokens in found.items()]
        raise SystemExit("the greedy tokens of the fp32 sides differ:\n" + "\n".join(lines))
    if found:
        print(f"greedy tokens of {len(found)} fp32 sides agree", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    measure.add_arguments(parser, repetitions=9)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES, help="measure only these")
    parser.add_argument("--folder", type=Path, help="keep weights and converted models here")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--convert", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        return measure.serve(lambda: prepare_side(options.side, options.folder), PACKAGES)
    if options.convert:
        convert(options.convert, options.folder)
        return 0

    with tempfile.TemporaryDirectory(prefix="tfgpt-decode-") as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        prepare_folder(folder, options.sides)
        commands = {side: command_of(side, folder, "--side") for side in options.sides}
        answers, facts = measure.side_by_side(commands, options.repetitions)
    check_tokens(answers)
    rows = measure.values(answers)
    targets = [
        measure.Target(f"{ours} / {peer}", measure.ratio(rows[ours], rows[peer]), limit)
        for ours, peer, limit in GOALS
        if ours in rows and peer in rows
    ]
    facts["setting"] = {
        "prompt_tokens": PROMPT_TOKENS,
        "new_tokens": NEW_TOKENS,
        "threads": measure.THREADS,
    }
    measure.report("decoding, one request", "tokens/s", rows, targets, options.output, **facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
