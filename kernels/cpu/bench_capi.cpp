// Single ops for tests and benchmarks (include/t5k_ops.h), over the same device the model uses.

#include <chrono>
#include <cstring>
#include <new>
#include <vector>

#include "cpu/device.h"
#include "cpu/team.h"
#include "include/t5k_ops.h"
#include "ops/linear_reference.h"
#include "ops/probe.h"

using namespace t5k;

struct t5k_bench {
    std::unique_ptr<Device> device;
    Isa isa;
    int threads;
};

namespace {

int64_t stride(int64_t width) { return round_up(width, 32); }

double now_s() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// A zeroed device buffer for the length of one call.
class Scratch {
   public:
    Scratch(Device &device, int64_t floats) : device_(device), bytes_(floats * 4) {
        void *memory = nullptr;
        ok_ = device.allocate(bytes_, &memory).ok();
        data_ = static_cast<float *>(memory);
    }
    ~Scratch() { device_.release(data_, bytes_); }
    Scratch(const Scratch &) = delete;
    Scratch &operator=(const Scratch &) = delete;
    bool ok() const { return ok_; }
    float *data() const { return data_; }

   private:
    Device &device_;
    int64_t bytes_;
    float *data_ = nullptr;
    bool ok_ = false;
};

// Dense rows on both sides.
LinearJob linear_job(const Panels &w, int64_t columns, const float *x, int64_t R, float *y) {
    LinearJob job;
    job.w = w;
    job.x = x;
    job.ldx = stride(w.K);
    job.y = y;
    job.ldy = stride(columns);
    job.R = R;
    job.columns = columns;
    return job;
}

template <class F>
t5k_status guarded(F body) noexcept {
    try {
        return static_cast<t5k_status>(body().code);
    } catch (...) {
        return T5K_NO_MEMORY;
    }
}

}  // namespace

