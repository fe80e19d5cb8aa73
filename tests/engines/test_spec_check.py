"""What a specification may not ask is refused with the reason and the nearest word."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from engines.api import Capabilities, EngineSpec
from engines.environments.install import installable
from engines.environments.packages import WITHOUT_EXTRA, package_availability
from engines.errors import SpecInvalid
from engines.processes.threads import compute_threads, usable_cores
from engines.spec_check import check_spec, choice, flag, whole_number

CAPABILITIES = Capabilities(
    effective_dtypes={"fp32": "fp32"},
    options={"compile": "help"},
    reasons={"bf16": "no such instructions", "tensor_parallel_degree": "one device"},
)


def spec(**fields: object) -> EngineSpec:
    return EngineSpec(engine="some", model_dir=Path("model"), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dtype": "bf16"}, "no such instructions; it accepts fp32"),
        ({"dtype": "int4"}, "not supported"),
        ({"tensor_parallel_degree": 2}, "one device"),
        ({"tensor_parallel_degree": 0}, "tensor_parallel_degree 0"),
        ({"device": "cuda"}, "this machine has no cuda that some can use"),
        ({"rolling_batch": "auto"}, "use 'disable'"),
        ({"threads": 0}, "expected a whole number >= 1"),
        ({"options": {"compil": True}}, "did you mean 'compile'"),
    ],
)
def test_refusals_carry_reason_and_advice(fields: dict[str, object], words: str) -> None:
    with pytest.raises(SpecInvalid, match=words):
        check_spec(spec(**fields), CAPABILITIES)


def test_what_it_can_do_passes() -> None:
    check_spec(spec(threads=1, options={"compile": True}), CAPABILITIES)


def test_options_accept_their_properties_spelling() -> None:
    asked = spec(options={"yes": "true", "no": False, "count": "12", "word": "eager"})

    assert flag(asked, "yes", False)
    assert not flag(asked, "no", True)
    assert flag(asked, "absent", True)
    assert whole_number(asked, "count", 1) == 12
    assert choice(asked, "word", ("sdpa", "eager"), "sdpa") == "eager"
    for wrong in (lambda: flag(asked, "count", True), lambda: whole_number(asked, "word", 1),
                  lambda: choice(asked, "word", ("sdpa",), "sdpa")):  # fmt: skip
        with pytest.raises(SpecInvalid, match="expected"):
            wrong()


def test_packages_are_looked_for_without_importing() -> None:
    assert package_availability(("numpy",), "x").versions["numpy"]
    missing = package_availability(("numpy", "no_such_package"), "extra")
    assert not missing.is_available
    assert missing.reason == "no_such_package not installed: pip install 'dynamometer[extra]'"


def test_threads_are_an_equal_share_of_the_cores() -> None:
    assert compute_threads(spec(threads=3)) == 3
    assert compute_threads(spec(workers=1)) == usable_cores()
    assert compute_threads(spec(workers=10_000)) == 1


def test_an_extra_that_does_not_exist_is_not_recommended() -> None:
    reason = package_availability(("no_such_package",), "deepspeed").reason
    assert reason == ("no_such_package not installed: `dyno engine install deepspeed` for a separate environment")
    assert not [name for name in WITHOUT_EXTRA if name in _extras()]
    assert [name for name in installable() if name not in WITHOUT_EXTRA and name not in _extras()] == []


def _extras() -> dict[str, object]:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras: dict[str, object] = project["optional-dependencies"]
    return extras
