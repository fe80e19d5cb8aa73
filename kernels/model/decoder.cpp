// One decode step over the rows of all running requests, and the output head.

#include <algorithm>

#include "model/model.h"

namespace t5k {

Status Model::decode(const Row *rows, int n) {
    const int64_t E = config_.d_model, stride = stride_of(E);
    ids_.clear();
    for (int i = 0; i < n; ++i) ids_.push_back(rows[i].token);
    T5K_TRY(device_->embed({weights_.embed, weights_.embed_format, ids_.data(), decoder_.residual.data(), stride, n, E}));
    for (size_t l = 0; l < weights_.decoder.layers.size(); ++l)
        T5K_TRY(decoder_layer(weights_.decoder.layers[l], static_cast<int64_t>(l), rows, n));
    return device_->rms_norm({decoder_.residual.data(), stride, weights_.decoder.norm_final, decoder_.normed.data(), stride, n, E,
                              config_.eps, config_.head_scale});
}

Status Model::decoder_layer(const LayerWeights &layer, int64_t index, const Row *rows, int n) {
    const int64_t I = inner(), R = n, ld = stride_of(3 * I), ldo = stride_of(I);
    T5K_TRY(attention_in(decoder_, layer.norm_att, layer.qkv, R));
    attends_.clear();
    for (int64_t i = 0; i < R; ++i)
        for (int64_t rank = 0; rank < ranks(); ++rank) {
            AttendJob job;
            const int64_t row = (rank * R + i) * ld;
            job.q = decoder_.wide.at(row);
            job.ldq = ld;
            job.append_k = decoder_.wide.at(row + I);
            job.append_v = decoder_.wide.at(row + 2 * I);
            job.out = decoder_.mixed.at((rank * R + i) * ldo);
            job.ldo = ldo;
            job.cache = rows[i].self->at(config_, index, rank);
            job.bias = layer.bias[static_cast<size_t>(rank)];
            job.W = config_.bias_window;
            job.heads = config_.heads / ranks();
            job.R = 1;
            job.D = config_.d_kv;
            job.keys = rows[i].position + 1;
            job.first_position = rows[i].position;
            job.row = i;
            job.rank = rank;
            attends_.push_back(job);
        }
    T5K_TRY(device_->attend(attends_.data(), static_cast<int>(attends_.size())));
    T5K_TRY(project(decoder_, layer.out, decoder_.mixed, I, R));

    T5K_TRY(attention_in(decoder_, layer.norm_cross, layer.cross_q, R));
    size_t j = 0;
    for (int64_t i = 0; i < R; ++i)
        for (int64_t rank = 0; rank < ranks(); ++rank) {
            AttendJob &job = attends_[j++];
            job.append_k = job.append_v = nullptr;
            job.cache = rows[i].cross->at(config_, index, rank);
            job.bias = nullptr;
            job.keys = rows[i].source;
        }
    T5K_TRY(device_->attend(attends_.data(), static_cast<int>(attends_.size())));
    T5K_TRY(project(decoder_, layer.cross_out, decoder_.mixed, I, R));
    return feed_forward(decoder_, layer, R);
}

// One job per rank; each writes its own columns of the same rows.
void Model::head_jobs(const Sharded &w, int n, float *out, int64_t ld) {
    column_jobs(w, decoder_.normed.data(), stride_of(config_.d_model), out, ld, n, EPILOGUE_STORE);
    int64_t column = 0;
    for (LinearJob &job : jobs_) {
        job.first_column = column;
        job.y = out + column;
        job.y_is_f32 = true;
        job.is_tiled = decoder_.is_tiled;
        // Columns that pad the vocabulary for the ranks do not exist.
        job.columns = std::max<int64_t>(0, std::min(job.w.N, config_.vocab - column));
        column += job.w.N;
    }
}

// The step of a device that runs ahead.
Status Model::step(const Row *rows, const StepShape &shape) {
    bool issues = false;
    T5K_TRY(device_->begin_step(shape, &issues));
    if (issues) {
        T5K_TRY(decode(rows, shape.rows));
        const int64_t ld = stride_of(round_up(config_.vocab, LANES * ranks()));
        head_jobs(weights_.head, shape.rows, logits_.data(), ld);
        T5K_TRY(device_->choose(jobs_.data(), static_cast<int>(jobs_.size()), logits_.data(), ld, config_.vocab));
    }
    return device_->end_step();
}

Status Model::logits(int n, const float **out, int64_t *ld) {
    *ld = stride_of(round_up(config_.vocab, LANES * ranks()));
    *out = logits_.data();
    head_jobs(weights_.head, n, logits_.data(), *ld);
    return device_->linear_joined(jobs_.data(), static_cast<int>(jobs_.size()));
}

Status Model::best(int n, Best *out) {
    head_jobs(weights_.head, n, logits_.data(), 0);
    for (LinearJob &job : jobs_) job.epilogue = EPILOGUE_ARGMAX;
    if (!weights_.screen.empty()) {
        fine_jobs_ = jobs_;
        head_jobs(weights_.screen, n, logits_.data(), stride_of(round_up(config_.vocab, LANES * ranks())));
        for (LinearJob &job : jobs_) job.quantize_rows = false;  // w8, whatever the other layers do
        return device_->screened_argmax(jobs_.data(), fine_jobs_.data(), weights_.screen_norms.data(),
                                        static_cast<int>(jobs_.size()), out);
    }
    return device_->linear_argmax(jobs_.data(), static_cast<int>(jobs_.size()), out);
}

}  // namespace t5k
