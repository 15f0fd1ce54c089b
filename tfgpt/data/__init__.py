"""Text to training batches: reading, cleaning, packing, and the dataset as a pure function of the step.

Public names load on first use; none of them imports TensorFlow before a tf.data.Dataset is asked for.
"""

from importlib import import_module

_PUBLIC = {
    "Document": "tfgpt.data.text",
    "ReadingReport": "tfgpt.data.text",
    "read_documents": "tfgpt.data.text",
    "standard_library_documents": "tfgpt.data.text",
    "CleaningOptions": "tfgpt.data.cleaning",
    "clean_documents": "tfgpt.data.cleaning",
    "split_by_file": "tfgpt.data.splitting",
    "write_shards": "tfgpt.data.packing",
    "TokenShards": "tfgpt.data.shards",
    "CorpusOptions": "tfgpt.data.corpus",
    "TokenizerKind": "tfgpt.data.corpus",
    "PreparedCorpus": "tfgpt.data.prepare",
    "prepare_corpus": "tfgpt.data.prepare",
    "training_dataset": "tfgpt.data.dataset",
    "evaluation_dataset": "tfgpt.data.dataset",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'tfgpt.data' has no attribute {name!r}")


def __dir__():
    return __all__
