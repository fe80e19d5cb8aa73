// The encoder over packed rows (padding removed) and the cross-attention keys and values it leaves behind.

#include <algorithm>

#include "model/model.h"

namespace t5k {

Status Model::encode(const Sequence *sequences, int n, const float **out, int64_t *ld) {
    const int64_t E = config_.d_model, stride = stride_of(E);
    ids_.clear();
    for (int i = 0; i < n; ++i) ids_.insert(ids_.end(), sequences[i].ids, sequences[i].ids + sequences[i].length);
    const auto R = static_cast<int64_t>(ids_.size());
    T5K_TRY(device_->embed({weights_.embed, weights_.embed_format, ids_.data(), encoder_.residual.data(), stride, R, E}));
    for (const LayerWeights &layer : weights_.encoder.layers) T5K_TRY(encoder_layer(layer, sequences, n, R));
    T5K_TRY(device_->rms_norm({encoder_.residual.data(), stride, weights_.encoder.norm_final, encoder_.normed.data(), stride, R, E,
                               config_.eps, 1.0f}));
    encoded_rows_ = R;
    *out = encoder_.normed.data();
    *ld = stride;
    return Status::good();
}

Status Model::encoder_layer(const LayerWeights &layer, const Sequence *sequences, int n, int64_t R) {
    const int64_t I = inner(), D = config_.d_kv, heads = config_.heads / ranks();
    const int64_t ld = stride_of(3 * I), ldo = stride_of(I);
    T5K_TRY(attention_in(encoder_, layer.norm_att, layer.qkv, R));
    attends_.clear();
    stores_.clear();
    int64_t row = 0, position = 0;
    for (int s = 0; s < n; ++s) {
        const int64_t S = sequences[s].length, capacity = round_up(S, LANES);
        for (int64_t rank = 0; rank < ranks(); ++rank) {
            const int64_t at = (rank * R + row) * ld;
            HeadCache cache{scratch_cache_.k.at(position * k_cache_floats(1, D) * config_.heads),
                            scratch_cache_.v.at(position * v_cache_floats(1, D) * config_.heads), capacity, storage_.bytes};
            cache = head_cache(cache, rank * heads, D);
            StoreJob store;
            store.k = encoder_.wide.at(at + I);
            store.v = encoder_.wide.at(at + 2 * I);
            store.ld = ld;
            store.cache = cache;
            store.heads = heads;
            store.R = S;
            store.D = D;
            store.rank = rank;
            stores_.push_back(store);
            AttendJob job;
            job.q = encoder_.wide.at(at);
            job.ldq = ld;
            job.out = encoder_.mixed.at((rank * R + row) * ldo);
            job.ldo = ldo;
            job.cache = cache;
            job.bias = layer.bias[static_cast<size_t>(rank)];
            job.W = config_.bias_window;
            job.heads = heads;
            job.R = S;
            job.D = D;
            job.keys = S;
            job.is_rounded = layer.qkv[0].format != FORMAT_F32;
            job.rank = rank;
            attends_.push_back(job);
        }
        row += S;
        position += capacity;
    }
    T5K_TRY(device_->store_kv(stores_.data(), static_cast<int>(stores_.size())));
    T5K_TRY(device_->attend(attends_.data(), static_cast<int>(attends_.size())));
    T5K_TRY(project(encoder_, layer.out, encoder_.mixed, I, R));
    return feed_forward(encoder_, layer, R);
}

Status Model::fill_cross(const Sequence *sequences, int n, LayerCache *const *cross) {
    const int64_t I = inner(), E = config_.d_model, R = encoded_rows_, ld = stride_of(3 * I);
    for (size_t l = 0; l < weights_.decoder.layers.size(); ++l) {
        const Sharded &w = weights_.decoder.layers[l].cross_kv;
        column_jobs(w, encoder_.normed.data(), stride_of(E), encoder_.wide.data(), ld, R, EPILOGUE_STORE);
        T5K_TRY(linear(encoder_, w.size()));
        stores_.clear();
        int64_t row = 0;
        for (int s = 0; s < n; ++s) {
            for (int64_t rank = 0; rank < ranks(); ++rank) {
                StoreJob store;
                store.k = encoder_.wide.at((rank * R + row) * ld);
                store.v = encoder_.wide.at((rank * R + row) * ld + I);
                store.ld = ld;
                store.cache = cross[s]->at(config_, static_cast<int64_t>(l), rank);
                store.heads = config_.heads / ranks();
                store.R = sequences[s].length;
                store.D = config_.d_kv;
                store.rank = rank;
                stores_.push_back(store);
            }
            row += sequences[s].length;
        }
        T5K_TRY(device_->store_kv(stores_.data(), static_cast<int>(stores_.size())));
    }
    return Status::good();
}

}  // namespace t5k
