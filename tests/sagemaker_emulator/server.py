"""The emulator's one HTTP server: SageMaker (JSON 1.1), the runtime (REST JSON, event streams), CloudWatch (CBOR) and
CloudWatch Logs (JSON 1.1).

Every request's signature is checked, every request and answer is held against botocore's service model.
"""

from __future__ import annotations

import json
import re
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from botocore.parsers import RpcV2CBORParser

from tests.sagemaker_emulator.container import Answer
from tests.sagemaker_emulator.control import ControlPlane, Faults, Fetch, Host, Refused
from tests.sagemaker_emulator.frames import cbor, payload_part, stream_error
from tests.sagemaker_emulator.logs import answer_of
from tests.sagemaker_emulator.model_check import check_answer, request_fault
from tests.sagemaker_emulator.signature import signature_fault
from tests.sagemaker_emulator.watch import Invocation, Watch

_INVOKE = re.compile(r"/endpoints/(?P<name>[^/]+)/(?P<kind>invocations|invocations-response-stream)")
_CBOR = re.compile(r"/service/GraniteServiceVersion20100801/operation/(?P<operation>\w+)")
PIECE_BYTES = 7
"""A streamed answer is cut into frames this long, so that lines and characters are split across them."""


class Emulator:
    """A running emulator; a context manager. `secrets` are the credentials it accepts, key id -> secret."""

    def __init__(self, fetch: Fetch, host: Host, secrets: dict[str, str]) -> None:
        self.faults = Faults()
        self.watch = Watch()
        self.secrets = secrets
        self.calls: list[str] = []
        self.refused: list[str] = []
        self.broken: list[str] = []
        self._fetch, self._host = fetch, host
        self._regions: dict[str, ControlPlane] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Emulator:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        for region in self._regions.values():
            region.stop()

    def region(self, name: str) -> ControlPlane:
        """The control plane of a region."""
        return self._regions.setdefault(name, ControlPlane(name, self._fetch, self._host, self.faults))

    def fault(self, operation: str) -> Refused | None:
        """The error that the next call of `operation` is to get."""
        if self.faults.throttle[operation] > 0:
            self.faults.throttle[operation] -= 1
            return Refused("ThrottlingException", "Rate exceeded")
        if self.faults.server_error[operation] > 0:
            self.faults.server_error[operation] -= 1
            return Refused("InternalFailure", "We encountered an internal error. Please try again.", 500)
        if operation in self.faults.denied:
            return Refused("AccessDeniedException", f"User is not authorized to perform: {operation}")
        return None


