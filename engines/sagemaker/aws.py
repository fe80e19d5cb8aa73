"""AWS clients (boto3) for SageMaker: passing failures are retried, lasting ones become one sentence.

boto3's own retries are off: each attempt is ours, so that waits are seen, bounded and testable. Addresses come from
where boto3 takes them (AWS_ENDPOINT_URL_SAGEMAKER and its siblings), so the same code works with an emulator.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from engines.errors import SpecInvalid, Unavailable
from engines.models.download.redaction import redact
from engines.models.download.s5cmd import Access, s3_access

logger = logging.getLogger("dyno.sagemaker")

SERVICES = ("sagemaker", "s3", "cloudwatch", "logs")
"""Those that `call` uses; the runtime has its own way, the proxy."""
ATTEMPTS = 7
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
THROTTLES = frozenset(
    ("ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded", "SlowDown")
)
PASSING = frozenset(("InternalFailure", "ServiceUnavailable", "InternalError", "ServiceUnavailableException"))
DENIED = frozenset(("AccessDenied", "AccessDeniedException"))
REFUSED_WHO = DENIED | {
    "UnrecognizedClientException", "InvalidClientTokenId", "ExpiredToken", "ExpiredTokenException", "403",
    "InvalidSignatureException", "SignatureDoesNotMatch",
}  # fmt: skip
ABSENT = frozenset(
    ("404", "NoSuchBucket", "NotFound", "ResourceNotFound", "ResourceNotFoundException", "NoSuchKey", "NoSuchUpload")
)
INSTALL = "pip install 'dynamometer[sagemaker]'"


class NotFound(Exception):
    """The named thing is not there (any more). Never leaves this package."""


class NoCapacity(Exception):
    """The region has no such instance free just now. Never leaves this package."""


class AlreadyThere(SpecInvalid):
    """What was to be created exists."""


class AccessDenied(Unavailable):
    """The credentials are known, but may not do this."""


class Aws:
    """The services of one region. `sleep` is injected so that tests need not wait."""

    def __init__(self, region: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self.region = region
        self.sleep = sleep
        boto3, config, self._errors = _modules()
        self._unreachable = (
            self._errors.EndpointConnectionError, self._errors.ProxyConnectionError, self._errors.HTTPClientError,
        )  # fmt: skip
        try:
            session = boto3.session.Session(region_name=region)
            credentials = session.get_credentials()
            if credentials is None:
                raise Unavailable(
                    "sagemaker: no AWS credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                    "AWS_PROFILE, or run `aws sso login`"
                )
            self._credentials = credentials
            frozen = credentials.get_frozen_credentials()
            redact.learn(frozen.access_key, frozen.secret_key, frozen.token)
            options = config.Config(retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=70)
            self._clients = {name: session.client(name, config=options) for name in SERVICES}
            self.runtime_url = str(session.client("sagemaker-runtime", config=options).meta.endpoint_url)
        except self._errors.BotoCoreError as error:
            raise Unavailable(f"sagemaker: {_line(error)}; check AWS_PROFILE, AWS_REGION and the credentials") from None

    def client(self, service: str) -> Any:
        """The boto3 client of one of SERVICES."""
        return self._clients[service]

    def s3_access(self) -> Access:
        """How a child that is no boto3 reaches S3, with the session's credentials of this moment."""
        frozen = self._credentials.get_frozen_credentials()
        redact.learn(frozen.access_key, frozen.secret_key, frozen.token)
        return s3_access(frozen, self.region, str(self._clients["s3"].meta.endpoint_url))

    def call(self, service: str, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of one operation, retried with growing waits while AWS throttles or stumbles.

        Raises NotFound, SpecInvalid (refused as it is), Unavailable (credentials, quota, still failing).
        """
        method = getattr(self._clients[service], operation)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return dict(method(**parameters))
            except self._errors.ClientError as error:
                code = str(error.response.get("Error", {}).get("Code", ""))
                status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
                if not (code in THROTTLES or code in PASSING or status >= 500) or attempt == ATTEMPTS:
                    raise explain(operation, code, _line(error)) from None
                why = code or f"status {status}"
            except self._unreachable as error:
                if attempt == ATTEMPTS:
                    raise Unavailable(f"sagemaker: {operation}: {_line(error)}; check network and proxy") from None
                why = type(error).__name__
            except (self._errors.ParamValidationError, self._errors.BotoCoreError) as error:
                raise SpecInvalid(f"sagemaker: {operation}: {_line(error)}") from None
            wait_s = self._wait_s(attempt)
            logger.info("%s: %s, again in %.1f s (attempt %d of %d)", operation, why, wait_s, attempt + 1, ATTEMPTS)
            self.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    def _wait_s(self, attempt: int) -> float:
        """Doubling, with half of it drawn by chance so that many clients do not come back together."""
        longest: float = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (attempt - 1))
        return longest * (0.5 + random.random() / 2)


def explain(operation: str, code: str, message: str) -> Exception:
    """The error that an AWS refusal means: NotFound, NoCapacity, Unavailable or SpecInvalid. Reads AWS's own words
    where its code is too general."""
    sentence = f"sagemaker: {operation}: {redact(message)}"
    lowered = message.lower()
    if code in ABSENT or "could not find" in lowered:
        return NotFound(sentence)
    if code == "ResourceLimitExceeded":
        return Unavailable(
            f"{sentence}; ask for a higher quota (Service Quotas, 'for endpoint usage') or take another type"
        )
    if code in THROTTLES:
        return Unavailable(f"{sentence}; still throttled after {ATTEMPTS} attempts, try again later")
    if "InsufficientInstanceCapacity" in message or code == "InsufficientInstanceCapacity":
        return NoCapacity(sentence)
    if code in REFUSED_WHO:
        kind = AccessDenied if code in DENIED else Unavailable
        return kind(f"{sentence}; check the credentials and what they may do")
    return AlreadyThere(sentence) if "already exist" in message else SpecInvalid(sentence)


def _modules() -> tuple[Any, Any, Any]:
    try:
        import boto3
        import botocore.config
        import botocore.exceptions
    except ImportError as error:
        raise Unavailable(f"sagemaker: boto3 is not installed: {INSTALL}") from error
    return boto3, botocore.config, botocore.exceptions


def _line(error: BaseException) -> str:
    """The message, without botocore's count of retries (ours are not counted there) and without a last full stop."""
    sentence = re.sub(r" \(reached max retries: \d+\)", "", " ".join(str(error).split())).rstrip(".")
    return redact(sentence or type(error).__name__)
