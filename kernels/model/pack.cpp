#include "model/pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/bf16.h"
#include "ops/f16.h"

namespace t5k {
namespace {

// Nearest fp16, ties to even; |f| < 65520.
uint16_t to_f16(float f) {
    uint32_t bits, sign;
    std::memcpy(&bits, &f, 4);
    sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits >= 0x38800000u) {  // 2^-14: normal in fp16
        bits += 0xfffu + (bits >> 13 & 1u) - (112u << 23);
        return static_cast<uint16_t>(sign | bits >> 13);
    }
    const float sum = std::fabs(f) + 0.5f;  // its last bit is 2^-24, that of an fp16 subnormal
    std::memcpy(&bits, &sum, 4);
    return static_cast<uint16_t>(sign | (bits - 0x3f000000u));
}

int32_t rounded(float x, float inverse, int32_t most) {
    return std::clamp(static_cast<int32_t>(std::lrintf(x * inverse)), -most, most);
}

float peak_of(const float *x, int64_t n) {
    float peak = 0.0f;
    for (int64_t i = 0; i < n; ++i) peak = std::max(peak, std::fabs(x[i]));
    return peak;
}

// Writes lane `lane` of one panel from `row` [K].
void pack_f32(const float *row, int64_t K, int64_t lane, uint32_t *panel) {
    for (int64_t k = 0; k < K; ++k) std::memcpy(panel + k * LANES + lane, row + k, 4);
}

template <class Round>
void pack_half(const float *row, int64_t K, int64_t lane, uint32_t *panel, Round round) {
    for (int64_t k = 0; k < K; k += 2) {
        const uint32_t low = round(row[k]), high = k + 1 < K ? round(row[k + 1]) : 0u;
        panel[k / 2 * LANES + lane] = low | high << 16;
    }
}

void pack_i8(const float *row, int64_t K, float peak, int64_t lane, uint32_t *panel, float *scale, int32_t *total) {
    *scale = peak > 0.0f ? peak / 127.0f : 1.0f;
    *total = 0;
    for (int64_t k = 0; k < K; k += 4) {
        uint32_t dword = 0;
        for (int64_t j = 0; j < 4 && k + j < K; ++j) {
            const int32_t q = rounded(row[k + j], 1.0f / *scale, 127);
            *total += q;
            dword |= static_cast<uint32_t>(q & 0xff) << 8 * j;
        }
        panel[k / 4 * LANES + lane] = dword;
    }
}

// Squared error of a 32-weight group under one scale.
float group_error(const float *x, int64_t n, float scale) {
    float error = 0.0f;
    for (int64_t i = 0; i < n; ++i) {
        const float q = std::clamp(std::nearbyint(x[i] / scale), -8.0f, 7.0f);
        error += (x[i] - q * scale) * (x[i] - q * scale);
    }
    return error;
}

// The best of a few candidate scales. A negative scale lets the value of largest magnitude take -8 whatever its sign.
float group_scale(const float *x, int64_t n) {
    float extreme = 0.0f;
    for (int64_t i = 0; i < n; ++i)
        if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
    if (extreme == 0.0f) return 1.0f;
    float best = to_nearest_bf16(extreme / -8.0f), least = group_error(x, n, best);
    for (int candidate = 1; candidate < 8; ++candidate) {
        const float scale = to_nearest_bf16(extreme / (-8.0f + 0.25f * static_cast<float>(candidate)));
        const float error = group_error(x, n, scale);
        if (error < least) {
            best = scale;
            least = error;
        }
    }
    return best;
}

void pack_i4(const float *row, int64_t K, int64_t lane, uint32_t *panel) {
    for (int64_t k = 0; k < K; k += I4_GROUP, panel += I4_GROUP_DWORDS) {
        const int64_t n = std::min(I4_GROUP, K - k);
        const float scale = group_scale(row + k, n);
        for (int64_t word = 0; word < I4_GROUP / 8; ++word) {
            uint32_t dword = 0;
            for (int64_t j = 0; j < 8 && word * 8 + j < n; ++j) {
                const float q = std::clamp(std::nearbyint(row[k + word * 8 + j] / scale), -8.0f, 7.0f);
                dword |= (static_cast<uint32_t>(static_cast<int32_t>(q)) & 0xfu) << 4 * j;
            }
            panel[word * LANES + lane] = dword;
        }
        const uint16_t half = bf16_of_float(scale);
        std::memcpy(reinterpret_cast<char *>(panel + 4 * LANES) + lane * 2, &half, 2);
    }
}

void unpack_column(const Panels &w, int64_t n, float *out) {
    const uint32_t *panel = w.panel(n / LANES);
    const int64_t lane = n % LANES;
    for (int64_t k = 0; k < w.K; ++k) {
        switch (w.format) {
            case FORMAT_F32: std::memcpy(out + k, panel + k * LANES + lane, 4); break;
            case FORMAT_F16:
            case FORMAT_BF16: {
                const auto half = static_cast<uint16_t>(panel[k / 2 * LANES + lane] >> 16 * (k % 2));
                out[k] = w.format == FORMAT_F16 ? float_of_f16(half) : float_of_bf16(half);
                break;
            }
            case FORMAT_I8:
                out[k] = static_cast<float>(static_cast<int8_t>(panel[k / 4 * LANES + lane] >> 8 * (k % 4))) *
                         w.scales()[n];
                break;
            default: {
                const uint32_t *group = panel + k / I4_GROUP * I4_GROUP_DWORDS;
                const int32_t nibble =
                    static_cast<int32_t>(group[k % I4_GROUP / 8 * LANES + lane] << (28 - 4 * (k % 8))) >> 28;
                uint16_t half;
                std::memcpy(&half, reinterpret_cast<const char *>(group + 4 * LANES) + lane * 2, 2);
                out[k] = static_cast<float>(nibble) * float_of_bf16(half);
            }
        }
    }
}

}  // namespace

