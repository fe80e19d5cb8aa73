#include "cpu/device.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

#include "cpu/team.h"
#include "ops/bf16.h"

namespace t5k {
namespace {

// Work is counted in fp32 multiply-adds of many rows: one core of a Xeon with AVX-512 does 80 a nanosecond (other ISAs: by
// their width), so that SERIAL_WORK of them take 8 us. A phase below that runs on the caller alone. Measured there, op by op, two
// threads against one: 4.8 us became 5.0, 9.1 became 8.0, 16.1 became 12.7, 55 became 32. A meeting costs 2 to 3 us, and more where
// the next phase finds its input in another core's cache.
constexpr int64_t SERIAL_WORK = 640 * 1024;

// A weight costs its load whatever the rows: 26 (fp32) to 40 (int8) of them a nanosecond at one row.
constexpr int64_t LEAST_ROWS = 3;

// From more rows on AMX tiles take a third of the time or less, for int4 half of it.
constexpr int64_t TILED_ROWS = 8;

// Of one number, or of one multiply-add of attention, where a multiply-add of linear is 1.
constexpr int64_t NORM_WORK = 12, COPY_WORK = 6, ATTEND_WORK = 4, EXP_WORK = 40;

// Chunks per thread of one phase: enough that a thread which lost its core for a while does not hold up the others. A chunk takes
// at least 2 us, or claiming it is what takes the time.
constexpr int64_t CHUNKS_PER_THREAD = 8;
constexpr int64_t SMALLEST_CHUNKS = 4;  // of SERIAL_WORK

// Buffers from this size on are worth huge pages (design: madvise).
constexpr int64_t HUGE_PAGE = 2 << 20;

class Memory {
   public:
    ~Memory() { std::free(data_); }
    bool reserve(int64_t bytes) {
        if (bytes <= bytes_) return true;
        void *grown = std::aligned_alloc(64, static_cast<size_t>(round_up(bytes, 64)));
        if (!grown) return false;
        std::memset(grown, 0, static_cast<size_t>(bytes));
        std::free(data_);
        data_ = grown;
        bytes_ = bytes;
        return true;
    }
    template <class T>
    T *as() const {
        return static_cast<T *>(data_);
    }

   private:
    void *data_ = nullptr;
    int64_t bytes_ = 0;
};

class CpuDevice final : public Device {
   public:
    CpuDevice(Isa isa, int threads, int64_t cache_bytes)
        : kernels_(kernels_of(isa)), team_(threads), cache_bytes_(cache_bytes), serial_work_(serial_work(isa)),
          has_tiles_(isa == Isa::amx) {}

    int64_t cache_bytes() const override { return cache_bytes_; }

    Status allocate(int64_t bytes, void **out) override {
        const int64_t alignment = bytes >= HUGE_PAGE ? HUGE_PAGE : 64;
        *out = std::aligned_alloc(static_cast<size_t>(alignment), static_cast<size_t>(round_up(bytes, alignment)));
        if (!*out) return {Code::no_memory, "out of memory: wanted " + std::to_string(bytes) + " bytes"};
        if (bytes >= HUGE_PAGE) madvise(*out, static_cast<size_t>(bytes), MADV_HUGEPAGE);
        std::memset(*out, 0, static_cast<size_t>(bytes));
        return Status::good();
    }

    void release(void *memory, int64_t) override { std::free(memory); }

    Status reserve(const Reservation &most) override {
        const int64_t rows = most.rows * most.shards, width = round_up(most.width, 64);
        const int64_t value = kernels_.bf16_rows == ROWS_BF16_FLOATS ? 4 : 2;
        const bool ok = scores_.reserve(team_.threads() * MAX_BLOCK * round_up(most.keys, 32) * 4) &&
                        quantized_.reserve(rows * (width + 64) * value) && row_scales_.reserve(rows * width / I4_GROUP * 4) &&
                        row_offsets_.reserve(rows * width / I4_GROUP * 4) &&
                        best_.reserve(rows * CHUNKS_PER_THREAD * (team_.threads() + 1) * 8);
        return ok ? Status::good() : Status{Code::no_memory, "out of memory for the device's scratch"};
    }

