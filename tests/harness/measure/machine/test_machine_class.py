"""Which facts make a machine class, and that this machine has one name until it is started again."""

from __future__ import annotations

import os

import pytest

from harness.measure.machine.machine_class import MUST_MATCH, PART, class_of, differences, part_cpus, this_machine

FACTS: dict[str, object] = {
    "cpu_model": "A", "cpu_flags": ["avx2", "fma"], "cores": 4, "turbo": "on", "kernel": "Linux 6.1", "load_1min": 0.1,
    "gpu_models": ["H100", "H100"], "gpu_driver": "580.1",
}  # fmt: skip


def test_every_fact_that_must_match_changes_the_class_and_no_other_does() -> None:
    own = class_of(FACTS)
    assert len(own) == 10
    for name in (*MUST_MATCH, "gpu_models", "gpu_driver", "gpu_power_limit_w", "gpu_mig", "split_into"):
        assert class_of({**FACTS, name: "another"}) != own, name
    assert class_of({**FACTS, "kernel": "Linux 6.2", "load_1min": 3.0, "memory_mib": 7}) == own


def test_the_class_is_the_same_after_the_facts_were_stored_and_unknown_facts_have_none() -> None:
    assert class_of({**FACTS, "cpu_flags": ("avx2", "fma")}) == class_of(FACTS)
    assert class_of({}) == ""


def test_the_difference_of_two_classes_names_the_facts() -> None:
    other = {**FACTS, "cores": 2, "cpu_flags": ["avx2"], "gpu_models": None}
    assert differences(FACTS, other) == "cpu_flags avx2 fma and avx2, cores 4 and 2, gpu_models H100 H100 and none"
    assert differences(FACTS, FACTS) == ""


def test_this_machine_has_a_name_that_is_no_host_name() -> None:
    here = this_machine()
    assert here is this_machine()
    assert here.machine_id == "unknown" or int(here.machine_id, 16) >= 0
    assert here.machine_class == class_of(here.facts)


def test_a_part_of_this_machine_has_its_name_and_a_class_that_all_parts_have(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = this_machine(), []
    assert part_cpus() == set()
    for part in ("1/2", "2/2"):
        monkeypatch.setenv(PART, part)
        parts.append(this_machine.__wrapped__())
    assert [each.machine_id for each in parts] == [f"{whole.machine_id}.1of2", f"{whole.machine_id}.2of2"]
    assert parts[0].machine_class == parts[1].machine_class != whole.machine_class
    assert differences(whole.facts, parts[0].facts) == "split_into none and 2"
    assert parts[0].facts["memory_mib"] == int(str(whole.facts["memory_mib"])) // 2
    assert part_cpus() == os.sched_getaffinity(0)
