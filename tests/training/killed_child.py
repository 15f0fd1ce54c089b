"""A training job that kills itself with SIGKILL after some step; run by test_kill_and_resume.py.

python killed_child.py RECIPE.yaml OUTPUT STEP
"""

import os
import signal
import sys

import keras

from tfgpt.recipes import load_recipe
from tfgpt.training.fit import train


class Kill(keras.callbacks.Callback):
    """Ends the process without any clean-up."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    recipe = load_recipe(sys.argv[1], [f"output={sys.argv[2]}"])
    train(recipe, [Kill(int(sys.argv[3]))])
