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

Status CudaDevice::embed(const EmbedJob &from) {
    EmbedJob job = from;
    T5K_TRY(weight(from.table, &job.table));
    const char *kernel = job.format == FORMAT_F16 ? "embed_f16" : job.format == FORMAT_BF16 ? "embed_bf16" : "embed_f32";
    if (is_stepping()) {
        job.ids = batch_.state.token;
    } else {
        CUdeviceptr at = 0;
        T5K_TRY(stage(from.ids, from.R * 4, &at));
        job.ids = static_cast<const int32_t *>(pointer(at));
    }
    return launch(kernel, job, {job.R}, 256);
}

Status CudaDevice::rms_norm(const RmsNormJob &from) {
    RmsNormJob job = from;
    const void *w = nullptr;
    T5K_TRY(weight(from.w, &w));
    job.w = static_cast<const float *>(w);
    return launch(typed("rms_norm"), job, {job.R}, 256);
}

Status CudaDevice::launch_linear(LinearJob job) {
    const void *w = nullptr;
    T5K_TRY(weight(job.w.data, &w));
    job.w.data = static_cast<const uint32_t *>(w);
    job.gpu.scale = job.w.scales();
    if (job.is_tiled && activations_ != T5K_F32) {
        static const char *const tiled[] = {"", "gemm_bf16", "gemm_i8_bf16", "gemm_i4_bf16", "gemm_f16"};
        const Grid tiles{(panel_count(job.w.N) + GEMM_PANELS - 1) / GEMM_PANELS, (job.R + GEMM_ROWS - 1) / GEMM_ROWS};
        return launch(tiled[job.w.format], job, tiles, GEMM_THREADS);
    }
    static const char *const names[] = {"linear_f32", "linear_bf16", "linear_i8", "linear_i4", "linear_f16"};
    const Grid grid{panel_count(job.columns), (job.R + LINEAR_ROWS - 1) / LINEAR_ROWS};
    return launch(typed(names[job.w.format]), job, grid, LINEAR_THREADS);
}

Status CudaDevice::linear(LinearJob *jobs, int n) {
    for (int i = 0; i < n; ++i)
        if (jobs[i].columns > 0) T5K_TRY(launch_linear(jobs[i]));
    return Status::good();
}

Status CudaDevice::add_shards(const AddShardsJob &from) {
    AddShardsJob job = from;
    for (int64_t first = 0; first < from.count; first += MAX_SHARDS) {
        job.gpu.count = static_cast<int32_t>(std::min<int64_t>(MAX_SHARDS, from.count - first));
        std::copy(from.parts + first, from.parts + first + job.gpu.count, job.gpu.parts);
        T5K_TRY(launch("add_shards", job, {job.R, std::min<int64_t>((job.N + 255) / 256, 4)}, 256));
    }
    return Status::good();
}

// Where a kernel finds its records: in the plan's memory while a step is recorded or rewritten, else in the arena.
Status CudaDevice::place_records(const std::vector<AttendJob> &jobs, CUdeviceptr *at) {
    if (phase_ == Phase::capture || phase_ == Phase::refresh) {
        Plan &plan = plan_->second;
        if (plan.used + jobs.size() > plan.host.size()) return {Code::internal, "a step issued more than when it was recorded"};
        std::copy(jobs.begin(), jobs.end(), plan.host.begin() + static_cast<int64_t>(plan.used));
        *at = plan.records + plan.used * sizeof(AttendJob);
        plan.used += jobs.size();
        return Status::good();
    }
    T5K_TRY(stage(jobs.data(), static_cast<int64_t>(jobs.size() * sizeof(AttendJob)), at));
    if (phase_ == Phase::run) plan_->second.used += jobs.size();
    return Status::good();
}

// One query row each.
Status CudaDevice::launch_attend(const std::vector<AttendJob> &jobs) {
    const int64_t n = static_cast<int64_t>(jobs.size()), heads = jobs[0].heads, D = jobs[0].D;
    CUdeviceptr at = 0;
    T5K_TRY(place_records(jobs, &at));
    int64_t keys = 0;
    for (const AttendJob &each : jobs) keys = std::max(keys, each.keys);
    // A step is recorded for the longest row of its shape.
    if (is_stepping()) keys = jobs[0].append_k ? plan_->first.target : plan_->first.source;
    const int64_t splits = (keys + SPLIT_KEYS - 1) / SPLIT_KEYS;
    const AttendLaunch job{static_cast<const AttendJob *>(pointer(at)), parts_.partial, static_cast<int32_t>(splits)};
    T5K_TRY(launch(typed("attend"), job, {heads, n, splits}, 128,
                   4 * (D + round_up(std::min<int64_t>(keys, SPLIT_KEYS), LANES))));
    return splits == 1 ? Status::good() : launch(typed("attend_merge"), job, {heads, n}, 128);
}

Status CudaDevice::launch_attend_rows(const std::vector<AttendJob> &jobs) {
    const int64_t D = jobs[0].D, W = jobs[0].W;
    CUdeviceptr at = 0;
    T5K_TRY(place_records(jobs, &at));
    int64_t R = 0;
    for (const AttendJob &each : jobs) R = std::max(R, each.R);
    const AttendLaunch job{static_cast<const AttendJob *>(pointer(at)), nullptr, 0};
    const Grid grid{(R + 15) / 16, jobs[0].heads, static_cast<int64_t>(jobs.size())};
    return launch(typed("attend_rows"), job, grid, 128, 4 * (16 * D + 16 * 32 + 2 * W + 32));
}

Status CudaDevice::store_kv(const StoreJob *jobs, int n) {
    CUdeviceptr at = 0;
    T5K_TRY(stage(jobs, n * static_cast<int64_t>(sizeof(StoreJob)), &at));
    int64_t R = 0;
    for (int i = 0; i < n; ++i) R = std::max(R, jobs[i].R);
    return launch(typed("store_kv"), StoreLaunch{static_cast<const StoreJob *>(pointer(at))}, {R, jobs[0].heads, n}, 64);
}

// Rows that follow each other over one cache, as the beams of a source do in cross-attention, become one block: the cache is
// read once for all of them. A row's kernel depends on its own request only, never on what else is in the batch.
static bool continues(const AttendJob &last, const AttendJob &next, int64_t size) {
    return next.R == 1 && last.keys > 0 && !last.append_k && !next.append_k && !last.bias && !next.bias &&
           last.cache.k == next.cache.k && last.keys == next.keys && next.q == advanced(last.q, last.R * last.ldq, size) &&
           next.out == advanced(last.out, last.R * last.ldo, size);
}

Status CudaDevice::attend(const AttendJob *jobs, int n) {
    std::vector<AttendJob> all, single, several;
    for (int i = 0; i < n; ++i) {
        AttendJob job = jobs[i];
        const void *bias = nullptr;
        if (job.bias) T5K_TRY(weight(job.bias, &bias));
        job.bias = static_cast<const float *>(bias);
        if (is_stepping() && job.append_k) job.gpu.position = batch_.state.position + job.row;
        if (!all.empty() && continues(all.back(), job, storage().bytes))
            ++all.back().R;
        else
            all.push_back(job);
    }
    for (const AttendJob &each : all) {
        const bool sees_all = !each.causal || each.first_position + 1 >= each.keys;
        (each.R == 1 && sees_all ? single : several).push_back(each);
    }
    if (!single.empty()) T5K_TRY(launch_attend(single));
    return several.empty() ? Status::good() : launch_attend_rows(several);
}

}  // namespace t5k::cuda
