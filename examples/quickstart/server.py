"""Answers with its pid. Each instance has a port of its own: PORT, PORT + 1, …"""

import os
from http.server import BaseHTTPRequestHandler, HTTPServer


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{os.getpid()}\n".encode())

    def log_message(self, format: str, *args: object) -> None:
        """Nothing for each request."""


port = int(os.environ["PORT"]) + int(os.environ.get("OXMGR_INSTANCE_ID", "0"))
server = HTTPServer(("127.0.0.1", port), Answer)
print(f"pid {os.getpid()} listens on http://127.0.0.1:{port}")
server.serve_forever()
