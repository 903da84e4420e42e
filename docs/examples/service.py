"""Serve an exported model over HTTP: rows in, results out, as JSON.

  python docs/examples/service.py FILE [--port=8000]

FILE was written by `python -m aejax.export`; FILE.json lies beside it. POST {"rows": [...]} returns {"NAME": [...]}
with one result for each row; NAME is the name of the output in FILE.json. GET returns FILE.json.
"""

import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jax
import numpy as np


class Model:
    """An exported function on any number of rows."""

    def __init__(self, file: Path):
        self.about = json.loads(file.with_name(file.name + ".json").read_text())
        self.name = self.about["output"]["name"].split(" (")[0]
        self._call = jax.jit(jax.export.deserialize(bytearray(file.read_bytes())).call)

    def __call__(self, rows: list) -> list:
        """Raises ValueError where the rows have another shape than FILE.json says."""
        x = np.asarray(rows, self.about["input"]["dtype"])
        shape = tuple(self.about["input"]["shape"][1:])
        if not len(x) or x.shape[1:] != shape:
            raise ValueError(f"rows: shape {x.shape} must be (rows, {', '.join(map(str, shape))})")
        size = 1 << (len(x) - 1).bit_length()  # a power of two: few sizes, few compilations
        padded = np.concatenate([x, np.repeat(x[:1], size - len(x), axis=0)])
        return np.asarray(self._call(padded))[: len(x)].tolist()


def server(file: Path, port: int) -> ThreadingHTTPServer:
    """A server on this port; with 0 on a free one."""
    model = Model(file)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200, model.about)

        def do_POST(self) -> None:
            try:
                rows = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["rows"]
                self.answer(200, {model.name: model(rows)})
            except (KeyError, TypeError, ValueError) as error:
                self.answer(400, {"error": str(error)})

        def answer(self, status: int, content: dict) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return ThreadingHTTPServer(("", port), Handler)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    server(arguments.file, arguments.port).serve_forever()
