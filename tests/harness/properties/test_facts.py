"""The table of what each version reads is made from the committed facts, and keys.toml agrees with them."""

from __future__ import annotations

import re

import pytest

from harness.properties.containers import named_values, parse_container, read_by_version, table
from harness.properties.lint.readers import VLLM_BY_DEFAULT_SINCE
from tests.harness.properties.upstream.table import TABLE, load_facts, make_table

RELEASES = load_facts()


def test_the_table_is_what_the_facts_make() -> None:
    assert TABLE.read_text(encoding="utf-8") == make_table(RELEASES), (
        "read_by_version.toml is generated: run `python -m tests.harness.properties.upstream.table`"
    )


def test_every_version_with_an_image_has_facts_with_their_source() -> None:
    versions = {tuple(map(int, row[0].split("."))) for rows in table()["images"].values() for row in rows}
    assert versions - {release[:3] for release in RELEASES} == {(0, 38, 0)}
    for facts in RELEASES.values():
        assert re.fullmatch(r"[0-9a-f]{40}", facts["commit"])
        assert all(reader["file"].endswith((".py", ".java")) for reader in facts["readers"])


def test_a_change_of_a_fact_changes_the_table() -> None:
    newest = max(RELEASES)
    reader = RELEASES[newest]["readers"][0]
    changed = {**RELEASES, newest: {**RELEASES[newest], "readers": [{**reader, "keys": {"a_new_key": "int"}}]}}
    assert 'a_new_key = [{ type = "int", since = "0.36.0-lmi27" }]' in make_table(changed)


def test_keys_toml_describes_only_keys_that_some_version_reads_or_hands_on() -> None:
    read = read_by_version()["keys"]
    for handler, notes in table()["keys"].items():
        for key, note in notes.items():
            is_read = key in read.get(handler, {}) or (
                handler == "python" and any(key in keys for keys in read.values())
            )
            assert is_read or note.get("handed_on") or note.get("never") or handler == "onnxruntime", (handler, key)
            assert note.get("handed_on") or not {"since", "until"} & set(note), (handler, key)


@pytest.mark.parametrize("release", [each for each, facts in RELEASES.items() if facts["rolling_batch"]])
def test_rolling_batch_values_agree_with_the_enumeration(release: tuple[int, ...]) -> None:
    lmi = f"-lmi{release[3]}" if release[3] else ""
    name = ".".join(map(str, release[:3]))
    if name == "0.35.1":
        name = "0.35.0"  # 0.35.1 has a branch and no image
    container = parse_container(f"{name}{lmi}")
    ours = {value for value, row in named_values("rolling_batch").items() if row.is_in(container)}
    other_in_java = {"lmi-dist"} if release >= (0, 33) else set()  # LmiConfigRecommender turns it into vllm from 0.33.0
    if release < (0, 27):
        other_in_java = {"disable"}  # PyPredictor: any value turned rolling batch on
    assert ours == set(RELEASES[release]["rolling_batch"]) - other_in_java


def test_an_lmi_image_is_vllms_from_the_release_whose_dockerfile_names_vllm_alone() -> None:
    for release, facts in RELEASES.items():
        features = facts["features"].get("lmi", "").split(",")
        assert (features == ["vllm"]) == (release >= VLLM_BY_DEFAULT_SINCE), release
