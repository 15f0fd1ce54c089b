"""README.md of an export names what is there, and its programs run."""

import os
import re
import shutil
import subprocess
import sys

import pytest

PROMPT = "def main("


@pytest.fixture(scope="module")
def handed_over(tmp_path_factory):
    """The export of a model with a tokenizer, as an application team receives it."""
    import keras
    from tfgpt_export import export

    from tfgpt.config import ModelConfig
    from tfgpt.models.causal_lm import CausalLM
    from tfgpt.tokenizers.byte_pair import BytePairTokenizer

    folder = tmp_path_factory.mktemp("handover")
    tokenizer = BytePairTokenizer.train(["def main(argument): return argument\n"] * 3, 270)
    end = tokenizer.end_of_text_id
    keras.utils.set_random_seed(0)
    config = ModelConfig(tokenizer.vocabulary_size, 64, 2, 2, 16, bos_token_id=end, eos_token_id=end)
    CausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model", config.context_length)
    (folder / "model/generation_config.json").unlink()
    export(folder / "model", folder / "export", ("int8",), saved_model=False, verify=False)
    return folder / "export"


def blocks(directory):
    readme = (directory / "README.md").read_text(encoding="utf-8")
    return dict(re.findall(r"```(\w+)\n(.*?)```", readme, flags=re.S))


def test_the_readme_names_only_what_is_there(handed_over, exported):
    for directory in (handed_over, exported.output):
        readme = (directory / "README.md").read_text(encoding="utf-8")
        prose = re.sub(r"```.*?```", "", readme, flags=re.S)
        named = re.findall(r"`([\w./-]+\.[a-z_]+|saved_model/1)`", prose)
        assert len(named) > 5 and "onnx/model_quantized.onnx" in named
        for name in named:
            assert (directory / name).exists() or (directory / "onnx" / name).exists(), name
        files = re.findall(r'"((?:onnx/|\w+\.json)[\w./]*)"', "".join(blocks(directory).values()))
        for name in files:
            assert (directory / name).exists(), name


def test_the_readme_has_this_models_numbers(handed_over):
    readme = (handed_over / "README.md").read_text(encoding="utf-8")
    assert "2 layers of 2 heads, 16 wide, a vocabulary of 270 tokens" in readme
    assert "at most 64 tokens" in readme and "The end of a text is token" not in readme
    assert re.search(r"the end of a text is token \d+", readme)
    assert "**Not verified**" in readme


def test_there_is_a_program_for_each_language(handed_over):
    programs = blocks(handed_over)
    assert set(programs) == {"python", "js", "cpp", "csharp"}
    for program in programs.values():
        lines = [line for line in program.splitlines() if line.strip()]
        assert 8 <= len(lines) <= 20
    assert 'dtype: "q8"' in programs["js"]


def test_the_python_program_runs_and_continues_the_prompt(handed_over, tmp_path):
    program = blocks(handed_over)["python"]
    assert "onnx/model_quantized.onnx" in program
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=handed_over,
        env=clean,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(PROMPT) and len(done.stdout) > len(PROMPT) + 1


def test_the_cpp_program_compiles_where_the_headers_are(handed_over, tmp_path):
    folder = os.environ.get("ORT_GENAI_INCLUDE")
    if not folder or not shutil.which("g++"):
        pytest.skip("set ORT_GENAI_INCLUDE to the folder with ort_genai.h of an onnxruntime-genai release")
    (tmp_path / "program.cpp").write_text(blocks(handed_over)["cpp"])
    command = ["g++", "-std=c++17", "-fsyntax-only", f"-I{folder}", str(tmp_path / "program.cpp")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_generation_config_is_always_there(handed_over):
    import json

    config = json.loads((handed_over / "generation_config.json").read_text())
    assert set(config) == {"bos_token_id", "eos_token_id"}


def test_a_model_without_a_tokenizer_has_no_programs(exported):
    assert blocks(exported.output) == {}
    assert "came without a tokenizer" in (exported.output / "README.md").read_text(encoding="utf-8")