Status pack(const PackJob &job) {
    if (job.format < 0 || job.format >= FORMATS) return Status::invalid("unknown weight format");
    if (job.K < 1 || job.N < 1 || job.step < 1 || job.first_panel < 0 || job.ld < job.K)
        return Status::invalid("pack: K, N and step must be positive, ld at least K");
    if (job.first_panel + (panel_count(job.N) - 1) * job.step >= panel_count(job.total_N))
        return Status::invalid("pack: the panels do not fit into the matrix");
    const Panels out{static_cast<const uint32_t *>(job.packed), job.format, job.K, job.total_N};
    for (int64_t n = 0; n < job.N; ++n) {
        const int64_t panel = job.first_panel + n / LANES * job.step, lane = n % LANES;
        uint32_t *to = const_cast<uint32_t *>(out.panel(panel));
        const float *row = job.source + n * job.ld;
        switch (job.format) {
            case FORMAT_F32: pack_f32(row, job.K, lane, to); break;
            case FORMAT_BF16: pack_half(row, job.K, lane, to, bf16_of_float); break;
            case FORMAT_F16:
                if (peak_of(row, job.K) >= 65520.0f) return Status::invalid("a weight does not fit fp16");
                pack_half(row, job.K, lane, to, to_f16);
                break;
            case FORMAT_I8:
                pack_i8(row, job.K, job.peaks ? job.peaks[n] : peak_of(row, job.K), lane, to, const_cast<float *>(out.scales()) + panel * LANES + lane,
                        const_cast<int32_t *>(out.sums()) + panel * LANES + lane);
                break;
            default: pack_i4(row, job.K, lane, to);
        }
    }
    return Status::good();
}

Status unpack(const Panels &panels, float *out) {
    if (panels.format < 0 || panels.format >= FORMATS) return Status::invalid("unknown weight format");
    for (int64_t n = 0; n < panels.N; ++n) unpack_column(panels, n, out + n * panels.K);
    return Status::good();
}

}  // namespace t5k
