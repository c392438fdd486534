"""The two services as one HTTP server, in the protocols that the `aws` command line speaks."""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from tests.support.aws.ecs import Ecs, Refused
from tests.support.aws.stacks import CloudFormation
from tests.support.processes import Farm
from tests.support.s3 import gate

ECS_TARGET: Final = "AmazonEC2ContainerServiceV20141113."
NAMESPACE: Final = "http://cloudformation.amazonaws.com/doc/2010-05-15/"


@dataclass(frozen=True, slots=True)
class Aws:
    url: str
    """Of CloudFormation and ECS."""
    ecs: Ecs
    cloudformation: CloudFormation


@contextmanager
def aws(farm: Farm, data_url: str) -> Iterator[Aws]:
    """`data_url` is a moto server's."""
    with gate(data_url, frozenset()) as results:
        ecs = Ecs(farm, data_url, results)
        cloudformation = CloudFormation(ecs)

        class Handler(_Handler):
            pass

        Handler.ecs, Handler.cloudformation = ecs, cloudformation
        httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        httpd.daemon_threads = True
        Handler.url = f"http://127.0.0.1:{httpd.server_address[1]}"
        thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield Aws(Handler.url, ecs, cloudformation)
        finally:
            httpd.shutdown()
            httpd.server_close()
            thread.join()
            ecs.close()


class _Handler(BaseHTTPRequestHandler):
    ecs: Ecs
    cloudformation: CloudFormation
    url: str
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        target = self.headers.get("X-Amz-Target", "")
        json_protocol = target.startswith(ECS_TARGET)
        try:
            status = 200
            text = self._ecs(body, target.removeprefix(ECS_TARGET)) if json_protocol else self._cloudformation(body)
        except Exception as e:
            # What is no refusal is a fault in here, and not answered by 500, which the command line would try again.
            status = 400
            refused = e if isinstance(e, Refused) else Refused(traceback.format_exc(), "SimulatorFailure")
            text = _json_error(refused) if json_protocol else _xml_error(refused)
        self._send(status, "application/x-amz-json-1.1" if json_protocol else "text/xml", text)

    def _ecs(self, body: bytes, operation: str) -> str:
        return json.dumps(self.ecs.answer(operation, json.loads(body), self.url))

    def _cloudformation(self, body: bytes) -> str:
        asked = dict(parse_qsl(body.decode(), keep_blank_values=True))
        action = asked["Action"]
        result = _xml(self.cloudformation.answer(action, asked))
        said = f"<{action}Result>{result}</{action}Result>"
        return f'<{action}Response xmlns="{NAMESPACE}">{said}</{action}Response>'

    def do_GET(self) -> None:
        """What a command of `execute-command` has written: once, for the plugin that opens the session."""
        said = self.ecs.sessions.pop(self.path.rpartition("/")[2], None)
        self._send(404 if said is None else 200, "text/plain", said or "")

    def _send(self, status: int, kind: str, text: str) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """What was asked for is in the output of the commands."""


def _json_error(error: Refused) -> str:
    return json.dumps({"__type": error.code, "message": str(error)})


def _xml_error(error: Refused) -> str:
    said = {"Error": {"Type": "Sender", "Code": error.code, "Message": str(error)}}
    return f'<ErrorResponse xmlns="{NAMESPACE}">{_xml(said)}</ErrorResponse>'


def _xml(said: Any) -> str:
    if isinstance(said, Mapping):
        return "".join(f"<{key}>{_xml(value)}</{key}>" for key, value in said.items())
    if isinstance(said, list):
        return "".join(f"<member>{_xml(value)}</member>" for value in said)
    return escape(str(said))
