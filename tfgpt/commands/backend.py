"""Loading Keras and TensorFlow for the commands that need them: quietly, and on the right backend."""

import contextlib
import faulthandler
import os
import sys
import tempfile
from collections.abc import Iterator

from tfgpt.errors import InputError

_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


def load_keras(needs_tensorflow: str | None = None) -> None:
    """Imports Keras and its backend without their greetings; call it before anything else that imports them.

    Args:
        needs_tensorflow: what only runs on TensorFlow ("training from a recipe"); `None` takes any backend.

    Raises:
        InputError: Keras or its backend cannot be imported, or the backend is another than TensorFlow.
    """
    with _quiet_standard_error():
        try:
            import keras
        except (ImportError, ValueError) as error:
            asked = os.environ.get("KERAS_BACKEND", "tensorflow")
            raise InputError(
                f"found no working Keras with the backend {asked!r} ({error}), expected one that can be "
                "imported; install it, or set KERAS_BACKEND=tensorflow"
            ) from error
    backend = keras.config.backend()
    if needs_tensorflow and backend != "tensorflow":
        raise InputError(
            f"found Keras on {backend}, expected TensorFlow, which {needs_tensorflow} needs; set "
            "KERAS_BACKEND=tensorflow"
        )


@contextlib.contextmanager
def _quiet_standard_error() -> Iterator[None]:
    """Sends what C++ writes to file descriptor 2 to a file, and shows it after all when the block fails.

    TensorFlow's libraries write their build flags while they are loaded, before the log level that
    TF_CPP_MIN_LOG_LEVEL names is looked at. Whoever sets that variable sees everything, as they asked to. A
    crash in C++ ends the process with the file unread; the fault handler then says where.
    """
    held = real = None
    if os.environ.setdefault(_LOG_LEVEL, "3") == "3":
        with contextlib.suppress(OSError, AttributeError, ValueError):  # no standard error, no room on disk
            sys.stderr.flush()
            held = tempfile.TemporaryFile()  # noqa: SIM115 - closed below
            real = os.dup(2)
    if real is None:
        yield
        return
    says_where = faulthandler.is_enabled()
    try:
        if not says_where:
            faulthandler.enable(real)
        os.dup2(held.fileno(), 2)
        yield
    except BaseException:
        held.seek(0)
        os.write(real, held.read())
        raise
    finally:
        os.dup2(real, 2)
        if not says_where:
            faulthandler.disable()
        os.close(real)
        held.close()
