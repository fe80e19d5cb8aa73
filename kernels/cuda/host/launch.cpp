// How each op of the CUDA device becomes launches.
#include "cuda/host/device.h"
#include <algorithm>

namespace t5k::cuda {

std::string CudaDevice::typed(const char *op) const {
    static const char *const types[] = {"_f32", "_f16", "_bf16"};
    return std::string(op) + types[activations_];
}

Status CudaDevice::launch_kernel(const std::string &name, void *job, Grid grid, unsigned threads, int64_t dynamic_bytes) {
    if (phase_ == Phase::refresh) return Status::good();
    CUfunction &function = functions_[name];
    if (!function) T5K_TRY(check(driver_.module_function(&function, module_, name.c_str()), name.c_str()));
    if (dynamic_bytes > (48 << 10))
        T5K_TRY(check(driver_.function_attribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                                 static_cast<int>(dynamic_bytes)),
                      name.c_str()));
    void *parameters[] = {job};
    const CUresult code =
        driver_.launch(function, static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z),
                       threads, 1, 1, static_cast<unsigned>(dynamic_bytes), stream_, parameters, nullptr);
    return check(code, name.c_str());
}

Status CudaDevice::embed(const void *table, int format, const int32_t *ids, int64_t R, int64_t E, float *y, int64_t ldy) {
    const void *rows = nullptr;
    T5K_TRY(weight(table, &rows));
    const char *kernel = format == FORMAT_F16 ? "embed_f16" : format == FORMAT_BF16 ? "embed_bf16" : "embed_f32";
    if (is_stepping()) return launch(kernel, EmbedJob{rows, batch_.state.token, y, ldy, static_cast<int>(E)}, {R}, 256);
    CUdeviceptr at = 0;
    T5K_TRY(stage(ids, R * 4, &at));
    const EmbedJob job{rows, static_cast<const int *>(pointer(at)), y, ldy, static_cast<int>(E)};
    return launch(kernel, job, {R}, 256);
}

Status CudaDevice::rms_norm(const float *x, int64_t ldx, const float *w, float *y, int64_t ldy, int64_t R, int64_t E,
                                   float eps, float out_scale) {
    const void *w_at = nullptr;
    T5K_TRY(weight(w, &w_at));
    const RmsNormJob job{const_cast<float *>(x), nullptr, static_cast<const float *>(w_at), y, ldx, ldy, static_cast<int>(E),
                         eps, out_scale};
    return launch(typed("rms_norm"), job, {R}, 256);
}

Status CudaDevice::launch_linear(const t5k::LinearJob &from, Best *best, int64_t best_stride) {
    static const char *const names[] = {"linear_f32", "linear_bf16", "linear_i8", "linear_i4", "linear_f16"};
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
    job.y_is_f32 = from.y_is_f32;
    job.out_scale = from.out_scale;
    job.first_column = static_cast<int>(from.first_column);
    job.best_stride = static_cast<int>(best_stride);
    if (from.is_tiled && activations_ != T5K_F32) {
        static const char *const tiled[] = {"", "gemm_bf16", "gemm_i8_bf16", "gemm_i4_bf16", "gemm_f16"};
        const Grid tiles{(panels + GEMM_PANELS - 1) / GEMM_PANELS, (from.R + GEMM_ROWS - 1) / GEMM_ROWS};
        return launch(tiled[from.w.format], job, tiles, GEMM_THREADS);
    }
    const Grid grid{panel_count(from.columns), (from.R + LINEAR_ROWS - 1) / LINEAR_ROWS};
    return launch(typed(names[from.w.format]), job, grid, LINEAR_THREADS);
}

Status CudaDevice::linear(t5k::LinearJob *jobs, int n) {
    for (int i = 0; i < n; ++i)
        if (jobs[i].columns > 0) T5K_TRY(launch_linear(jobs[i], nullptr));
    return Status::good();
}

