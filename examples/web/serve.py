"""Serves the demo page, an export and the JavaScript it needs, all from this machine.

    python benchmarks/peers.py make node        # once: transformers.js and onnxruntime-web
    python examples/web/serve.py EXPORT_DIR     # prints the address to open

To put the page elsewhere, copy what stands under these addresses into one folder and send the two headers of
`ISOLATION`, which give WebAssembly its threads; without them it runs on one.

    /                       index.html, page.mjs, worker.mjs, style.css
    /model/                 the export directory
    /vendor/transformers/   node_modules/@huggingface/transformers/dist
    /vendor/onnxruntime/    node_modules/onnxruntime-web/dist
"""

import argparse
import os
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

PAGE = Path(__file__).resolve().parent
# As benchmarks/peers.py has it.
PEERS = Path(os.environ.get("TFGPT_PEERS") or Path.home() / ".cache" / "tfgpt-peers")
ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}


class Handler(SimpleHTTPRequestHandler):
    """Serves several directories, each under its prefix; the longest comes first."""

    extensions_map: ClassVar = {
        **SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def __init__(self, *arguments, places: dict[str, Path], **options):
        self.places = places
        super().__init__(*arguments, **options)

    def translate_path(self, path: str) -> str:
        """The file that an address names; the standard library's method keeps it within its directory."""
        prefix = next(each for each in self.places if path.startswith(each))
        self.directory = str(self.places[prefix])
        return super().translate_path("/" + path.removeprefix(prefix))

    def end_headers(self):
        """Isolation, and a question before a cached file is used: the export may be a newer one."""
        for name, value in {**ISOLATION, "Cache-Control": "no-cache"}.items():
            self.send_header(name, value)
        super().end_headers()

    def log_request(self, code="-", size="-"):
        """Only a file that was wanted and is not there is worth a line; HEAD asks whether it is."""
        if self.command != "HEAD" and int(code) >= 400:
            super().log_request(code, size)

    def log_error(self, *details):
        """`log_request` says it, with the address."""


def places(export_dir: Path, node_modules: Path) -> dict[str, Path]:
    """Prefix of an address -> directory. Raises SystemExit with what to do where one is missing."""
    found = {
        "/model/": export_dir,
        "/vendor/transformers/": node_modules / "@huggingface/transformers/dist",
        "/vendor/onnxruntime/": node_modules / "onnxruntime-web/dist",
        "/": PAGE,
    }
    if not (export_dir / "onnx").is_dir():
        raise SystemExit(f"found no onnx/ in {export_dir}, expected an export; make one with `tfgpt export`")
    for directory in found.values():
        if not directory.is_dir():
            raise SystemExit(
                f"found no {directory}: run `python benchmarks/peers.py make node`, or name the folder where "
                "`npm install @huggingface/transformers` put it with --node-modules"
            )
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("export_dir", type=Path)
    parser.add_argument("--node-modules", type=Path, default=PEERS / "node" / "node_modules")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    options = parser.parse_args(arguments)
    handler = partial(Handler, places=places(options.export_dir, options.node_modules))
    with ThreadingHTTPServer(("127.0.0.1", options.port), handler) as server:
        print(f"http://127.0.0.1:{server.server_port}/", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0


if __name__ == "__main__":
    sys.exit(main())
