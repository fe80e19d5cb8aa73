"""What a caller or a damaged folder may get wrong: one sentence each, and the process and the engine go on."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from engines.errors import EngineError, ModelInvalid, SpecInvalid, Unavailable
from engines.t5 import Params
from engines.t5 import load as load_engine
from engines.t5.partition import MANIFEST, partition
from engines.t5.weights import Checkpoint
from tests.engines.t5 import checkpoints as ck

pytestmark = pytest.mark.heavy

torch = ck.torch

BATCHES = {
    "a number": 5,
    "nothing": None,
    "a string": ["abc"],
    "bytes": [b"abc"],
    "one list too few": [5, 6, 1],
    "one list too many": [[[5, 1]]],
    "a bool": [[True, 1]],
    "NumPy's bool": [[np.True_, 1]],
    "NumPy's floats": np.array([[5.5, 1]]),
    "an array too deep": np.zeros((1, 2, 1), dtype=int),
    "torch's floats": torch.tensor([[5.5, 1]]),
    "torch's bools": torch.tensor([[True, False]]),
    "a tensor too deep": torch.zeros((1, 2, 1), dtype=torch.int64),
}


@pytest.fixture
def engine(family, load):
    return load(family("flan")[1], max_slots=4)


@pytest.mark.parametrize("title", BATCHES)
def test_ids_that_are_none_are_refused_everywhere(title, engine):
    with pytest.raises(ValueError, match="input_ids"):
        engine.generate(BATCHES[title], max_new_tokens=2)
    with pytest.raises(ValueError, match="input_ids"):
        engine.encode(BATCHES[title])
    assert engine.load() == (0, 0)


def test_arrays_of_ids_are_as_good_as_lists(engine):
    wanted = engine.generate([[5, 6, 1]], max_new_tokens=4)
    for kind in (np.int16, np.uint64):
        assert engine.generate(np.array([[5, 6, 1]], dtype=kind), max_new_tokens=4) == wanted
    assert engine.generate(torch.tensor([[5, 6, 1]]), max_new_tokens=4) == wanted


@pytest.mark.parametrize(
    "params",
    [{"temperature": 10**400}, {"length_penalty": 1e300}, {"bad_words_ids": 5}, {"stop_sequences": None},
     {"do_sample": True, "num_return_sequences": -1}, {"num_beams": True}],
    ids=str,
)  # fmt: skip
def test_a_parameter_of_another_kind_is_named(params, engine):
    with pytest.raises(ValueError, match=next(reversed(params))):
        engine.generate([[3, 1]], **params)


def test_calls_with_other_kinds_of_values_are_value_errors(engine):
    for call in (
        lambda: engine.submit([3, 1], {"max_new_tokens": 2}),
        lambda: engine.cancel("x"),
        lambda: engine.cancel(2**64),
        lambda: engine.step(1.5),
        lambda: engine.step(2**32 + 1),
        lambda: engine.process(Params(), [0], np.zeros(10)),
        lambda: engine.process(Params(repetition_penalty=2.0), [0, 10**6], np.zeros(250)),
        lambda: engine.process(Params(repetition_penalty=2.0), [-5], np.zeros(250)),
    ):
        with pytest.raises(ValueError, match=r"expected|no request"):
            call()


@pytest.mark.parametrize(
    "options",
    [{"threads": 1.5}, {"threads": True}, {"threads": 2**40}, {"max_slots": "8"}, {"max_source": 2**32 + 1},
     {"tensor_parallel_degree": "1"}, {"tensor_parallel_degree": None}, {"dtype": []}, {"exact_head": "yes"}],
    ids=str,
)  # fmt: skip
def test_load_names_the_option_of_another_kind(options, family, load):
    with pytest.raises(SpecInvalid, match=next(iter(options))):
        load(family("flan")[1], **options)


@pytest.mark.parametrize("path", [None, 5, b"/x"])
def test_a_path_that_is_none_is_refused(path):
    with pytest.raises(SpecInvalid, match="path: expected a model folder"):
        load_engine(path)


# ---- several threads and mixed calls --------------------------------------------------------------------------------


def test_generate_keeps_the_events_of_submitted_requests(engine):
    params = Params(max_new_tokens=5, ignore_eos=True)
    alone = engine.generate([[5, 6, 1], [8, 1]], max_new_tokens=5, ignore_eos=True)
    handle = engine.submit([5, 6, 1], params)
    assert engine.generate([[8, 1]], max_new_tokens=5, ignore_eos=True) == [alone[1]]
    tokens = []
    while engine.load() != (0, 0):
        tokens += [event.token for event in engine.step() if event.handle == handle]
    assert tokens == alone[0]


def test_threads_that_generate_together_get_their_own_tokens(family, engine):
    prompts = ck.prompts(12, family("flan")[0].config.vocab_size, seed=51)
    wanted = [engine.generate([p], max_new_tokens=30, ignore_eos=True) for p in prompts]
    got = [None] * len(prompts)

    def ask(index):
        got[index] = engine.generate([prompts[index]], max_new_tokens=30, ignore_eos=True)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == wanted


def test_closing_while_another_thread_generates_ends_it_with_a_sentence(engine):
    has_begun, ended = threading.Event(), []

    def ask():
        try:
            while True:
                engine.generate([[5, 1]] * 4, max_new_tokens=40, ignore_eos=True)
                has_begun.set()
        except Unavailable as error:
            ended.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    assert has_begun.wait(60)
    engine.close()
    thread.join(60)
    assert ended == ["this t5 engine has been closed"]


# ---- folders --------------------------------------------------------------------------------------------------------

FIELDS = [
    ("d_kv", 0), ("d_kv", -1), ("d_kv", 10**30), ("d_model", -1), ("d_ff", 0), ("d_ff", float("inf")),
    ("num_layers", -3), ("num_layers", 10**7), ("num_layers", 1.5), ("num_heads", 0), ("num_heads", True),
    ("vocab_size", "x"), ("num_decoder_layers", -1), ("layer_norm_epsilon", float("nan")),
    ("relative_attention_num_buckets", 1),
    ("relative_attention_max_distance", 16), ("eos_token_id", []), ("eos_token_id", [*range(1, 10)]),
    ("eos_token_id", "</s>"),
    ("pad_token_id", 2**31), ("decoder_start_token_id", 250), ("decoder_start_token_id", -1),
    ("scale_decoder_outputs", "no"), ("feed_forward_proj", "gated-tanh"), ("model_type", None),
]  # fmt: skip


@pytest.fixture
def copy(family, tmp_path):
    return shutil.copytree(family("flan")[1], tmp_path / "copy")


@pytest.mark.parametrize(("field", "value"), FIELDS, ids=str)
def test_a_nonsense_field_is_named_with_its_file(field, value, copy, load):
    config = json.loads((copy / "config.json").read_text()) | {field: value}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelInvalid, match=rf"config\.json: .*{field}"):
        load(copy)


def test_heads_that_the_weights_do_not_have_are_refused(copy, load):
    config = json.loads((copy / "config.json").read_text()) | {"num_heads": 5}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelInvalid, match="expected shape"):
        load(copy)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_damaged_json_file_is_named(name, text, copy, load):
    (copy / name).write_bytes(text)
    with pytest.raises(ModelInvalid, match=name):
        load(copy)


def test_any_changed_byte_of_a_bin_is_a_sentence_or_harmless(family, tmp_path):
    torch.save({"a.weight": torch.ones(2, 2)}, tmp_path / "pytorch_model.bin")
    whole, refused = (tmp_path / "pytorch_model.bin").read_bytes(), 0
    for at in range(0, len(whole), 2):
        (tmp_path / "pytorch_model.bin").write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            Checkpoint(tmp_path).read("a.weight", (2, 2))
        except ModelInvalid as error:
            refused += str(tmp_path) in str(error)
    assert refused > 100


# ---- partitions -----------------------------------------------------------------------------------------------------


@pytest.fixture
def shards(family, tmp_path):
    return partition(family("flan")[1], "int8", 3, tmp_path / "shards").folder


def test_a_changed_config_of_a_partition_is_refused(shards, load):
    config = json.loads((shards / "config.json").read_text()) | {"layer_norm_epsilon": 2e-6}
    (shards / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelInvalid, match=r"config\.json: expected the file that was written here"):
        load(shards, dtype="int8", tensor_parallel_degree=3)


def test_shards_of_another_rank_are_refused(shards, load):
    shutil.copy(shards / "rank-1.t5k", shards / "rank-2.t5k")
    with pytest.raises(ModelInvalid, match=r"rank-2\.t5k: .*digest"):
        load(shards, dtype="int8", tensor_parallel_degree=3)


@pytest.mark.parametrize(
    "change",
    [[], 5, {"shards": None}, {"shards": []}, {"shards": [1, 2, 3]}, {"shards": [{"tensors": [{}]}] * 3},
     {"shards": [{"tensors": [{"name": "x"}]}] * 3}, {"files": {"../secret": "0"}}, {"layout": None}],
    ids=str,
)  # fmt: skip
def test_a_manifest_of_another_kind_is_refused(change, shards, load):
    manifest = json.loads((shards / MANIFEST).read_text())
    (shards / MANIFEST).write_text(json.dumps(manifest | change if isinstance(change, dict) else change))
    with pytest.raises(ModelInvalid, match=r"t5k\.json: "):
        load(shards, dtype="int8", tensor_parallel_degree=3)


# A child that is ended, or meets a full disk, while it writes the second shard.
CHILD = """
import os, resource, signal, sys
from pathlib import Path
from engines.t5 import partition as p
whole = p._write_shard
def write(folder, rank, *rest):
    if rank == 1:
        if sys.argv[3] == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        else:
            os.kill(os.getpid(), signal.Signals[sys.argv[3]])
    return whole(folder, rank, *rest)