def _handler(emulator: Emulator) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        pass

    Handler.emulator = emulator
    return Handler


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    emulator: Emulator

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        fault, region = signature_fault("POST", self.path, headers, body, self.emulator.secrets)
        if fault:
            self.emulator.refused.append(fault)
            self._refuse(Refused(fault, "The request signature or security token is invalid.", 403))
            return
        try:
            if invoked := _INVOKE.fullmatch(self.path):
                self._invoke(region, invoked["name"], invoked["kind"], body)
            elif watched := _CBOR.fullmatch(self.path):
                self._watch_cbor(watched["operation"], body)
            elif (target := headers.get("x-amz-target", "")).startswith("GraniteServiceVersion20100801."):
                self._watch_json(target.rpartition(".")[2], json.loads(body))
            elif target.startswith("Logs_20140328."):
                self._logs(region, target.rpartition(".")[2], json.loads(body))
            else:
                self._control(region, target.rpartition(".")[2], json.loads(body))
        except Refused as error:
            self._refuse(error)
        except AssertionError as error:
            self.emulator.broken.append(str(error))
            self._refuse(Refused("EmulatorBroken", str(error), 400))

    # ---- control plane

    def _control(self, region: str, operation: str, request: dict[str, Any]) -> None:
        self.emulator.calls.append(operation)
        if (error := self.emulator.fault(operation)) is not None:
            raise error
        if fault := request_fault("sagemaker", operation, request):
            raise Refused("ValidationException", fault)
        answer = self.emulator.region(region).call(operation, request)
        check_answer("sagemaker", operation, answer)
        if self.emulator.faults.lost_answer[operation] > 0:
            self.emulator.faults.lost_answer[operation] -= 1
            raise Refused("InternalFailure", "It was done, and the answer was lost.", 500)
        self._send(200, json.dumps(answer, default=_epoch).encode(), "application/x-amz-json-1.1")

    # ---- runtime

    def _invoke(self, region: str, name: str, kind: str, body: bytes) -> None:
        self.emulator.calls.append("InvokeEndpoint" if kind == "invocations" else "InvokeEndpointWithResponseStream")
        if fault := request_fault("sagemaker-runtime", self.emulator.calls[-1], {"EndpointName": name, "Body": body}):
            raise Refused("ValidationError", fault)
        begin = time.perf_counter()
        endpoint = self.emulator.region(region).endpoints.get(name)
        if endpoint is None or endpoint.status != "InService" or endpoint.container is None:
            raise Refused("ValidationError", f"Endpoint {name} of account 123456789012 not found.")
        if self.emulator.faults.runtime_statuses:
            status = self.emulator.faults.runtime_statuses.pop(0)
            if status != 200:
                self._record(name, begin, 0.0, status, is_model_error=False)
                raise Refused(
                    "ServiceUnavailable" if status == 503 else "InternalFailure", "A fault was asked for.", status
                )
        asked = time.perf_counter()
        answer = endpoint.container.invoke(body)
        if answer.status != 200:
            self._model_error(name, begin, asked, answer)
        elif kind == "invocations":
            whole = b"".join(answer.pieces)
            self._record(name, begin, time.perf_counter() - asked, 200, is_model_error=False)
            extra = {"x-Amzn-Invoked-Production-Variant": "variant1"}
            if answer.attributes:
                extra["X-Amzn-SageMaker-Custom-Attributes"] = answer.attributes
            self._send(200, whole, answer.content_type, extra)
        else:
            self._stream(answer)
            self._record(name, begin, time.perf_counter() - asked, 200, is_model_error=False)

    def _model_error(self, name: str, begin: float, asked: float, answer: Answer) -> None:
        output = b"".join(answer.pieces).decode()
        self._record(name, begin, time.perf_counter() - asked, 400, is_model_error=True)
        value = {
            "Message": f'Received server error ({answer.status}) from primary with message "{output}".',
            "OriginalStatusCode": answer.status,
            "OriginalMessage": output,
            "LogStreamArn": "",
        }
        self._send(424, json.dumps(value).encode(), "application/json", {"x-amzn-errortype": "ModelError"})

    def _stream(self, answer: Answer) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.amazon.eventstream")
        self.send_header("X-Amzn-SageMaker-Content-Type", answer.content_type)
        self.send_header("x-Amzn-Invoked-Production-Variant", "variant1")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent, limit = 0, self.emulator.faults.break_stream_after
        for piece in answer.pieces:
            for at in range(0, len(piece), PIECE_BYTES):
                if limit is not None and sent >= limit:
                    self._chunk(stream_error("ModelStreamError", '{"ErrorCode": "StreamBroken", "Message": "broken"}'))
                    self._chunk(b"")
                    return
                self._chunk(payload_part(piece[at : at + PIECE_BYTES]))
                sent += 1
            self.wfile.flush()
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _record(self, name: str, begin: float, model_s: float, status: int, *, is_model_error: bool) -> None:
        overhead_s = max(0.0, time.perf_counter() - begin - model_s)
        self.emulator.watch.invocations.append(
            Invocation(name, time.time(), model_s * 1e6, overhead_s * 1e6, status, is_model_error)
        )

    # ---- CloudWatch

    def _watch_cbor(self, operation: str, body: bytes) -> None:
        """The protocol of botocore versions that prefer smithy-rpc-v2-cbor."""
        parser = RpcV2CBORParser()
        request = parser.parse_data_item(parser.get_peekable_stream_from_bytes(body))
        answer = self._metrics(operation, request)
        self._send(200, cbor(answer), "application/cbor", {"smithy-protocol": "rpc-v2-cbor"})

    def _watch_json(self, operation: str, request: dict[str, Any]) -> None:
        times = {name: datetime.fromtimestamp(request[name], UTC) for name in ("StartTime", "EndTime")}
        answer = self._metrics(operation, {**request, **times})
        self._send(200, json.dumps(answer, default=_epoch).encode(), "application/x-amz-json-1.0")

    def _metrics(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        self.emulator.calls.append(operation)
        if (error := self.emulator.fault(operation)) is not None:
            raise error
        if fault := request_fault("cloudwatch", operation, request):
            raise Refused("InvalidParameterValue", fault)
        assert operation == "GetMetricData", f"{operation} is not emulated"
        answer = self.emulator.watch.get_metric_data(request)
        check_answer("cloudwatch", operation, answer)
        return answer

    def _logs(self, region: str, operation: str, request: dict[str, Any]) -> None:
        self.emulator.calls.append(operation)
        if (error := self.emulator.fault(operation)) is not None:
            raise error
        if fault := request_fault("logs", operation, request):
            raise Refused("InvalidParameterException", fault)
        answer = answer_of(operation, request, self.emulator.region(region).containers)
        check_answer("logs", operation, answer)
        self._send(200, json.dumps(answer).encode(), "application/x-amz-json-1.1")

    # ---- answers

    def _refuse(self, error: Refused) -> None:
        body = json.dumps({"__type": error.code, "message": str(error)}).encode()
        self._send(error.status, body, "application/x-amz-json-1.1", {"x-amzn-errortype": error.code})

    def _send(self, status: int, body: bytes, content_type: str, extra: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (extra or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


def _epoch(value: Any) -> float:
    assert isinstance(value, datetime)
    return value.timestamp()
