"""The bias table against Hugging Face's own bucket function."""

from __future__ import annotations

import numpy as np
import pytest

from engines.t5.bias import bias_table, buckets_of

pytestmark = pytest.mark.heavy

torch = pytest.importorskip("torch")
t5_modeling = pytest.importorskip("transformers.models.t5.modeling_t5")

DISTANCES = np.arange(-1024, 1025)


@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (12, 40), (64, 256)])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_equal_hugging_face_for_every_distance_to_1024(bidirectional, buckets, max_distance):
    expected = t5_modeling.T5Attention._relative_position_bucket(
        torch.from_numpy(DISTANCES), bidirectional=bidirectional, num_buckets=buckets, max_distance=max_distance
    )
    got = buckets_of(DISTANCES, bidirectional=bidirectional, buckets=buckets, max_distance=max_distance)
    np.testing.assert_array_equal(got, expected.numpy())


@pytest.mark.parametrize("bidirectional", [True, False])
def test_every_distance_beyond_the_table_shares_its_last_entry(bidirectional):
    weight = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    table = bias_table(weight, bidirectional=bidirectional, max_distance=128)
    entry = np.clip(DISTANCES, -128, 128) + 128 + 16
    index = buckets_of(DISTANCES, bidirectional=bidirectional, buckets=32, max_distance=128)
    np.testing.assert_array_equal(table[:, entry], weight[index].T)
    assert (table[:, :16] == table[:, 16:17]).all()
    assert (table[:, -16:] == table[:, -17:-16]).all()
