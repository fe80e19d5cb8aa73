// How each op of the CUDA device becomes launches: the bodies of CudaDevice's ops. Included by one source file.
#pragma once

#include <algorithm>

#include "device/cuda_device.h"

namespace t5k::cuda {

inline Status CudaDevice::embed(const void *table, int format, const int32_t *ids, int64_t R, int64_t E, float *y,
                                int64_t ldy) {
    const void *rows = nullptr;
    T5K_TRY(weight(table, &rows));
    void *host = nullptr;
    CUdeviceptr at = 0;
    T5K_TRY(stage(R * 4, &host, &at));
    std::memcpy(host, ids, static_cast<size_t>(R) * 4);
    const EmbedJob job{rows, static_cast<const int *>(pointer(at)), y, ldy, static_cast<int>(E)};
    return launch(format == FORMAT_BF16 ? "embed_bf16" : "embed_f32", job, {R}, 256);
}

inline Status CudaDevice::rms_norm(const float *x, int64_t ldx, const float *w, float *y, int64_t ldy, int64_t R, int64_t E,
                                   float eps, float out_scale) {
    const void *w_at = nullptr;
    T5K_TRY(weight(w, &w_at));
    const RmsNormJob job{const_cast<float *>(x), nullptr, static_cast<const float *>(w_at), y, ldx, ldy, static_cast<int>(E),
                         eps, out_scale};
    return launch("rms_norm_f32", job, {R}, 256);
}

inline Status CudaDevice::launch_linear(const t5k::LinearJob &from, Best *best) {
    static const char *const names[] = {"linear_f32_f32", "linear_bf16_f32", "linear_i8_f32", "linear_i4_f32"};
    const void *w = nullptr;
    T5K_TRY(weight(from.w.data, &w));
    const int64_t panels = panel_count(from.w.N);
    LinearJob job{};
    job.w = static_cast<const u32 *>(w);
    job.scale = reinterpret_cast<const float *>(job.w + panels * panel_dwords(from.w.format, from.w.K));
    job.x = from.x;
    job.y = from.y;
    job.best = best;
    job.ldx = from.ldx;
    job.ldy = from.ldy;
    job.R = static_cast<int>(from.R);
    job.K = static_cast<int>(from.w.K);
    job.N = static_cast<int>(from.columns);
    job.panels = static_cast<int>(panels);
    job.epilogue = from.epilogue;
    job.act = from.act;
    job.y_is_f32 = 1;
    job.first_column = static_cast<int>(from.first_column);
    const Grid grid{panel_count(from.columns), (from.R + LINEAR_ROWS - 1) / LINEAR_ROWS};
    return launch(names[from.w.format], job, grid, LINEAR_THREADS);
}

inline Status CudaDevice::linear(t5k::LinearJob *jobs, int n) {
    for (int i = 0; i < n; ++i)
        if (jobs[i].columns > 0) T5K_TRY(launch_linear(jobs[i], nullptr));
    return Status::good();
}

inline Status CudaDevice::linear_argmax(t5k::LinearJob *jobs, int n, t5k::Best *best) {
    const int64_t R = jobs[0].R;
    int64_t bytes = R * n * 8;
    for (int i = 0; i < n; ++i) bytes += R * panel_count(jobs[i].columns) * 8;
    T5K_TRY(scratch(bytes));
    auto *each = static_cast<Best *>(pointer(scratch_));  // [n, R], then the partial bests of each shard
    Best *parts = each + n * R;
    std::vector<Best> found(static_cast<size_t>(n * R), Best{-__builtin_inff(), 0});
    for (int i = 0; i < n; ++i) {
        if (jobs[i].columns <= 0) continue;
        const int64_t panels = panel_count(jobs[i].columns);
        T5K_TRY(launch_linear(jobs[i], parts));
        T5K_TRY(launch("best_panels", BestJob{parts, nullptr, each + i * R, 0, static_cast<int>(panels)}, {R}, 256));
        T5K_TRY(check(driver_.to_host(found.data() + i * R, address(each + i * R), static_cast<size_t>(R) * 8, stream_),
                      "cuMemcpyDtoHAsync"));
        parts += R * panels;
    }
    T5K_TRY(wait());
    for (int64_t r = 0; r < R; ++r) {
        best[r] = {-__builtin_inff(), 0};
        for (int i = 0; i < n; ++i) {
            const Best &other = found[static_cast<size_t>(i * R + r)];
            if (other.value > best[r].value) best[r] = {other.value, other.index};
        }
    }
    return Status::good();
}

inline Status CudaDevice::add_shards(const float *const *parts, int n, int64_t ld, float *y, int64_t ldy, int64_t R,
                                     int64_t N) {
    for (int first = 0; first < n; first += MAX_SHARDS) {
        AddShardsJob job{};
        job.count = std::min(MAX_SHARDS, n - first);
        std::copy(parts + first, parts + first + job.count, job.parts);
        job.y = y;
        job.ld = ld;
        job.ldy = ldy;
        job.N = static_cast<int>(N);
        T5K_TRY(launch("add_shards", job, {R, std::min<int64_t>((N + 255) / 256, 4)}, 256));
    }
    return Status::good();
}

inline Status CudaDevice::launch_attention(const std::vector<AttendRows> &rows, const char *kernel, int64_t heads, int64_t D,
                                           int64_t W) {
    const auto n = static_cast<int64_t>(rows.size());
    void *host = nullptr;
    CUdeviceptr at = 0;
    T5K_TRY(stage(n * static_cast<int64_t>(sizeof(AttendRows)), &host, &at));
    std::memcpy(host, rows.data(), rows.size() * sizeof(AttendRows));
    int64_t R = 0, keys = 0;
    for (const AttendRows &each : rows) R = std::max<int64_t>(R, each.R), keys = std::max<int64_t>(keys, each.keys);
    const AttendJob job{static_cast<const AttendRows *>(pointer(at)), static_cast<int>(D), static_cast<int>(W)};
    const std::string name = kernel;
    if (name == "store_kv_f32") return launch(name, job, {R, heads, n}, 64);
    if (name == "attend_f32") return launch(name, job, {heads, n}, 128, 4 * (D + round_up(keys, 16)));
    return launch(name, job, {(R + 15) / 16, heads, n}, 128, 4 * (16 * D + 16 * 32 + 2 * W + 32));
}

inline Status CudaDevice::store_kv(const StoreJob *jobs, int n) {
    std::vector<AttendRows> rows;
    for (int i = 0; i < n; ++i) {
        const StoreJob &from = jobs[i];
        AttendRows to{};
        to.append_k = from.k;
        to.append_v = from.v;
        to.k = from.cache.k;
        to.v = from.cache.v;
        to.ldq = from.ld;
        to.capacity = from.cache.capacity;
        to.R = static_cast<int>(from.R);
        to.first_position = static_cast<int>(from.first);
        rows.push_back(to);
    }
    return launch_attention(rows, "store_kv_f32", jobs[0].heads, jobs[0].D, 0);
}

// Rows that follow each other over one cache, as the beams of a source do in cross-attention, become one block: the cache is
// read once for all of them. A row's kernel depends on its own request only, never on what else is in the batch.
inline bool continues(const AttendRows &last, const AttendRows &next) {
    const auto after = [](const void *p, i64 elements) { return static_cast<const float *>(p) + elements; };
    return next.R == 1 && !last.append_k && !next.append_k && !last.bias && !next.bias && last.k == next.k &&
           last.keys == next.keys && next.q == after(last.q, last.R * last.ldq) && next.out == after(last.out, last.R * last.ldo);
}

inline Status CudaDevice::attend(const t5k::AttendJob *jobs, int n) {
    std::vector<AttendRows> all, single, several;
    for (int i = 0; i < n; ++i) {
        const t5k::AttendJob &from = jobs[i];
        AttendRows to{};
        const void *bias = nullptr;
        if (from.bias) T5K_TRY(weight(from.bias, &bias));
        to.q = from.q;
        to.out = from.out;
        to.append_k = from.append_k;
        to.append_v = from.append_v;
        to.k = from.cache.k;
        to.v = from.cache.v;
        to.bias = static_cast<const float *>(bias);
        to.ldq = from.ldq;
        to.ldo = from.ldo;
        to.capacity = from.cache.capacity;
        to.R = static_cast<int>(from.R);
        to.keys = static_cast<int>(from.keys);
        to.first_position = static_cast<int>(from.first_position);
        to.causal = from.causal;
        if (!all.empty() && continues(all.back(), to))
            ++all.back().R;
        else
            all.push_back(to);
    }
    for (const AttendRows &each : all) {
        const bool sees_all = !each.causal || each.first_position + 1 >= each.keys;
        (each.R == 1 && sees_all ? single : several).push_back(each);
    }
    const int64_t heads = jobs[0].heads, D = jobs[0].D, W = jobs[0].W;
    if (!single.empty()) T5K_TRY(launch_attention(single, "attend_f32", heads, D, W));
    return several.empty() ? Status::good() : launch_attention(several, "attend_rows_f32", heads, D, W);
}

inline Status CudaDevice::log_normalizers(const float *x, int64_t ldx, int64_t R, int64_t V, double *logsum) {
    T5K_TRY(scratch(R * 4));
    const LogSoftmaxJob job{x, nullptr, static_cast<float *>(pointer(scratch_)), ldx, 0, static_cast<int>(V)};
    T5K_TRY(launch("log_softmax", job, {R}, 256));
    std::vector<float> found(static_cast<size_t>(R));
    T5K_TRY(read(found.data(), pointer(scratch_), R * 4));
    std::copy(found.begin(), found.end(), logsum);
    return Status::good();
}

inline Status CudaDevice::argmax(const float *x, int64_t V, t5k::Best *best) {
    T5K_TRY(scratch(8));
    const BestJob job{nullptr, x, static_cast<Best *>(pointer(scratch_)), V, static_cast<int>(V)};
    T5K_TRY(launch("best_logits", job, {1}, 256));
    return read(best, pointer(scratch_), 8);
}

}  // namespace t5k::cuda
