"""The form in which a trial asks an endpoint: its own protocol, or the scenario's for a server of somebody else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median_low
from typing import TypedDict

from engines.api import Dialect, Endpoint
from engines.registry import traits
from harness.load.protocol.interface import Form
from harness.load.protocol.registry import CHAT, PROTOCOLS, TEMPLATE
from harness.load.protocol.request_form import RequestForm, address_of, with_path
from harness.records import ChatFacts
from harness.scenario.schema import Workload


class Asked(TypedDict):
    """The fields of a LoadPlan that an endpoint and a scenario decide together."""

    endpoint_url: str
    protocol: str
    model_name: str
    api_key_env: str
    dialect: Dialect
    template: str
    answer_path: str
    body: Mapping[str, object]
    headers: Mapping[str, str | None]


def asked(endpoint: Endpoint, workload: Workload, engine: str) -> Asked:
    """How `engine` at this endpoint is asked. The user's template and changes are never sent to our own server."""
    takes = traits(engine).takes_request
    template = workload.template if takes else None
    request = workload.request if takes else None
    return Asked(
        endpoint_url=with_path(endpoint.url, template.path) if template else endpoint.url,
        protocol=TEMPLATE if template else CHAT[endpoint.protocol] if workload.chat else endpoint.protocol,
        model_name=endpoint.model_name,
        api_key_env=endpoint.api_key_env,
        dialect=endpoint.dialect,
        template=template.body if template else "",
        answer_path=template.answer if template else "",
        body=request.body if request else {},
        headers=request.headers if request else {},
    )


def chat_facts(endpoint: Endpoint, workload: Workload, counts: Sequence[int]) -> ChatFacts | None:
    """Who applies the model's chat template, and the lengths that it gives the prompts; None where it is no chat."""
    if not workload.chat:
        return None
    is_servers = PROTOCOLS[CHAT[endpoint.protocol]].rendered_parameters is None
    return ChatFacts(
        template_by="server" if is_servers else "dyno",
        tokens_p50=median_low(counts) if counts else None,
        tokens_max=max(counts, default=None),
        history=workload.conversations.history if workload.conversations is not None else "",
    )


def quality_form(endpoint: Endpoint, workload: Workload, engine: str) -> RequestForm:
    """The form in which an endpoint is asked for whole answers; a template whose answers are streams, for streams. Our
    own server adds every detail about their quality, which others may not know."""
    fields = asked(endpoint, workload, engine)
    address, protocol = address_of(fields["endpoint_url"], fields["protocol"]), PROTOCOLS[fields["protocol"]]
    knows_details = fields["dialect"].knows_details and not traits(engine).takes_request
    details = dict(protocol.detail_parameters) if knows_details else {}
    if fields["dialect"].returns_ids:
        details["return_token_ids"] = True
    form = Form(
        path=address.path,
        model_name=fields["model_name"],
        parameters={**workload.parameters.model_dump(), **details},
        stream=workload.stream and fields["protocol"] == TEMPLATE,
        template=fields["template"],
        answer_path=fields["answer_path"],
        dialect=fields["dialect"],
        body=fields["body"],
        headers=fields["headers"],
    )
    return RequestForm(address=address, protocol=protocol, form=form, api_key_env=fields["api_key_env"])
