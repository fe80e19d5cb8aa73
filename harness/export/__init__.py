"""Stored runs handed to other projects' stores: MLflow, OpenTelemetry, Prometheus, Weights & Biases."""
