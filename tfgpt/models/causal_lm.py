"""The language model: the decoder and its head, as a Keras model."""

import os
import re
from pathlib import Path

import keras
import numpy as np

from tfgpt.checkpoints.directory import read_model_config, write_model_config
from tfgpt.checkpoints.hub import resolve
from tfgpt.checkpoints.readers import TensorReader
from tfgpt.checkpoints.rules import FLOATS
from tfgpt.checkpoints.translate import Weight, match_names, published_tensors, read_weights
from tfgpt.checkpoints.writers import check_shard_size, write_tensors
from tfgpt.config import ModelConfig
from tfgpt.errors import InputError
from tfgpt.families.registry import family
from tfgpt.layers.linear import Linear
from tfgpt.models.decoder import Decoder
from tfgpt.models.deferred import deferred_variables, fill_all, fill_with_initializer
from tfgpt.models.trainer import Trainer
from tfgpt.paths import check_place_of_file, user_path, visible_entries
from tfgpt.replacing import replacing_directory


@keras.saving.register_keras_serializable("tfgpt")
class CausalLM(Trainer):
    """A causal language model of any family: `compile`, `fit` and `save` are Keras's own.

    Its weights exist as soon as it is made, so it can be made inside `strategy.scope()`.

    Args:
        config: a `ModelConfig`, or the dictionary of one.
        dtype: Keras dtype policy: "float32", "mixed_bfloat16", "mixed_float16", "bfloat16", ...

    Raises:
        InputError: `dtype` is no policy of plain floats.

    Example:

        model = CausalLM(ModelConfig(vocabulary_size=65, context_length=64, num_layers=2, num_heads=2,
                                     hidden_dim=32))
        logits = model(token_ids)                                    # [batch, length, vocabulary]
        logits, cache = model(token_ids, cache=model.empty_cache(batch_size=1))
    """

    def __init__(self, config: ModelConfig, dtype=None, **kwargs):
        _check_policy(dtype)
        super().__init__(dtype=dtype, **kwargs)
        self.config = config if isinstance(config, ModelConfig) else ModelConfig.from_dict(config)
        self.decoder = Decoder(self.config, name="decoder", dtype=self.dtype_policy)
        self.supports_masking = True
        self.head = None
        if not self.config.tie_embeddings:
            self.head = Linear(
                self.config.vocabulary_size,
                self.config.head_bias,
                self.config.initializer_range,
                name="head",
                dtype=self.dtype_policy,
            )
        self.build((None, None))

    def build(self, input_shape):
        self.decoder.build(input_shape)
        if self.head is not None:
            self.head.build((*input_shape, self.config.hidden_dim))
        self.built = True

    def call(self, token_ids, positions=None, mask=None, cache=None, training=None):
        """Token ids to logits.

        Args:
            token_ids: int `[batch, length]`.
            positions: int `[batch, length]`; `None` derives them from the mask, or counts on from the cache.
            mask: int or bool `[batch, slots]` over cached and new tokens, 1 for real ones; `None`: all are.
            cache: from `empty_cache` or an earlier call.
            training: whether dropout is active.

        Returns:
            logits `[batch, length, vocabulary]` in the compute dtype; with a cache, the pair (logits, cache).

        Raises:
            InputError: the length is larger than the context.
        """
        length = token_ids.shape[1]
        if length is not None and length > self.config.context_length:
            raise InputError(
                f"found {length} tokens, expected at most the context of {self.config.context_length}: "
                "shorten the text, or split it"
            )
        hidden, present = self.decoder(
            token_ids, positions=positions, mask=mask, cache=cache, training=training
        )
        logits = self.decoder.token_embedding.project(hidden) if self.head is None else self.head(hidden)
        return logits if cache is None else (logits, present)

    def compute_mask(self, inputs, previous_mask=None):
        # The mask is an argument like any other; Keras must not hang it on the logits.
        return None

    def empty_cache(self, batch_size: int, capacity: int | None = None):
        """A cache without tokens, growing or of fixed capacity; see `tfgpt.layers.cache`."""
        from tfgpt.layers.cache import empty_cache

        return empty_cache(self.config, batch_size, capacity, self.compute_dtype)

    def generate(self, prompts, options=None, *, tokenizer=None, on_token=None):
        """Continues prompts (strings with a `tokenizer`, or lists of ids); see `tfgpt.generation`.

        Returns:
            a list of `Generation`, one per prompt.
        """
        from tfgpt.generation.keras_decoder import generate_with_keras

        return generate_with_keras(self, prompts, options, tokenizer=tokenizer, on_token=on_token)

    def named_weights(self) -> dict[str, keras.Variable]:
        """The weights that checkpoints hold, by their path within the model (`decoder/final_norm/scale`).

        Frozen ones are among them; the seeds of dropout are not.
        """
        # A model made within another layer has the other's name before its own.
        return {variable.path.split(f"{self.name}/", 1)[1]: variable for variable in self.weights}

    @classmethod
    def weight_shapes(cls, config: ModelConfig) -> dict[str, tuple[int, ...]]:
        """The shape of every weight of `named_weights`, without making any."""
        with deferred_variables():
            model = cls(config)
        return {name: tuple(variable.shape) for name, variable in model.named_weights().items()}

    @classmethod
    def from_family(cls, name: str, size: str, dtype=None, **changes) -> "CausalLM":
        """A published size with random weights: `from_family("gpt2", size="124m", dropout=0.0)`."""
        return cls(family(name).config_of(size, **changes), dtype=dtype)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike,
        dtype=None,
        revision: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> "CausalLM":
        """Loads a model directory, or a repository of the hub, in the Hugging Face format.

        Tensors stream from file to variable, two under way at a time: memory peaks at the weights and them.

        Args:
            source: directory with config.json and safetensors (`~` is the home directory), or an id such as
                "openai-community/gpt2".
            dtype: Keras dtype policy, which says what the weights become, whatever they are in the file:
                "float32", "bfloat16", "mixed_bfloat16", ...; `None` is Keras's default.
            revision: branch, tag or commit of the hub's repository.
            token: of the hub; `None` takes HF_TOKEN or the one of `hf auth login`.
            local_files_only: take the repository from huggingface_hub's cache, and ask no server.

        The model may use the files' memory as it is: as long as it lives they may be replaced or removed, but
        not overwritten in place.

        Raises:
            InputError: the directory is incomplete or contradicts itself, `dtype` is no policy, or a weight
                is too large for it.
        """
        _check_policy(dtype)  # before a download
        directory = resolve(
            source, revision, token=token, local_files_only=local_files_only, check=read_model_config
        )
        found, config = read_model_config(directory)
        reader = TensorReader(directory)
        match_names(reader, found, config)  # before a model of the stated size is made
        with deferred_variables():
            model = cls(config, dtype=dtype)
        weights = model.named_weights()
        shapes = {name: tuple(variable.shape) for name, variable in weights.items()}
        fill_all(weights, read_weights(reader, found, config, shapes))
        for variable in model.variables:
            fill_with_initializer(variable)  # the seeds of dropout, which checkpoints do not hold
        return model

    def save_pretrained(self, directory: str | os.PathLike, max_shard_size: int = 5_000_000_000) -> None:
        """Writes a Hugging Face model directory: config.json, generation_config.json and safetensors.

        What is in the directory already and is not replaced (a tokenizer) is kept. The weights keep
        the dtype of the variables.

        Args:
            directory: made if missing, replaced as a whole when everything is written; `~` is the home
                directory.
            max_shard_size: bytes above which weights are split into several files.

        Raises:
            InputError: `directory` cannot be one, or the family's format cannot say what the model is.
        """
        check_shard_size(max_shard_size)
        weights = {name: _weight_of(variable) for name, variable in self.named_weights().items()}
        directory = user_path(directory)
        for entry in visible_entries(directory):
            if _is_weights(entry):
                check_place_of_file(entry)
        with replacing_directory(directory, keep=lambda entry: not _is_weights(entry)) as temporary:
            write_model_config(self.config, temporary, dtype=self.variable_dtype)
            tensors = published_tensors(weights, family(self.config.family), self.config)
            write_tensors(tensors, temporary, max_shard_size)

    def get_config(self):
        return {
            "name": self.name,
            "config": self.config.to_dict(),
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
        }


