"""The other projects that benchmarks and tests run against, each in an environment of its own.

    python benchmarks/peers.py make torch optimum node # create or complete environments
    python benchmarks/peers.py list                    # what there is, and where

Environments live under $TFGPT_PEERS, else ~/.cache/tfgpt-peers. KerasHub needs none: it is a dependency of
tfgpt. Versions are pinned so that two runs compare the same things. `torch` is the CPU build:
where pip would pick the CUDA build, point it to the CPU wheels first (PIP_FIND_LINKS or PIP_INDEX_URL).

Tried with Python 3.11. Optimum needs transformers below 4.58, so it cannot share the `torch` environment.

An environment for JavaScript is a folder with node_modules, which npm (20 or newer, with its Node) fills. No
script of a package runs: those of onnxruntime-node only fetch CUDA, and its package holds the CPU's library.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

TORCH = "torch==2.13.0"
ONNXRUNTIME = "onnxruntime==1.32.0"

ROOT = Path(__file__).resolve().parent.parent

# environment -> what pip installs into it; the first requirement is the one that the name stands for
ENVIRONMENTS = {
    # Ourselves as users have us: where JAX is installed too, TensorFlow imports it.
    "tfgpt": ("-e", str(ROOT)),
    "torch": (TORCH, "transformers==5.23.0", "numpy"),
    "optimum": ("optimum-onnx[onnxruntime]==0.1.0", "transformers==4.57.6", TORCH, ONNXRUNTIME),
    # The servers' own schemas. TF Serving's would bring TensorFlow, which they do not need.
    "triton": ("tritonclient[grpc]==2.73.0",),
    "tfserving": ("tensorflow-serving-api==2.21.0", "protobuf==6.33.6", "--no-deps"),
    "ctranslate2": ("ctranslate2==4.8.5", "transformers==4.57.6", TORCH),
    # Compiled for this machine; needs cmake and a C++ compiler.
    "llama_cpp": ("llama-cpp-python==0.3.36", "gguf==0.19.0", "safetensors", "numpy"),
    # The clients of an export directory, as the tests of tests/clients run them.
    "onnxruntime": (ONNXRUNTIME, "numpy", "tokenizers"),
    "genai": ("onnxruntime-genai==0.18.0", ONNXRUNTIME, "numpy"),
    "extensions": ("onnxruntime-extensions==0.15.2", ONNXRUNTIME, "numpy"),
}

# environment -> package -> version, of npm. transformers.js names these two versions of onnxruntime itself.
NODE_ENVIRONMENTS = {
    "node": {
        "@huggingface/transformers": "4.3.1",
        "onnxruntime-node": "1.30.0",
        "onnxruntime-web": "1.31.0-dev.20260914-8d85527a0",
        "playwright-core": "1.65.1",
    },
}


def folder() -> Path:
    """The directory that holds the environments, which need not exist yet."""
    return Path(os.environ.get("TFGPT_PEERS") or Path.home() / ".cache" / "tfgpt-peers")


def python(environment: str) -> Path:
    """The interpreter of `environment`. Raises SystemExit with what to run when it has not been made."""
    check_finished(environment)
    return _interpreter(environment)


def node_folder(environment: str = "node") -> Path:
    """Holds `environment`'s node_modules. Raises SystemExit with what to run when it has not been made."""
    check_finished(environment)
    return folder() / environment


def make(environment: str) -> None:
    """Creates `environment` and installs its pinned requirements; does nothing when they are there."""
    requirements = _requirements(environment)
    marker = _finished(environment)
    wanted = "\n".join(requirements) + "\n"
    if marker.exists() and marker.read_text() == wanted:
        return
    if environment in NODE_ENVIRONMENTS:
        _install_node(environment)
    else:
        _install_python(environment, requirements)
    marker.write_text(wanted)


def _install_node(environment: str) -> None:
    """Writes package.json and lets npm install what it lists."""
    target = folder() / environment
    target.mkdir(parents=True, exist_ok=True)
    package = {"private": True, "type": "module", "dependencies": NODE_ENVIRONMENTS[environment]}
    (target / "package.json").write_text(json.dumps(package, indent=2) + "\n")
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run(["npm", "install", *quiet], cwd=target, check=True)


def _install_python(environment: str, requirements: tuple[str, ...]) -> None:
    """A virtual environment with what pip installs into it."""
    if not _interpreter(environment).exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder() / environment)], check=True)
    pip = [str(_interpreter(environment)), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, *requirements], check=True)


def _requirements(environment: str) -> tuple[str, ...]:
    if environment in NODE_ENVIRONMENTS:
        return tuple(f"{name}@{version}" for name, version in NODE_ENVIRONMENTS[environment].items())
    return ENVIRONMENTS[environment]


def check_finished(environment: str) -> None:
    if not _finished(environment).exists():
        raise SystemExit(
            f"found no finished environment {environment!r} under {folder()}, expected one for this side, "
            f"run `python benchmarks/peers.py make {environment}` first"
        )


def _interpreter(environment: str) -> Path:
    return folder() / environment / "bin" / "python"


def _finished(environment: str) -> Path:
    """Written last, so that an installation that was interrupted is completed by the next `make`."""
    return folder() / environment / "tfgpt_requirements.txt"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    maker = commands.add_parser("make", help="create or complete environments")
    maker.add_argument("environments", nargs="+", choices=sorted([*ENVIRONMENTS, *NODE_ENVIRONMENTS]))
    commands.add_parser("list", help="what there is, and where")
    options = parser.parse_args(arguments)
    if options.command == "make":
        for environment in options.environments:
            make(environment)
    for environment in (*ENVIRONMENTS, *NODE_ENVIRONMENTS):
        state = "ready  " if _finished(environment).exists() else "missing"
        print(f"{environment:12} {state} {folder() / environment}  ({', '.join(_requirements(environment))})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
