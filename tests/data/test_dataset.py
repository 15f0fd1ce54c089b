"""tf.data over shards: the same elements as numpy, from any start, over any number of workers."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from tfgpt.data import dataset as dataset_module
from tfgpt.data.dataset import evaluation_batch, evaluation_dataset, training_batch, training_dataset
from tfgpt.data.packing import write_shards
from tfgpt.data.text import Document
from tfgpt.errors import InputError
from tfgpt.tokenizers.byte_pair import BytePairTokenizer
from tfgpt.tokenizers.character import CharacterTokenizer

LENGTH, BATCH = 8, 6


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """501 tokens in shards of 100: every token differs from those around it."""
    texts = ["".join(chr(0x4E00 + number) for number in range(500))]
    tokenizer = BytePairTokenizer.train(texts, vocabulary_size=257)
    documents = [Document("a", texts[0][:100]), Document("b", texts[0][100:166])]
    return write_shards(documents, tokenizer, tmp_path_factory.mktemp("data") / "shards", shard_tokens=100)


@pytest.fixture(params=["in memory", "on disk"])
def storage(request, monkeypatch):
    if request.param == "on disk":
        monkeypatch.setattr(dataset_module, "IN_MEMORY_BYTES", 0)


def take(dataset, count):
    return [
        tuple(np.asarray(part) for part in element) for element in dataset.take(count).as_numpy_iterator()
    ]


def same(first, second):
    return len(first) == len(second) and all(
        np.array_equal(a, b) and a.dtype == b.dtype
        for x, y in zip(first, second, strict=True)
        for a, b in zip(x, y, strict=True)
    )


@pytest.mark.parametrize("start_step", [0, 70, 123_456])
def test_elements_are_a_function_of_seed_and_step(shards, storage, start_step):
    dataset = training_dataset(shards, LENGTH, BATCH, seed=11, start_step=start_step)
    expected = [training_batch(shards, start_step + k, LENGTH, BATCH, seed=11) for k in range(150)]
    assert same(take(dataset, 150), expected)
    assert not same(
        take(training_dataset(shards, LENGTH, BATCH, seed=12, start_step=start_step), 150), expected
    )


def test_batches_are_windows_of_the_stream(shards):
    stream = shards.all_tokens().astype(np.int32)
    windows = {tuple(stream[start : start + LENGTH + 1]) for start in range(len(stream) - LENGTH)}
    seen = np.zeros(len(stream), bool)
    for token_ids, labels in take(training_dataset(shards, LENGTH, BATCH), 100):
        assert token_ids.shape == labels.shape == (BATCH, LENGTH)
        assert np.array_equal(token_ids[:, 1:], labels[:, :-1])
        for row in np.concatenate([token_ids, labels[:, -1:]], axis=1):
            assert tuple(row) in windows
    for step in range(1000):
        plan = dataset_module.WindowPlan(shards.num_tokens, LENGTH, 0)
        for start in plan.starts(step * BATCH + np.arange(BATCH)):
            seen[start : start + LENGTH + 1] = True
    assert seen.all()


@pytest.mark.parametrize("num_workers", [2, 3])
def test_slices_of_workers_make_the_global_batch(shards, num_workers):
    whole = take(training_dataset(shards, LENGTH, BATCH, seed=5, start_step=3), 70)
    slices = [
        take(training_dataset(shards, LENGTH, BATCH, 5, 3, num_workers, worker_index), 70)
        for worker_index in range(num_workers)
    ]
    joined = [
        tuple(np.concatenate([slices[w][k][part] for w in range(num_workers)]) for part in range(2))
        for k in range(70)
    ]
    assert same(joined, whole)


def test_specification_for_keras(shards):
    import tensorflow as tf

    dataset = training_dataset(shards, LENGTH, BATCH)
    assert dataset.element_spec == (tf.TensorSpec((BATCH, LENGTH), tf.int32),) * 2
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    evaluation = evaluation_dataset(shards, LENGTH, BATCH)
    assert evaluation.element_spec[2] == tf.TensorSpec((BATCH, LENGTH), tf.float32)
    assert evaluation.cardinality() == len(list(evaluation))


@pytest.mark.parametrize(("length", "batch_size"), [(8, 6), (7, 5), (500, 2), (64, 1), (1000, 3)])
@pytest.mark.parametrize("overlap", [0, 1, 5])
def test_evaluation_predicts_every_token_once(shards, storage, length, batch_size, overlap):
    stream = shards.all_tokens().astype(np.int32)
    stride = length - overlap
    elements = take(evaluation_dataset(shards, length, batch_size, stride), -1)
    expected = [evaluation_batch(shards, k, length, batch_size, stride) for k in range(len(elements))]
    assert same(elements, expected)
    windows = [np.concatenate([element[part] for element in elements]) for part in range(3)]
    counted = windows[2] == 1.0
    assert np.array_equal(windows[1][counted], stream)  # every label once, in order
    assert windows[2].sum() == shards.num_tokens
    before = np.concatenate([[shards.end_of_text_id], stream[:-1]])
    assert np.array_equal(windows[0][counted], before)
    # Inputs and labels of a row are one stream, also where the labels are not counted.
    inside = counted[:, 1:] & counted[:, :-1]
    assert np.array_equal(windows[0][:, 1:][inside], windows[1][:, :-1][inside])
    for row in range(1, len(counted)):
        if counted[row].any():
            assert counted[row].argmax() == overlap


def test_no_end_of_text_begins_with_id_0(tmp_path):
    tokenizer = CharacterTokenizer.train(["abcd"])
    shards = write_shards([Document("a", "dcba")], tokenizer, tmp_path / "s")
    ((token_ids, labels, weights),) = take(evaluation_dataset(shards, 5, 1), -1)
    assert token_ids.tolist() == [[0, 3, 2, 1, 0]]
    assert labels.tolist() == [[3, 2, 1, 0, 0]]
    assert weights.tolist() == [[1, 1, 1, 1, 0]]


def test_errors(shards):
    with pytest.raises(InputError, match="expected at least context_length"):
        training_dataset(shards, shards.num_tokens, BATCH)
    with pytest.raises(InputError, match="found batch_size 6 for 4 workers"):
        training_dataset(shards, LENGTH, BATCH, num_workers=4)
    with pytest.raises(InputError, match="found worker_index 2"):
        training_dataset(shards, LENGTH, BATCH, num_workers=2, worker_index=2)
    with pytest.raises(InputError, match="found start_step -1"):
        training_dataset(shards, LENGTH, BATCH, start_step=-1)
    with pytest.raises(InputError, match="found batch_size 0"):
        evaluation_dataset(shards, LENGTH, 0)


PROGRAM = """
import json, sys
import numpy as np
import tensorflow as tf
from tfgpt.data import dataset as module
from tfgpt.data.shards import TokenShards
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
shards = TokenShards.open(sys.argv[1])
batches = []
for module.IN_MEMORY_BYTES in (2**30, 0):
    dataset = module.training_dataset(shards, 8, 6, seed=5)
    iterator = iter(strategy.experimental_distribute_dataset(dataset))
    for _ in range(70):
        token_ids, _ = next(iterator)
        batches.append([part.numpy().tolist() for part in strategy.experimental_local_results(token_ids)])