Status CudaDevice::add_shards(const float *const *parts, int n, int64_t ld, float *y, int64_t ldy, int64_t R, int64_t N) {
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

// Where a kernel finds its records: in the plan's memory while a step is recorded or rewritten, else in the arena.
Status CudaDevice::place_records(const std::vector<AttendRows> &rows, CUdeviceptr *at) {
    if (phase_ == Phase::capture || phase_ == Phase::refresh) {
        Plan &plan = plan_->second;
        if (plan.used + rows.size() > plan.host.size()) return {Code::internal, "a step issued more than when it was recorded"};
        std::copy(rows.begin(), rows.end(), plan.host.begin() + static_cast<int64_t>(plan.used));
        *at = plan.records + plan.used * sizeof(AttendRows);
        plan.used += rows.size();
        return Status::good();
    }
    T5K_TRY(stage(rows.data(), static_cast<int64_t>(rows.size() * sizeof(AttendRows)), at));
    if (phase_ == Phase::run) plan_->second.used += rows.size();
    return Status::good();
}

Status CudaDevice::launch_attention(const std::vector<AttendRows> &rows, const char *kernel, const t5k::AttendJob &first) {
    const int64_t n = static_cast<int64_t>(rows.size()), heads = first.heads, D = first.D, W = first.W;
    CUdeviceptr at = 0;
    T5K_TRY(place_records(rows, &at));
    int64_t R = 0, keys = 0;
    for (const AttendRows &each : rows) R = std::max<int64_t>(R, each.R), keys = std::max<int64_t>(keys, each.keys);
    const std::string op = kernel, name = typed(kernel);
    AttendJob job{static_cast<const AttendRows *>(pointer(at)), static_cast<int>(D), static_cast<int>(W), nullptr, 0};
    if (op == "store_kv") return launch(name, job, {R, heads, n}, 64);
    if (op == "attend_rows") return launch(name, job, {(R + 15) / 16, heads, n}, 128, 4 * (16 * D + 16 * 32 + 2 * W + 32));
    // A step is recorded for the longest row of its shape.
    if (is_stepping()) keys = first.append_k ? plan_->first.target : plan_->first.source;
    const int64_t splits = (keys + SPLIT_KEYS - 1) / SPLIT_KEYS;
    job.partial = parts_.partial;
    job.splits = static_cast<int>(splits);
    T5K_TRY(launch(name, job, {heads, n, splits}, 128, 4 * (D + round_up(std::min<int64_t>(keys, SPLIT_KEYS), 16))));
    return splits == 1 ? Status::good() : launch(typed("attend_merge"), job, {heads, n}, 128);
}

Status CudaDevice::store_kv(const StoreJob *jobs, int n) {
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
    t5k::AttendJob first;
    first.heads = jobs[0].heads;
    first.D = jobs[0].D;
    return launch_attention(rows, "store_kv", first);
}

// Rows that follow each other over one cache, as the beams of a source do in cross-attention, become one block: the cache is
// read once for all of them. A row's kernel depends on its own request only, never on what else is in the batch.
static bool continues(const AttendRows &last, const AttendRows &next, int64_t size) {
    const auto after = [size](const void *p, i64 numbers) { return static_cast<const void *>(advanced(static_cast<const char *>(p), numbers, size)); };
    return next.R == 1 && last.keys > 0 && !last.append_k && !next.append_k && !last.bias && !next.bias && last.k == next.k &&
           last.keys == next.keys && next.q == after(last.q, last.R * last.ldq) && next.out == after(last.out, last.R * last.ldo);
}

Status CudaDevice::attend(const t5k::AttendJob *jobs, int n) {
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
        if (is_stepping() && from.append_k) to.position = batch_.state.position + from.row;
        if (!all.empty() && continues(all.back(), to, storage().bytes))
            ++all.back().R;
        else
            all.push_back(to);
    }
    for (const AttendRows &each : all) {
        const bool sees_all = !each.causal || each.first_position + 1 >= each.keys;
        (each.R == 1 && sees_all ? single : several).push_back(each);
    }
    if (!single.empty()) T5K_TRY(launch_attention(single, "attend", jobs[0]));
    return several.empty() ? Status::good() : launch_attention(several, "attend_rows", jobs[0]);
}

}  // namespace t5k::cuda
