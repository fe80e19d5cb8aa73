"""Numbers as table cells of a report: significant digits, or a bound where the value is unknown."""

from __future__ import annotations

from harness.records import Metric

ABSENT = "–"


def number(value: float) -> str:
    """Three to four significant digits without an exponent: 0.52, 20.1, 612, 12345."""
    size = abs(value)
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 1 or value == 0 else f"{value:.3g}"


def value_cell(metric: Metric | None) -> str:
    """The value; '>= 61.2 (n=150)' where the samples are too few for an upper bound of a tail percentile, or a trial
    ended early ('<= 9.1 (n=150)' of a throughput), '61.2 (n=3)' where they bound a percentile on neither side."""
    if metric is None:
        return ABSENT
    if is_only_bounded_below(metric):
        assert metric.low is not None
        return f">= {number(metric.low)} (n={metric.n})"
    if metric.method == "race" and metric.high is not None:
        return f"<= {number(metric.high)} (n={metric.n})"
    if metric.unit == "users":
        return f"{metric.value:.10g}"
    return number(metric.value) + (f" (n={metric.n})" if metric.is_unproven else "")


def is_only_bounded_below(metric: Metric) -> bool:
    """Whether the samples prove a lower bound and nothing else: the value may not be read as the percentile."""
    return metric.high is None and metric.low is not None


def interval_cell(metric: Metric | None) -> str:
    """'19.8 – 20.6'; 'at least 26.0 (race)' of a trial that ended early, whose bound has the race's error."""
    if metric is None or (metric.low is None and metric.high is None):
        return ABSENT
    if metric.method == "race":
        bound = f"at least {number(metric.low)}" if metric.low is not None else f"at most {number(metric.high or 0.0)}"
        return f"{bound} (race)"
    low = number(metric.low) if metric.low is not None else "?"
    high = number(metric.high) if metric.high is not None else "?"
    return f"{low} – {high}"


def percent_cell(metric: Metric | None) -> str:
    """A 0..1 fraction as '0 %' or '1.3 %'."""
    if metric is None:
        return ABSENT
    percent = 100 * metric.value
    return "0 %" if percent == 0 else f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"


def metric_text(metric: Metric | None) -> str:
    """The number of a metric without its unit: '20.1', '>= 61.2 (n=150)', '1.3 %' for a fraction, a dash for none."""
    return percent_cell(metric) if metric is not None and metric.unit == "frac" else value_cell(metric)
