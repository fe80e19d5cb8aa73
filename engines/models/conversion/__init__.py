"""Conversions of a model folder to the form of one engine, kept in a cache: CTranslate2, ONNX, OpenVINO."""