def _weight_of(variable: keras.Variable) -> Weight:
    def read():
        return np.asarray(keras.ops.convert_to_numpy(variable))

    return Weight(tuple(variable.shape), keras.backend.standardize_dtype(variable.dtype), read)


def _check_policy(dtype) -> None:
    """InputError for what Keras has no dtype policy for, and for one whose numbers are not plain floats.

    A policy that quantizes would do nothing: these layers have no quantized form in Keras.
    """
    name, is_plain = dtype, False
    try:
        policy = keras.dtype_policies.get(dtype)
        name = policy.name if dtype is None else dtype  # Keras's global policy
        is_plain = getattr(policy, "quantization_mode", None) is None
        is_plain = is_plain and {policy.variable_dtype, policy.compute_dtype} <= set(FLOATS)
    except (ValueError, TypeError, AttributeError, KeyError):
        pass
    if not is_plain:
        raise InputError(
            f"found dtype={name!r}, expected a dtype policy of Keras with float weights: float32, bfloat16, "
            "mixed_bfloat16, ..."
        )


def _is_weights(path: Path) -> bool:
    """Whether a file of an older directory does not belong beside new weights."""
    weights = r"model(-\d{5,}-of-\d{5,})?\.safetensors|model\.safetensors\.index\.json"
    return re.fullmatch(weights, path.name) is not None