print(json.dumps(batches))
"""


def test_under_a_mirrored_strategy(shards):
    """Two replicas get the two halves of every global batch; its own process, as devices are fixed early."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", PROGRAM, str(shards.directory)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    for step, halves in enumerate(json.loads(result.stdout.splitlines()[-1])):
        expected, _ = training_batch(shards, step % 70, 8, 6, seed=5)
        assert [len(half) for half in halves] == [3, 3]
        assert np.array_equal(np.concatenate(halves), expected)


WORKER = """
import json, os, sys
import tensorflow as tf
strategy = tf.distribute.MultiWorkerMirroredStrategy()
from tfgpt.data import dataset as module
from tfgpt.data.shards import TokenShards
batches = []
for module.IN_MEMORY_BYTES in (2**30, 0):
    dataset = module.training_dataset(TokenShards.open(sys.argv[1]), 8, 6, seed=5, start_step=3)
    iterator = iter(strategy.experimental_distribute_dataset(dataset))
    batches += [strategy.experimental_local_results(next(iterator)[0])[0].numpy().tolist() for _ in range(70)]
print(json.dumps(batches))
os._exit(0)  # the cluster's threads do not end by themselves
"""


@pytest.mark.slow
def test_under_a_multi_worker_strategy(shards):
    """Two processes get the two halves of every global batch."""
    ports = []
    for _ in range(2):
        with socket.socket() as listener:
            listener.bind(("localhost", 0))
            ports.append(listener.getsockname()[1])
    addresses = [f"localhost:{port}" for port in ports]
    workers = []
    for index in range(2):
        cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = os.environ | {"TF_CONFIG": json.dumps(cluster), "CUDA_VISIBLE_DEVICES": "-1"}
        command = [sys.executable, "-u", "-c", WORKER, str(shards.directory)]
        workers.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        )
    halves = [json.loads(worker.communicate(timeout=200)[0].splitlines()[-1]) for worker in workers]
    assert len(halves[0]) == len(halves[1]) == 140
    for number, (first, second) in enumerate(zip(*halves, strict=True)):
        expected, _ = training_batch(shards, 3 + number % 70, 8, 6, seed=5)
        assert np.array_equal(np.concatenate([first, second]), expected)
