"""The table of what servers call their metrics, and where each adapter says that its page is."""

from __future__ import annotations

from itertools import combinations
from typing import get_args

import pytest

from engines.adapters.attach_ready import metrics_addresses
from engines.adapters.attach_servers import SERVERS
from engines.metrics_page import ANY, DJL, GAUGES, LLAMACPP, OURS, SGLANG, TGI, VLLM, Meaning, Words

TABLES = {"ours": OURS, "vllm": VLLM, "llamacpp": LLAMACPP, "djl": DJL, "sglang": SGLANG, "tgi": TGI}


@pytest.mark.parametrize("words", TABLES.values(), ids=TABLES)
def test_a_table_knows_no_meaning_but_those_of_the_list(words: Words) -> None:
    assert set(words) <= set(get_args(Meaning))
    assert all(found and all(word.name for word in found) for found in words.values())


def test_gauges_are_meanings() -> None:
    assert set(get_args(Meaning)) > GAUGES


def test_no_two_servers_share_a_name_so_that_an_unknown_one_is_read_by_all_tables() -> None:
    names = {server: {word.name for found in words.values() for word in found} for server, words in TABLES.items()}
    assert not [pair for pair in combinations(names, 2) if names[pair[0]] & names[pair[1]]]
    assert {word.name for found in ANY.values() for word in found} == set().union(*names.values())


def test_every_server_that_can_be_attached_by_name_has_words() -> None:
    assert SERVERS["vllm"].words is VLLM
    assert SERVERS["trtllm_serve"].words is ANY


def test_an_attached_address_is_looked_at_below_its_host_and_its_folders() -> None:
    assert metrics_addresses("http://h:1/v1") == (
        "http://h:1/metrics", "http://h:1/server/metrics", "http://h:1/v1/metrics", "http://h:1/v1/server/metrics",
    )  # fmt: skip
