"""The emulator for these tests."""

from tests.sagemaker_emulator.fixtures import cloud, containers, stub_server

__all__ = ["cloud", "containers", "stub_server"]