    Status bind(const void *, int64_t, int64_t) override { return Status::good(); }

    Status embed(const EmbedJob &job) override {
        for (int64_t r = 0; r < job.R; ++r) kernels_.embed_row(job.table, job.format, job.ids[r], job.E, job.y + r * job.ldy);
        return Status::good();
    }

    Status rms_norm(const RmsNormJob &job) override {
        auto row = [&](int64_t r) {
            kernels_.rms_norm_row(job.x + r * job.ldx, job.w, job.y + r * job.ldy, job.E, job.eps, job.out_scale);
        };
        over_rows(job.R, job.E * NORM_WORK, row);
        return Status::good();
    }

    Status linear(LinearJob *jobs, int n) override {
        quantize(jobs, n);
        run_panels(jobs, n, nullptr);
        return Status::good();
    }

    Status linear_argmax(LinearJob *jobs, int n, Best *best) override {
        quantize(jobs, n);
        const int chunks = run_panels(jobs, n, best_.as<Best>());
        const int64_t R = jobs[0].R;
        for (int64_t r = 0; r < R; ++r) {
            best[r] = best_.as<Best>()[r];
            for (int c = 1; c < chunks; ++c) {
                const Best &other = best_.as<Best>()[c * R + r];
                if (other.value > best[r].value || (other.value == best[r].value && other.index < best[r].index))
                    best[r] = other;
            }
        }
        return Status::good();
    }

    Status screened_argmax(LinearJob *coarse, const LinearJob *fine, const float *const *norms, int n,
                           Best *best) override {
        T5K_TRY(linear(coarse, n));
        const int64_t R = coarse[0].R;
        for (int64_t r = 0; r < R; ++r) best[r] = {-__builtin_inff(), 0};
        for (int i = 0; i < n; ++i)
            for (int64_t r = 0; r < R; ++r) {
                LinearJob row = fine[i];
                row.x += r * row.ldx;
                row.R = 1;
                quantize(&row, 1);
                const ScreenJob screen = screen_of(coarse[i], row, norms[i], r);
                int32_t panels[MAX_SCREENED];
                const int count = kernels_.screen_panels(screen, panels);
                Best found{-__builtin_inff(), 0};
                if (count > MAX_SCREENED) {
                    T5K_TRY(linear_argmax(&row, 1, &found));
                } else {
                    for (int c = 0; c < count; ++c) kernels_.linear_panels(row, panels[c], panels[c] + 1, &found);
                }
                if (found.value > best[r].value) best[r] = found;
            }
        return Status::good();
    }

    Status add_shards(const AddShardsJob &job) override {
        auto row = [&](int64_t r) {
            for (int64_t i = 0; i < job.N; ++i) {
                float total = job.parts[0][r * job.ld + i];
                for (int64_t p = 1; p < job.count; ++p) total += job.parts[p][r * job.ld + i];
                job.y[r * job.ldy + i] += total;
            }
        };
        over_rows(job.R, job.N * job.count * COPY_WORK, row);
        return Status::good();
    }

    Status store_kv(const StoreJob *jobs, int n) override {
        const int64_t heads = jobs[0].heads;
        auto body = [&](int chunk, int) { kernels_.store_kv(one_head(jobs[chunk / heads], chunk % heads)); };
        run(n * static_cast<int>(heads), jobs[0].R * jobs[0].D * n * heads * COPY_WORK, body);
        return Status::good();
    }

    Status attend(const AttendJob *jobs, int n) override {
        const int heads = static_cast<int>(jobs[0].heads), items = n * heads;
        int64_t work = 0;
        for (int i = 0; i < n; ++i) work += jobs[i].R * jobs[i].keys * jobs[i].D * heads * 2 * ATTEND_WORK;
        int64_t each = 0;
        for (int i = 0; i < n; ++i) each = std::max(each, attend_scratch(jobs[i], has_tiles_));
        if (!scores_.reserve(team_.threads() * each * 4)) return {Code::no_memory, "out of memory for the scores of attention"};
        const int chunks = static_cast<int>(std::min<int64_t>(items, chunks_of(work)));
        auto body = [&](int chunk, int thread) {
            float *scratch = scores_.as<float>() + thread * each;
            const int64_t first = int64_t{chunk} * items / chunks, last = (int64_t{chunk} + 1) * items / chunks;
            for (int64_t i = first; i < last; ++i) kernels_.attend(one_head(jobs[i / heads], i % heads), scratch);
        };
        run(chunks, work, body);
        return Status::good();
    }

