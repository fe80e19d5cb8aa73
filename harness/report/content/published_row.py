"""The one row the field published for FLAN-T5-XXL, as a baseline to read beside one's own - with what it leaves out."""

from __future__ import annotations

from harness.report.content.result_table import model_name
from harness.store.reader import Run

SOURCE = "AWS machine learning blog, 2023-04-18: FLAN-T5-XXL on SageMaker with FasterTransformer (DJL Serving 0.21.0)"
MODEL = "flan-t5-xxl"
ROW = {
    "Model": "FLAN-T5-XXL",
    "Engine": "FasterTransformer",
    "Quantization": "fp32",
    "Batch size": "4",
    "Tensor parallel degree": "4",
    "Workers": "1",
    "P50 (ms)": "327.39",
    "P90 (ms)": "331.01",
    "P99 (ms)": "612.73",
    "Data quality": "Normal",
}
MACHINE = "ml.g5.12xlarge (4 x A10G)"
NOT_PUBLISHED = (
    "number of samples",
    "concurrency of the client",
    "warm-up",
    "where the client ran",
    "how the percentiles were made",
    "the tool",
    "what 'Normal' was measured by",
)
DERIVED = "one batch of 4 at a time: 4 / 0.32739 s = 12.22 prompts/s; P99 is 1.87 times P50, P90 1.011 times"


def published_text(run: Run) -> str:
    """The published row, or why it is not shown: it says something about one model only."""
    if MODEL not in model_name(run).lower():
        return f"Published baseline: none for {model_name(run)} (only {ROW['Model']} was published)"
    row = " | ".join(ROW.values())
    return (
        f"Published baseline, {MACHINE}: {row}\n  source: {SOURCE}\n  derived: {DERIVED}\n"
        f"  not published: {', '.join(NOT_PUBLISHED)}; so no interval, and no comparison beyond the order of magnitude"
    )
