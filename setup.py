"""Packaging of tfgpt: two packages from one tree, `tfgpt` and (from export/) `tfgpt_export`."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = (ROOT / "tfgpt" / "_version.py").read_text().split('"')[1]

setup(
    name="tfgpt",
    version=VERSION,
    description="Train a GPT in Keras, ship it anywhere.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["tfgpt", "tfgpt.*"]) + find_packages("export"),
    package_dir={"tfgpt_export": "export/tfgpt_export"},
    package_data={
        "tfgpt.quickstart": ["*.yaml"],
        "tfgpt_export": ["*.css", "readme/*", "programs/*"],
    },
    install_requires=[
        "tensorflow>=2.21,<2.22",
        "keras>=3.15",
        "keras-nlp>=0.32",
        "tensorflow-text>=2.21.1",
        "tensorboard>=2.20",
        "tf2onnx>=1.17",
        "onnx>=1.18",
        "onnxruntime>=1.32",
        "numpy>=2.0",
        "ml_dtypes>=0.5",
        "tokenizers>=0.22",
        "safetensors>=0.6",
        "huggingface_hub>=1.0",
        "pydantic>=2.10",
        "jinja2>=3.1.6",
        "pyyaml>=6.0",
        "rich>=14.0",
        "tqdm>=4.66",
    ],
    extras_require={
        "test": ["pytest>=8.3", "pytest-xdist>=3.6", "hypothesis>=6.100"],
        # The other implementations that the live comparisons run against.
        "parity": ["torch>=2.6", "transformers>=5.0", "jax>=0.6", "jaxlib>=0.6"],
        "dev": ["ruff>=0.9"],
    },
    entry_points={"console_scripts": ["tfgpt=tfgpt.cli:main"]},
)
