"""Two replicas train as one device does. Run in a process of its own, see replicas_child.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

# Stock Keras 3.15 is off by 3e-3 to 8e-3 with clipping, and fails with steps_per_execution > 1 or XLA.
SAME = {
    "clipping_and_steps_per_execution": 5e-7,
    "sample_weights": 5e-7,
    "plain": 5e-7,
    "stock_optimizer": 5e-7,
    "clipnorm_micro_batches": 5e-7,
    "xla": 5e-7,
    "moving_average_and_schedule": 5e-7,
    "loss_scale_factor": 5e-7,
    "loss_object_and_metrics": 5e-7,
    # float16 rounds the sum over replicas at another place.
    "mixed_float16": 1e-4,
    # Every replica draws its own part of the batch other masks than one device would: only that it runs.
    "dropout_runs": 0.05,
}
FAST = ("clipping_and_steps_per_execution", "sample_weights")


def run_child(name, *arguments, **environment):
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name(name)), *arguments],
        env={**os.environ, "PYTHONPATH": str(root), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    output, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors[-3000:]
    return [json.loads(line) for line in output.splitlines()]


def check(case, one, two):
    tolerance = SAME[case]
    assert one["iterations"] == two["iterations"] == 8
    assert len(one["running"]) == len(two["running"]) > 0
    np.testing.assert_allclose(one["running"], two["running"], atol=tolerance, rtol=0, err_msg=case)
    # One batch fewer than `steps_per_execution` is evaluated: the last execution is incomplete.
    for name, value in one["evaluation"].items():
        assert two["evaluation"][name] == pytest.approx(value, abs=2 * tolerance), (case, name)
    assert one["logs"].keys() == two["logs"].keys()
    if tolerance < 1e-3:
        norms = one["logs"]["gradient_norm"], two["logs"]["gradient_norm"]
        assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_two_replicas_are_one_device():
    for found in finish(run_child("replicas_child.py", *FAST)):
        check(found["case"], found["one"], found["two"])


@pytest.mark.slow
def test_two_replicas_are_one_device_with_every_setting():
    found = finish(run_child("replicas_child.py"))
    assert {each["case"] for each in found} == SAME.keys()
    for each in found:
        check(each["case"], each["one"], each["two"])


@pytest.mark.slow
def test_two_processes_are_one():
    import socket

    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(("localhost", 0))
    addresses = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    workers = []
    for index in range(2):
        cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        workers.append(run_child("multi_worker_child.py", TF_CONFIG=json.dumps(cluster)))
    found = [finish(worker)[0] for worker in workers]
    (alone,) = finish(run_child("multi_worker_child.py"))
    assert found[0] == found[1]
    np.testing.assert_allclose(found[0]["running"], alone["running"], atol=5e-7, rtol=0)
    for name in ("loss", "val_loss", "gradient_norm"):
        np.testing.assert_allclose(found[0]["history"][name], alone["history"][name], rtol=1e-6)
