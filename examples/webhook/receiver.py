"""Takes Drover's webhooks and checks that they are genuine and new; the standard library is enough.

    DROVER_WEBHOOK_SECRET=... python receiver.py 8080

Answer 2xx only once the message is safe with you: anything else has it sent again.
"""

import hashlib
import hmac
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OLDEST_S = 300
"""Older messages are refused, so that nobody can play one back later. Drover signs each try anew."""


def genuine(headers: Mapping[str, str], body: bytes, secret: str, now: float) -> bool:
    """Whether this body was signed with our secret a moment ago."""
    moment = headers.get("X-Drover-Timestamp", "")
    if not moment.isdigit() or abs(now - int(moment)) > OLDEST_S:
        return False
    expected = hmac.new(secret.encode(), moment.encode() + b"." + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(headers.get("X-Drover-Signature", ""), f"sha256={expected}")


def serve(port: int, secret: str, take: Callable[[dict[str, Any]], None]) -> ThreadingHTTPServer:
    """A server on 127.0.0.1 that hands genuine messages on; `serve_forever` runs it."""

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if genuine(self.headers, body, secret, time.time()):
                take(json.loads(body))  # may come twice: "delivery" is its number
                self.send_response(204)
            else:
                self.send_response(403)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", port), Receiver)


if __name__ == "__main__":
    serve(
        int(sys.argv[1]), os.environ["DROVER_WEBHOOK_SECRET"], lambda message: print(json.dumps(message))
    ).serve_forever()