p._write_shard = write
p.partition(Path(sys.argv[1]), "int8", 3, Path(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("how", "message"), [("SIGINT", "KeyboardInterrupt"), ("SIGKILL", ""), ("full", "SpecInvalid")]
)
def test_an_interrupted_partition_leaves_nothing_that_loads_and_can_be_repeated(how, message, family, tmp_path):
    folder, out = family("flan")[1], tmp_path / "out"
    child = [sys.executable, "-c", CHILD, str(folder), str(out), how]
    done = subprocess.run(child, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert message in done.stderr
    assert not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == (["out.partial"] if how == "SIGKILL" else [])
    partition(folder, "int8", 3, out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert sorted(path.suffix for path in out.iterdir()) == [".json", ".json", ".t5k", ".t5k", ".t5k"]


def test_what_stands_in_the_way_is_kept_and_named(family, tmp_path):
    folder = family("flan")[1]
    (tmp_path / "file").touch()
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.txt").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "out"):
        with pytest.raises(EngineError, match=str(out)):
            partition(folder, "int8", 1, out)
    assert (tmp_path / "out.partial" / "thesis.txt").is_file()


def test_a_second_process_at_the_same_folder_is_refused(family, tmp_path):
    building = tmp_path / "out.partial"
    building.mkdir()
    with (building / ".in-use").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SpecInvalid, match="another process is writing"):
            partition(family("flan")[1], "int8", 1, tmp_path / "out")
        assert building.is_dir()
    partition(family("flan")[1], "int8", 1, tmp_path / "out")