    Status log_normalizers(const float *x, int64_t ldx, int64_t R, int64_t V, double *logsum) override {
        auto row = [&](int64_t r) { logsum[r] = kernels_.log_normalizer(x + r * ldx, V); };
        over_rows(R, V * EXP_WORK, row);
        return Status::good();
    }

    Status argmax(const float *x, int64_t V, Best *best) override {
        *best = kernels_.argmax(x, V);
        return Status::good();
    }

    Status read(void *host, const void *memory, int64_t bytes) override { return copy(host, memory, bytes); }

    Status copy(void *to, const void *from, int64_t bytes) override {
        std::memcpy(to, from, static_cast<size_t>(bytes));
        return Status::good();
    }

   private:
    static constexpr int64_t MAX_BLOCK = 8;  // query rows of one attention block (ops/attention.cpp)

    static int64_t serial_work(Isa isa) {
        return isa == Isa::scalar ? SERIAL_WORK / 16 : isa == Isa::avx2 ? SERIAL_WORK / 2 : SERIAL_WORK;
    }

    // Into how many chunks a phase is cut at most.
    int64_t chunks_of(int64_t work) const {
        const int64_t most = CHUNKS_PER_THREAD * team_.threads();
        return std::clamp<int64_t>(work * SMALLEST_CHUNKS / serial_work_, 1, most);
    }

    template <class F>
    void run(int chunks, int64_t work, F &body) {
        if (work < serial_work_ || chunks == 1) {
            for (int c = 0; c < chunks; ++c) body(c, 0);
            return;
        }
        team_.each(chunks, body);
    }

    template <class F>
    void over_rows(int64_t R, int64_t work_per_row, F &row) {
        const int chunks = static_cast<int>(std::min<int64_t>(R, chunks_of(R * work_per_row)));
        auto body = [&](int chunk, int) {
            const int64_t first = int64_t{chunk} * R / chunks, last = (int64_t{chunk} + 1) * R / chunks;
            for (int64_t r = first; r < last; ++r) row(r);
        };
        run(chunks, R * work_per_row, body);
    }

    // The factors of the screen's bound for one row, rounded up: rounding steps of w8 and fp32 summation included.
    ScreenJob screen_of(const LinearJob &coarse, const LinearJob &row, const float *norms, int64_t r) const {
        const int64_t K = coarse.w.K;
        double squares = 0.0, steps = 0.0, moved = 0.0;  // moved: |row.x - what W itself is multiplied by|^2
        for (int64_t k = 0; k < K; ++k) squares += static_cast<double>(row.x[k]) * row.x[k];
        for (int64_t k = 0; k < K && row.w.format == FORMAT_BF16; ++k) {
            const double off = static_cast<double>(row.x[k]) - to_nearest_bf16(row.x[k]);
            moved += off * off;
        }
        const float *scale = coarse.rows.scale + r * coarse.rows.lds;
        for (int64_t k = 0; k < K; k += ROW_BLOCK)
            steps += 0.2501 * scale[k / ROW_BLOCK] * scale[k / ROW_BLOCK] * static_cast<double>(std::min(ROW_BLOCK, K - k));
        const double off = std::sqrt(moved) * 1.000001;
        const double norm = std::sqrt(squares) * 1.000001 + off, chain = static_cast<double>(K + 64) * 0x1.0p-23;
        ScreenJob job;
        job.approx = coarse.y + r * coarse.ldy;
        job.norms = norms;
        job.padded = panel_count(coarse.w.N) * LANES;
        job.columns = coarse.columns;
        job.x_norm = static_cast<float>(norm * (1.0 + 2 * chain));
        job.round_norm = static_cast<float>((std::sqrt(steps) + off + 2 * chain * norm) * 1.000001);
        return job;
    }

