"""The native library is there before the first kernel test asks for it."""

from tests.kernels.build import ensure_library

ensure_library()  # at import: the tests are parametrized by the ISAs the library says this machine has
