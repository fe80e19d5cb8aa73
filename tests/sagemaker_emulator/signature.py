"""Signature Version 4, computed from AWS's description and not by botocore, to check who signed with botocore."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from urllib.parse import quote, unquote

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/(?P<date>\d{8})/(?P<region>[^/]+)/(?P<service>[^/]+)/aws4_request, "
    r"SignedHeaders=(?P<signed>[^,]+), Signature=(?P<signature>[0-9a-f]{64})"
)


def signature_fault(
    method: str, path: str, headers: Mapping[str, str], body: bytes, secrets: Mapping[str, str]
) -> tuple[str, str]:
    """(what is wrong with the signature, region); the first is '' when it is right. Header names are lower case."""
    match = _AUTHORIZATION.fullmatch(headers.get("authorization", ""))
    if match is None:
        return "MissingAuthenticationToken", ""
    if match["key"] not in secrets:
        return "UnrecognizedClientException", match["region"]
    signed = match["signed"].split(";")
    if "host" not in signed or "x-amz-date" not in signed:
        return "IncompleteSignature", match["region"]
    bare, _, query = path.partition("?")
    canonical = "\n".join(
        (
            method,
            quote(unquote(bare), safe="/-_.~"),
            "&".join(sorted(query.split("&"))) if query else "",
            *(f"{name}:{' '.join(headers[name].split())}" for name in signed),
            "",
            match["signed"],
            hashlib.sha256(body).hexdigest(),
        )
    )
    scope = f"{match['date']}/{match['region']}/{match['service']}/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{headers['x-amz-date']}\n{scope}\n{digest}"
    key = f"AWS4{secrets[match['key']]}".encode()
    for part in (match["date"], match["region"], match["service"], "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    right = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    return ("" if hmac.compare_digest(right, match["signature"]) else "InvalidSignatureException"), match["region"]