    RowRounding rounding_of(const LinearJob &job) const { return t5k::rounding_of(job, kernels_.bf16_rows, kernels_.w8_rows); }

    // Fills job.rows for every format but fp32. Shards that read the same x share one copy.
    void quantize(LinearJob *jobs, int n) {
        const RowRounding kind = rounding_of(jobs[0]);
        if (kind == ROWS_PLAIN) return;
        const int64_t R = jobs[0].R, K = jobs[0].w.K, lds = round_up(K, 64) / I4_GROUP;
        const int64_t width = kind == ROWS_BF16_FLOATS ? 4 : kind == ROWS_W8A8 || kind == ROWS_W4 ? 1 : 2;
        // An odd number of cache lines: rows 4 KB apart would share one set of L1.
        const int64_t ldq = (round_up(K, 64) * width | 64) / width;
        for (int i = 0; i < n; ++i) {
            LinearJob &job = jobs[i];
            if (i > 0 && job.x == jobs[0].x) {
                job.rows = jobs[0].rows;
                continue;
            }
            int8_t *q = quantized_.as<int8_t>() + i * R * ldq * width;
            float *scale = row_scales_.as<float>() + i * R * lds;
            int32_t *offset = row_offsets_.as<int32_t>() + i * R * lds;
            auto row = [&](int64_t r) {
                kernels_.quantize_row(kind, job.x + r * job.ldx, K, q + r * ldq * width, scale + r * lds,
                                      offset + r * lds);
            };
            over_rows(R, K * NORM_WORK, row);
            job.rows = {kind, q, ldq, scale, offset, lds};
        }
    }

    // Cuts every job into contiguous runs of panels and runs them all; returns the number of chunks.
    int run_panels(const LinearJob *jobs, int n, Best *best) {
        // The widest tile of few rows, and an even number for gated pairs.
        const bool is_float = jobs[0].w.format == FORMAT_F32 || jobs[0].w.format == FORMAT_BF16;
        const int64_t unit = jobs[0].R <= 4 && is_float ? 4 : 2;
        int64_t work = 0, most = std::numeric_limits<int64_t>::max();
        for (int i = 0; i < n; ++i) {
            const int64_t panels = panel_count(jobs[i].w.N);
            most = std::min(most, (panels + unit - 1) / unit);
            work += panels * LANES * jobs[i].w.K * std::max(jobs[i].R, LEAST_ROWS);
        }
        const RowRounding rows = rounding_of(jobs[0]);
        if (rows == ROWS_W8A8 || rows == ROWS_W4) work /= 2;  // bytes by bytes: twice as fast
        if (has_tiles_ && rows != ROWS_PLAIN && jobs[0].R > TILED_ROWS) work /= rows == ROWS_W4 ? 2 : 3;
        const int64_t fewest = std::min(most, std::max<int64_t>(1, chunks_of(work) / n));
        const int chunks = static_cast<int>(fewest) * n;
        auto body = [&](int chunk, int) {
            const LinearJob &job = jobs[chunk / fewest];
            const int64_t panels = panel_count(job.w.N), units = (panels + unit - 1) / unit, c = chunk % fewest;
            const int64_t first = c * units / fewest * unit;
            const int64_t last = std::min(panels, (c + 1) * units / fewest * unit);
            Best *mine = nullptr;
            if (best) {
                mine = best + chunk * job.R;
                for (int64_t r = 0; r < job.R; ++r) mine[r] = {-__builtin_inff(), 0};
            }
            kernels_.linear_panels(job, first, last, mine);
        };
        run(chunks, work, body);
        return chunks;
    }

    const KernelTable &kernels_;
    Team team_;
    Memory scores_, quantized_, row_scales_, row_offsets_, best_;
    int64_t cache_bytes_, serial_work_;
    bool has_tiles_;
};

}  // namespace

std::unique_ptr<Device> make_cpu_device(Isa isa, int threads, int64_t cache_bytes) {
    return std::make_unique<CpuDevice>(isa, threads, cache_bytes);
}

}  // namespace t5k
