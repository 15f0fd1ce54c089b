"""Recipes: YAML with typed settings, and one clear line for every mistake."""

from pathlib import Path

import pytest

from tfgpt.errors import InputError
from tfgpt.recipes import load_recipe, make_recipe, recipe_values

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs/pretrain").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_file_is_read_and_states_only_differences(path):
    recipe = load_recipe(path)
    values, defaults = recipe_values(recipe), recipe_values(make_recipe({}))
    assert make_recipe(values) == recipe
    import yaml

    stated = yaml.safe_load(path.read_text())
    for section, settings in stated.items():
        for name in settings if isinstance(settings, dict) else ():
            # Numbers that matter to a published setting may be stated though they are the default.
            if values[section][name] == defaults[section].get(name):
                assert (section, name) in {
                    ("training", "steps"),
                    ("optimizer", "learning_rate"),
                }
    header = path.read_text().splitlines()[:12]
    for word in ("Source:", "Command:", "Hardware:", "Time:", "Expected:"):
        assert any(word in line for line in header), word


def test_every_pretraining_file_makes_a_model():
    from tfgpt.training.job import make_config

    class Tokenizer:
        vocabulary_size, end_of_text_id = 65, None

    for path in CONFIGS:
        assert make_config(load_recipe(path), Tokenizer).num_layers in (4, 12)


def test_overrides(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("training: {steps: 500}\n")
    recipe = load_recipe(
        path,
        [
            "training.batch_size=3",
            "optimizer.learning_rate=1e-3",
            "optimizer.clip_norm=null",
            "optimizer.no_decay=[a, b]",
            "model.num_layers=2",
            "output=some/where",
        ],
    )
    assert (recipe.training.steps, recipe.training.batch_size) == (500, 3)
    assert (recipe.optimizer.learning_rate, recipe.optimizer.clip_norm) == (1e-3, None)
    assert recipe.optimizer.no_decay == ["a", "b"]
    assert (recipe.model.fields, recipe.output) == ({"num_layers": 2}, "some/where")


def test_an_empty_file_is_all_defaults(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("# nothing\n")
    assert load_recipe(path) == make_recipe({})


@pytest.mark.parametrize(
    "text",
    [
        "training: {steps: 1}",
        "training: {steps: 100}",
        "training: {steps: 999, steps_per_execution: 7}",
        "training: {validate_every: 100, checkpoint_every: 250}",
        "training: {steps: 7, validate_every: 3000, checkpoint_every: 2}",
    ],
)
def test_any_number_of_steps_and_intervals_will_do(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    load_recipe(path)


def test_warmup_follows_the_steps_unless_stated():
    warmup = {steps: make_recipe({"training": {"steps": steps}}).warmup_steps for steps in (1, 99, 500, 9000)}
    assert warmup == {1: 0, 99: 9, 500: 50, 9000: 100}
    assert make_recipe({"schedule": {"warmup_steps": 0}}).warmup_steps == 0


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("training: {stepz: 3}", ["unknown key 'training.stepz'", "did you mean 'steps'"]),
        ("modle: {size: 124m}", ["unknown key 'modle'", "did you mean 'model'"]),
        ("model: {num_layer: 3}", ["unknown key 'model.num_layer'", "did you mean 'num_layers'"]),
        ("training: {steps: '10'}", ["training.steps: '10'", "expected a whole number"]),
        ("training: {steps: 10.5}", ["training.steps: 10.5", "expected a whole number"]),
        ("training: {steps: true}", ["training.steps: True", "expected a whole number"]),
        ("training: {steps: 0}", ["training.steps: 0", "greater than or equal to 1"]),
        ("training: {jit: maybe}", ["training.jit: 'maybe'", "true or false or 'auto'"]),
        ("training: {precision: fp32}", ["training.precision: 'fp32'", "'mixed_bfloat16'"]),
        ("optimizer: {learning_rate: .nan}", ["optimizer.learning_rate: nan", "finite"]),
        ("optimizer: {learning_rate: fast}", ["optimizer.learning_rate: 'fast'", "expected a number"]),
        ("optimizer: {no_decay: [1]}", ["optimizer.no_decay.0: 1", "expected text"]),
        ("training: 3", ["training: 3", "a section with keys"]),
        ("output: {a: 1}", ["output: a section with keys", "expected text"]),
        ("- 1", ["[1]", "expected keys"]),
        ("training:\n  steps: 10\n  steps: 20", ["line 3", "'steps' twice"]),
        ("training: [1,\n", ["broken YAML", "line"]),
        ("a: b: c", ["broken YAML", "line 1"]),
        ("1: 2", ["the key 1"]),
        ("training: {micro_batches: 3}", ["training.batch_size 16", "multiple of training.micro_batches 3"]),
        ("schedule: {warmup_steps: 2000}", ["schedule.warmup_steps 2000", "fewer than the 2000"]),
    ],
)
def test_mistakes_are_one_line_with_file_and_key(tmp_path, text, parts):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("training.steps", "expected key.path=value"),
        ("=3", "expected key.path=value"),
        ("training..steps=3", "expected key.path=value"),
        ("output.x=3", "is a value, not a section"),
        ("training.steps=[1", "broken YAML in --set"),
        ("training.stepz=1", "did you mean 'steps'"),
    ],
)
def test_mistakes_in_overrides(tmp_path, override, part):
    path = tmp_path / "recipe.yaml"
    path.write_text("output: out\n")
    with pytest.raises(InputError) as caught:
        load_recipe(path, [override])
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_not_there_or_not_text(tmp_path):
    with pytest.raises(InputError, match="found no file"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="unreadable"):
        load_recipe(tmp_path / "binary.yaml")
    with pytest.raises(InputError, match="unreadable"):
        load_recipe(tmp_path)


def test_reading_loads_no_tensorflow(python):
    code = "import sys, tfgpt.recipes; print('tensorflow' in sys.modules, 'keras' in sys.modules)"
    assert python(code).split() == ["False", "False"]
