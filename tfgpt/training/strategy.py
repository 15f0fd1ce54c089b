"""From names in a recipe to devices, dtype policies and the use of XLA. The rules are written down here."""

import contextlib
import json
import os

import keras

from tfgpt.errors import InputError, nearest

STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")
PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")

# On CPU, XLA is asked for below this many floating-point operations per step (forward and backward).
# Measured on 2 cores: at 4 GFLOP a step (4 layers, 128 wide, 12 x 64 tokens) XLA gives 28 against 17 steps a
# second; for GPT-2 124m (800 GFLOP a step) 214 against 209 tokens a second, after 5 s and more of compiling.
CPU_XLA_FLOPS_PER_STEP = 20e9


class OneDevice:
    """What a strategy is to this project, for the ordinary case of one device and no `tf.distribute`."""

    num_replicas_in_sync = 1

    def scope(self):
        """Nothing to enter."""
        return contextlib.nullcontext()


def make_strategy(name: str = "auto"):
    """The strategy of a recipe; make model and optimizer within its `scope()`.

    Args:
        name: "one_device"; "mirrored" (all GPUs of this machine); "multi_worker" (synchronous, processes
            named by TF_CONFIG); "tpu" (written to TensorFlow's documentation, never run by us); "auto" takes
            multi_worker with a TF_CONFIG of several workers, mirrored with several GPUs, else one_device.

    Raises:
        InputError: an unknown name, or one that this machine or backend cannot honour.
    """
    if name not in STRATEGIES:
        raise InputError(f"found strategy {name!r}{nearest(name, STRATEGIES)}")
    if keras.config.backend() != "tensorflow":
        if name not in ("auto", "one_device"):
            raise InputError(
                f"found strategy {name!r} on the {keras.config.backend()} backend, expected 'one_device'; "
                "use keras.distribution there, or set KERAS_BACKEND=tensorflow"
            )
        return OneDevice()
    if name == "auto":
        name = _automatic_strategy()
    if name == "one_device":
        return OneDevice()
    return {"mirrored": _mirrored, "multi_worker": _multi_worker, "tpu": _tpu}[name]()


def is_chief() -> bool:
    """Whether this process writes the files of the job: the chief, or else the first worker."""
    values = _tf_config()
    task = values.get("task", {})
    kind = task.get("type", "chief")
    has_chief = bool(values.get("cluster", {}).get("chief"))
    return kind == "chief" or (kind == "worker" and not has_chief and int(task.get("index", 0)) == 0)


def resolve_precision(name: str) -> str:
    """A Keras dtype policy; "auto" is mixed_bfloat16 where a GPU or TPU computes with it, else float32."""
    if name not in PRECISIONS:
        raise InputError(f"found precision {name!r}{nearest(name, PRECISIONS)}")
    if name != "auto":
        return name
    return "mixed_bfloat16" if _has_bfloat16_accelerator() else "float32"


def resolve_jit(jit: bool | str, precision: str, flops_per_step: float) -> bool:
    """Whether to compile steps with XLA.

    The rule of "auto": always on GPU and TPU; on CPU only in float32 and only for small steps (see
    `CPU_XLA_FLOPS_PER_STEP`), because XLA's CPU kernels win by removing overhead, not by faster arithmetic,
    and in bfloat16 lose to oneDNN's.

    Args:
        jit: True, False or "auto".
        precision: a resolved dtype policy.
        flops_per_step: floating-point operations of one step on one replica.
    """
    if jit != "auto":
        return bool(jit)
    if _accelerators():
        return True
    return precision == "float32" and flops_per_step <= CPU_XLA_FLOPS_PER_STEP


def tune_cpu_compiler() -> None:
    """Leaves one pass out of XLA's compilation for CPUs, in this process and those it starts.

    `tree_reduction_rewriter` makes each sum over rows (the gradients of biases and norms) a windowed one,
    which XLA's CPU code computes slowly: without it a step of the small setting above takes 5 % less time.
    TensorFlow has no such option for a single function: XLA reads the variable XLA_FLAGS, once, at its first
    compilation. Setting it is therefore for whoever owns the process: `tfgpt train` and `tfgpt quickstart`
    do, `train`, `compile` and `fit` never; a program of your own may call this first. Flags that already
    choose passes are left as they are.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_disable_hlo_passes" not in flags and not _accelerators():
        os.environ["XLA_FLAGS"] = f"{flags} --xla_disable_hlo_passes=tree_reduction_rewriter".strip()


def _automatic_strategy():
    cluster = _tf_config().get("cluster", {})
    if len(cluster.get("worker", [])) + len(cluster.get("chief", [])) > 1:
        return "multi_worker"
    import tensorflow as tf

    return "mirrored" if len(tf.config.list_logical_devices("GPU")) > 1 else "one_device"


def _mirrored():
    import tensorflow as tf

    devices = [device.name for device in tf.config.list_logical_devices("GPU")]
    if not devices:
        # Logical CPUs, where somebody has made several of them; how the tests run several replicas.
        devices = [device.name for device in tf.config.list_logical_devices("CPU")]
    if len(devices) < 2:
        raise InputError("found strategy 'mirrored' with one device, expected several GPUs; use 'one_device'")
    return tf.distribute.MirroredStrategy(devices)


def _multi_worker():
    import tensorflow as tf

    if "TF_CONFIG" not in os.environ:
        raise InputError(
            "found strategy 'multi_worker' without the variable TF_CONFIG, expected it to name the cluster; "
            "set it in every process as TensorFlow's documentation of MultiWorkerMirroredStrategy says"
        )
    _tf_config()
    return tf.distribute.MultiWorkerMirroredStrategy()


def _tpu():
    import tensorflow as tf

    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver()
    except ValueError as error:
        raise InputError(f"found no TPU for strategy 'tpu', expected one; use another ({error})") from None
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    return tf.distribute.TPUStrategy(resolver)


def _tf_config():
    text = os.environ.get("TF_CONFIG", "") or "{}"
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"found a TF_CONFIG that is no JSON ({error}), expected cluster and task") from None


def _accelerators():
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        return [device for device in tf.config.list_physical_devices() if device.device_type != "CPU"]
    if keras.config.backend() == "jax":
        import jax

        return [device for device in jax.devices() if device.platform != "cpu"]
    return []


def _has_bfloat16_accelerator():
    devices = _accelerators()
    if not devices or keras.config.backend() != "tensorflow":
        return bool(devices)
    import tensorflow as tf

    if any(device.device_type == "TPU" for device in devices):
        return True
    details = [tf.config.experimental.get_device_details(device) for device in devices]
    # Ampere (8.0) is the first generation with bfloat16 arithmetic.
    return all(detail.get("compute_capability", (0, 0))[0] >= 8 for detail in details)
