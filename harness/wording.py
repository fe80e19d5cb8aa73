"""Wording shared by all output: how a candidate or a number is named in a sentence."""

from __future__ import annotations

from engines.registry import traits
from engines.setting import AXES
from harness.records import Candidate, ChatFacts, Metric


def label(candidate: Candidate) -> str:
    """'ctranslate2 int8, batch 4, 2 workers, delay 5 ms, 1 thread'; axes at their plain value are left out, all of them
    where somebody else started the server."""
    is_elsewhere = traits(candidate.engine).is_elsewhere
    shown = [axis for axis in AXES if not (is_elsewhere and getattr(candidate, axis.name) == axis.default)]
    parts = [part for axis in shown if (part := axis.label_of(candidate))]
    parts.extend(f"{name}={value}" for name, value in sorted(candidate.options.items()))
    if candidate.python:
        parts.append("own environment" if candidate.python == "auto" else f"python {candidate.python}")
    return f"{candidate.engine} {', '.join(parts)}"


def quantity(metric: Metric) -> str:
    """'20.1 ms [19.8, 20.6]'; a missing end is '?', the interval is left out where there is none."""
    text = f"{metric.value:.4g}{unit_suffix(metric.unit)}"
    if metric.low is None and metric.high is None:
        return text
    low, high = (f"{end:.4g}" if end is not None else "?" for end in (metric.low, metric.high))
    return f"{text} [{low}, {high}]"


def claim(metric: Metric) -> str:
    """What the samples prove: `quantity`, '>= 61.2 ms (n=150)' where they bound a tail from below only ('<= ...' the
    throughput of a trial that ended early), or '61.2 ms (n=3)' where they prove nothing."""
    if metric.high is None and metric.low is not None:
        return f">= {metric.low:.4g}{unit_suffix(metric.unit)} (n={metric.n})"
    if metric.method == "race":
        return f"<= {metric.high:.4g}{unit_suffix(metric.unit)} (n={metric.n})"
    return quantity(metric) + (f" (n={metric.n})" if metric.is_unproven else "")


def chat_text(facts: ChatFacts) -> str:
    """Who applied the model's chat template, and how long it makes the prompts."""
    who = "its server" if facts.template_by == "server" else "dyno, before sending"
    lengths = ""
    if facts.tokens_p50 is not None and facts.tokens_max is not None:
        lengths = f"; prompts of {lengths_text(facts.tokens_p50, facts.tokens_max)}"
    history = _HISTORIES[facts.history]
    return f"the template was applied by {who}; input tokens count it{lengths}{history}"


_HISTORIES = {
    "": "",
    "recorded": "; turns carry the answers of the file, the same requests for every candidate",
    "own": "; turns carry the server's own answers: requests differ between candidates, which are compared unpaired",
    "server": "; the server keeps the conversations: requests differ between candidates, which are compared unpaired",
}


def lengths_text(p50: int, most: int) -> str:
    """'31 tokens (P50), 57 at most'."""
    return f"{p50} tokens (P50), {most} at most"


def unit_suffix(unit: str) -> str:
    """' ms', or nothing for a plain fraction."""
    return "" if unit in ("", "frac", "1") else f" {unit}"
