"""Takes Drover's webhooks and checks that they are genuine and new, with `pip install standardwebhooks`.

    WEBHOOK_SECRET=whsec_... python receiver.py 8080

The secret is what `drover webhook allow` said. Answer 2xx only once the message is safe with you: anything else has it
sent again.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

LARGEST = 1 << 20
"""Bytes of a message."""


def genuine(headers: Mapping[str, str], body: bytes, secret: str) -> bool:
    """Whether this body was signed with our secret a moment ago: nobody can play one back after five minutes."""
    try:
        Webhook(secret).verify(body, dict(headers))
    except (WebhookVerificationError, ValueError):  # the latter for headers and bodies that are none
        return False
    return True


def serve(port: int, secret: str, take: Callable[[dict[str, Any]], None]) -> ThreadingHTTPServer:
    """A server on 127.0.0.1 that hands genuine messages on; `serve_forever` runs it."""

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(min(int(self.headers["Content-Length"]), LARGEST))
            if genuine(self.headers, body, secret):
                take(json.loads(body))  # may come twice: "delivery" is its number
                self.send_response(204)
            else:
                self.send_response(403)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", port), Receiver)


if __name__ == "__main__":
    serve(int(sys.argv[1]), os.environ["WEBHOOK_SECRET"], lambda message: print(json.dumps(message))).serve_forever()
