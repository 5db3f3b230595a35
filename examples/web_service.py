"""An artifact behind HTTP, with the standard library: POST an image, get its class.

    python examples/web_service.py deploy/onnxruntime_x86 [--port 8000]
    curl --data-binary @cat.png http://localhost:8000

Needs no torch. The artifact says how images are resized and normalized.
"""

from __future__ import annotations

import argparse
import io
import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from PIL import Image, UnidentifiedImageError

import eqnet

MOST = 16 << 20  # bytes of one image
FORMATS = ("PNG", "JPEG")  # Pillow knows others that start programs
BAD = (UnidentifiedImageError, Image.DecompressionBombError, OSError)


def server(artifact: Path, port: int = 8000) -> HTTPServer:
    """A server of one artifact on localhost; port 0 takes a free one."""
    model = eqnet.load(artifact)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length", 0))
            try:
                image = Image.open(io.BytesIO(self.rfile.read(min(size, MOST))), formats=FORMATS)
                logits = model(image)[0]
            except BAD:
                self.send_error(400, "not an image")
                return
            body = json.dumps({"class": int(logits.argmax()), "logits": logits.tolist()}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing of each request."""

    return HTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    with server(options.artifact, options.port) as serving:
        print(f"http://127.0.0.1:{serving.server_port}")
        serving.serve_forever()