extern "C" {

t5k_bench *t5k_bench_open(const char *isa, int32_t threads) {
    Isa chosen;
    if (!choose_isa(isa, &chosen) || threads < 1 || threads > 256) return nullptr;
    try {
        return new t5k_bench{make_cpu_device(chosen, threads), chosen, threads};
    } catch (...) {
        return nullptr;
    }
}

void t5k_bench_close(t5k_bench *bench) { delete bench; }

t5k_status t5k_op_linear(t5k_bench *bench, int32_t format, int32_t quantize_rows, int32_t epilogue, int32_t activation,
                         const void *packed, int64_t K, int64_t N, int64_t columns, const float *x, int64_t R, float *y,
                         int32_t repeats) {
    return guarded([&]() -> Status {
        if (!bench || !packed || !x || !y || K < 1 || N < 1 || R < 1 || columns > N) return Status::invalid("argument");
        T5K_TRY(bench->device->reserve({R, K, 1, 0, 1, 0}));
        LinearJob job = linear_job({static_cast<const uint32_t *>(packed), format, K, N}, columns, x, R, y);
        job.epilogue = static_cast<Epilogue>(epilogue);
        job.act = static_cast<Activation>(activation);
        job.quantize_rows = quantize_rows != 0;
        for (int32_t i = 0; i < (repeats < 1 ? 1 : repeats); ++i) {
            if (job.epilogue == EPILOGUE_ARGMAX)
                T5K_TRY(bench->device->linear_argmax(&job, 1, reinterpret_cast<Best *>(y)));
            else
                T5K_TRY(bench->device->linear(&job, 1));
        }
        return Status::good();
    });
}

t5k_status t5k_op_linear_reference(int32_t format, int32_t quantize_rows, int32_t epilogue, int32_t activation,
                                   const void *packed, int64_t K, int64_t N, int64_t columns, const float *x, int64_t R,
                                   float *y, int32_t amx) {
    return guarded([&]() -> Status {
        if (!packed || !x || !y || K < 1 || N < 1 || R < 1 || columns > N) return Status::invalid("argument");
        LinearJob job = linear_job({static_cast<const uint32_t *>(packed), format, K, N}, columns, x, R, y);
        job.epilogue = static_cast<Epilogue>(epilogue);
        job.act = static_cast<Activation>(activation);
        job.quantize_rows = quantize_rows != 0;
        if (amx) job.rows.kind = ROWS_BF16_AMX;
        linear_reference(job, job.epilogue == EPILOGUE_ARGMAX ? reinterpret_cast<Best *>(y) : nullptr);
        return Status::good();
    });
}

t5k_status t5k_op_attend(t5k_bench *bench, const float *q, const float *k, const float *v, const float *bias, int64_t W,
                         int64_t R, int64_t keys, int64_t heads, int64_t D, int64_t first, int32_t causal,
                         int32_t cache_bytes, int32_t is_rounded, float *out, int32_t repeats) {
    return guarded([&]() -> Status {
        if (!bench || !q || !k || !v || !out || R < 1 || keys < 1 || heads < 1 || D < 1 ||
            (cache_bytes != 4 && cache_bytes != 2) || (is_rounded && cache_bytes != 4))
            return Status::invalid("argument");
        T5K_TRY(bench->device->reserve({R, heads * D, keys, 0, 1, 0}));
        const int64_t capacity = round_up(keys, LANES), ld = stride(heads * D);
        Scratch kc(*bench->device, heads * k_cache_floats(capacity, D));
        Scratch vc(*bench->device, heads * v_cache_floats(capacity, D));
        if (!kc.ok() || !vc.ok()) return {Code::no_memory, ""};
        StoreJob store;
        store.k = k;
        store.v = v;
        store.ld = ld;
        store.cache = {kc.data(), vc.data(), capacity, cache_bytes};
        store.heads = heads;
        store.R = keys;
        store.D = D;
        T5K_TRY(bench->device->store_kv(&store, 1));
        AttendJob job;
        job.q = q;
        job.ldq = ld;
        job.out = out;
        job.ldo = ld;
        job.cache = store.cache;
        job.bias = bias;
        job.W = W;
        job.heads = heads;
        job.R = R;
        job.D = D;
        job.keys = keys;
        job.first_position = first;
        job.causal = causal != 0;
        job.is_rounded = is_rounded != 0;
        for (int32_t i = 0; i < (repeats < 1 ? 1 : repeats); ++i) T5K_TRY(bench->device->attend(&job, 1));
        return Status::good();
    });
}

t5k_status t5k_op_rms_norm(t5k_bench *bench, const float *x, const float *w, int64_t R, int64_t E, float eps,
                           float out_scale, float *y) {
    return guarded([&]() -> Status {
        if (!bench || !x || !w || !y || R < 1 || E < 1) return Status::invalid("argument");
        return bench->device->rms_norm({x, stride(E), w, y, stride(E), R, E, eps, out_scale});
    });
}

t5k_status t5k_op_log_normalizer(t5k_bench *bench, const float *x, int64_t V, double *out) {
    return guarded([&]() -> Status {
        if (!bench || !x || !out || V < 1) return Status::invalid("argument");
        return bench->device->log_normalizers(x, V, 1, V, out);
    });
}

double t5k_op_read(t5k_bench *bench, const void *memory, int64_t bytes, int32_t repeats) {
    Team team(bench->threads);
    const KernelTable &kernels = kernels_of(bench->isa);
    const int chunks = 8 * bench->threads;
    const int64_t part = bytes / chunks / 512 * 512;
    std::vector<float> sink(static_cast<size_t>(chunks));
    auto body = [&](int chunk, int) {
        sink[static_cast<size_t>(chunk)] = kernels.read_block(static_cast<const char *>(memory) + chunk * part, part);
    };
    const double began = now_s();
    for (int32_t i = 0; i < repeats; ++i) team.each(chunks, body);
    return (now_s() - began) / repeats;
}

double t5k_op_peak(t5k_bench *bench, double seconds) {
    Team team(bench->threads);
    const KernelTable &kernels = kernels_of(bench->isa);
    constexpr int64_t ROUNDS = 20000;
    std::vector<float> sink(static_cast<size_t>(bench->threads));
    auto body = [&](int chunk, int) { sink[static_cast<size_t>(chunk)] += kernels.fma_block(ROUNDS); };
    int64_t passes = 0;
    const double began = now_s();
    do {
        team.each(bench->threads, body);
        ++passes;
    } while (now_s() - began < seconds);
    return static_cast<double>(passes * bench->threads * ROUNDS * FMA_FLOPS_PER_ROUND) / (now_s() - began);
}

double t5k_op_barrier(t5k_bench *bench, int32_t repeats) {
    Team team(bench->threads);
    auto body = [](int, int) {};
    const double began = now_s();
    for (int32_t i = 0; i < repeats; ++i) team.each(bench->threads, body);
    return (now_s() - began) / repeats;
}

}  // extern "C"
