#include "model/model.h"

#include <algorithm>

namespace t5k {
namespace {

// Slots up to which decode rows are multiplied one by one: a weight is then read again for every eighth row. Beyond, whole
// tiles are cheaper by the byte model (engines/t5/time_model.py); not measured on a GPU.
constexpr int32_t UNTILED_SLOTS = 16;

}  // namespace

Status Buffer::reserve(Device &device, int64_t numbers, int64_t size, int64_t shards) {
    const int64_t bytes = numbers * size;
    size_ = size;
    if (bytes <= bytes_) return Status::good();
    reset();
    void *memory = nullptr;
    T5K_TRY(shards > 1 ? device.allocate_shards(bytes, shards, &memory) : device.allocate(bytes, &memory));
    device_ = &device;
    data_ = static_cast<float *>(memory);
    bytes_ = bytes;
    return Status::good();
}

void Buffer::reset() {
    if (data_) device_->release(data_, bytes_);
    data_ = nullptr;
    bytes_ = 0;
}

HeadCache LayerCache::at(const t5k_config &c, int64_t layer, int64_t rank) const {
    const int64_t head = (rank * c.decoder_layers + layer) * (c.heads / c.ranks);
    return head_cache({k.data(), v.data(), capacity, size}, head, c.d_kv);
}

Status LayerCache::reserve(Device &device, const t5k_config &c, int64_t positions) {
    positions = round_up(positions, LANES);
    if (positions <= capacity) return Status::good();
    const int64_t heads = int64_t{c.heads} * std::max(c.decoder_layers, 1);
    capacity = 0;
    k.reset();  // a part per rank: no larger than asked for
    v.reset();
    size = device.cache_bytes();
    T5K_TRY(k.reserve(device, heads * k_cache_floats(positions, c.d_kv), size, c.ranks));
    T5K_TRY(v.reserve(device, heads * v_cache_floats(positions, c.d_kv), size, c.ranks));
    capacity = positions;
    return Status::good();
}

Model::Model(const t5k_config &config, std::unique_ptr<Device> device)
    : config_(config), device_(std::move(device)), storage_(device_->storage()) {
    encoder_.is_tiled = true;
    decoder_.is_tiled = config.max_slots > UNTILED_SLOTS;
}

Status Model::bind(const t5k_tensor *tensors, int32_t count) {
    jobs_.resize(static_cast<size_t>(ranks()));
    parts_.resize(static_cast<size_t>(ranks()));
    T5K_TRY(bind_weights(config_, tensors, count, &weights_));
    scale_hidden(config_, storage_.largest, &weights_);
    for (int32_t i = 0; i < count; ++i)
        T5K_TRY(device_->bind(tensors[i].data, tensors[i].bytes, is_cut(tensors[i].role) ? tensors[i].rank : -1));
    return Status::good();
}

Status Model::reserve_rows(Activations &a, int64_t rows) {
    if (rows <= a.rows) return Status::good();
    const int64_t R = rows, n = ranks();
    T5K_TRY(a.residual.reserve(*device_, R * stride_of(config_.d_model)));
    T5K_TRY(a.normed.reserve(*device_, R * stride_of(config_.d_model), storage_.bytes));
    T5K_TRY(a.wide.reserve(*device_, n * R * stride_of(3 * inner()), storage_.bytes));
    T5K_TRY(a.mixed.reserve(*device_, n * R * stride_of(inner()), storage_.bytes));
    T5K_TRY(a.hidden.reserve(*device_, n * R * stride_of(hidden()), storage_.bytes));
    if (n > 1) T5K_TRY(a.partial.reserve(*device_, n * R * stride_of(config_.d_model)));
    a.rows = rows;
    return Status::good();
}

Status Model::reserve_encoder(int64_t rows, int64_t longest, int sequences) {
    T5K_TRY(reserve_rows(encoder_, rows));
    const int64_t width = std::max<int64_t>({config_.d_model, inner(), hidden()});
    T5K_TRY(device_->reserve({rows, width, longest, 0, ranks(), 0}));
    // Each sequence rounds up to whole panels of keys; one layer at a time.
    const int64_t positions = rows + LANES * sequences;
    T5K_TRY(scratch_cache_.k.reserve(*device_, config_.heads * k_cache_floats(positions, config_.d_kv), storage_.bytes));
    return scratch_cache_.v.reserve(*device_, config_.heads * v_cache_floats(positions, config_.d_kv), storage_.bytes);
}

Status Model::reserve_decoder(int64_t rows) {
    T5K_TRY(reserve_rows(decoder_, rows));
    const int64_t width = std::max<int64_t>({config_.d_model, inner(), hidden()});
    const int64_t keys = std::max(config_.max_source, config_.max_target);
    const int64_t columns = stride_of(round_up(config_.vocab, LANES * ranks()));
    T5K_TRY(device_->reserve({rows, width, keys, config_.heads / ranks() * (config_.d_kv + 2), ranks(), rows * columns}));
    return logits_.reserve(*device_, rows * columns);
}

// Whether rows are taken one by one or in tiles belongs to the pass, not to how many there are: a row's bits would change
// with its batch mates.
Status Model::linear(const Activations &a, size_t n) {
    for (size_t i = 0; i < n; ++i) jobs_[i].is_tiled = a.is_tiled;
    return device_->linear(jobs_.data(), static_cast<int>(n));
}

// One job per rank: y[rank] = x W[rank]. x is shared by the ranks.
void Model::column_jobs(const Sharded &w, const float *x, int64_t ldx, float *y, int64_t ldy, int64_t R,
                        Epilogue epilogue) {
    for (size_t rank = 0; rank < w.size(); ++rank) {
        LinearJob &job = jobs_[rank] = LinearJob{};
        job.w = w[rank];
        job.x = x;
        job.ldx = ldx;
        job.y = advanced(y, static_cast<int64_t>(rank) * R * ldy, storage_.bytes);
        job.ldy = ldy;
        job.R = R;
        job.epilogue = epilogue;
        job.columns = epilogue == EPILOGUE_GATED ? hidden() : w[rank].N;
        job.act = static_cast<Activation>(config_.activation);
        job.quantize_rows = config_.quantize_rows && w[rank].format == FORMAT_I8;
    }
}

// wide[rank] = norm(residual) W[rank].
Status Model::attention_in(Activations &a, const float *norm, const Sharded &w, int64_t R) {
    const int64_t E = config_.d_model, ld = stride_of(E);
    T5K_TRY(device_->rms_norm({a.residual.data(), ld, norm, a.normed.data(), ld, R, E, config_.eps, 1.0f}));
    column_jobs(w, a.normed.data(), ld, a.wide.data(), stride_of(3 * inner()), R, EPILOGUE_STORE);
    return linear(a, w.size());
}

// residual += out_scale * sum over ranks of x[rank] W[rank]; the order of the sum is the order of the ranks.
Status Model::project(Activations &a, const Sharded &w, const Buffer &x, int64_t width, int64_t R, float out_scale) {
    const int64_t ld = stride_of(config_.d_model), ldx = stride_of(width);
    const bool is_cut = w.size() > 1;
    column_jobs(w, x.data(), ldx, nullptr, ld, R, is_cut ? EPILOGUE_STORE : EPILOGUE_ADD);
    for (size_t rank = 0; rank < w.size(); ++rank) {
        const auto r = static_cast<int64_t>(rank);
        jobs_[rank].x = x.at(r * R * ldx);
        jobs_[rank].y = is_cut ? a.partial.at(r * R * ld) : a.residual.data();
        jobs_[rank].y_is_f32 = true;
        jobs_[rank].out_scale = out_scale;
        parts_[rank] = jobs_[rank].y;
    }
    T5K_TRY(linear(a, w.size()));
    if (!is_cut) return Status::good();
    AddShardsJob sum;
    sum.parts = parts_.data();
    sum.count = static_cast<int64_t>(w.size());
    sum.ld = sum.ldy = ld;
    sum.y = a.residual.data();
    sum.R = R;
    sum.N = config_.d_model;
    return device_->add_shards(sum);
}

Status Model::feed_forward(Activations &a, const LayerWeights &layer, int64_t R) {
    const int64_t E = config_.d_model, ld = stride_of(E);
    T5K_TRY(device_->rms_norm({a.residual.data(), ld, layer.norm_ff, a.normed.data(), ld, R, E, config_.eps, 1.0f}));
    column_jobs(layer.ff_in, a.normed.data(), ld, a.hidden.data(), stride_of(hidden()), R,
                config_.is_gated ? EPILOGUE_GATED : EPILOGUE_ACT);
    for (LinearJob &job : jobs_) job.out_scale = layer.hidden_scale;
    T5K_TRY(linear(a, layer.ff_in.size()));
    return project(a, layer.ff_out, a.hidden, hidden(), R, 1.0f / layer.hidden_scale);
}

}  // namespace t5k
