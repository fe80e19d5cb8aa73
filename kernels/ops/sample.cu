// sample: temperature, top-k, top-p and one draw per row, without sorting. Contract in ops/sample.h.
//
// Thresholds are found bit by bit in an order-preserving integer image of the floats: 32 passes over the row, each a
// count (top-k) or a mass (top-p). A pass over 32 k values of one row is L2 traffic; a radix histogram would need 4.
#include "ops/sample.h"

#include "cuda/kernel/reduce.cuh"

namespace t5k::cuda {

constexpr int SAMPLE_THREADS = 256;

// Larger float, larger integer; -inf is the smallest number.
T5K_DEVICE u32 ranked(float v) {
    const u32 bits = bits_of_float(v);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Philox4x32-10 (Salmon et al. 2011): first word of the block.
T5K_DEVICE u32 philox(unsigned long long key, unsigned long long counter) {
    u32 k0 = (u32)key, k1 = (u32)(key >> 32);
    u32 c[4] = {(u32)counter, (u32)(counter >> 32), 0u, 0u};
    for (int round = 0; round < 10; ++round) {
        const u32 high0 = multiply_high(0xd2511f53u, c[0]), low0 = 0xd2511f53u * c[0];
        const u32 high1 = multiply_high(0xcd9e8d57u, c[2]), low1 = 0xcd9e8d57u * c[2];
        c[0] = high1 ^ c[1] ^ k0;
        c[1] = low1;
        c[2] = high0 ^ c[3] ^ k1;
        c[3] = low0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    return c[0];
}

struct Scores {
    const float *x;  // [V]
    float inverse_temperature, top;
    int V;
};

T5K_DEVICE float weight(const Scores &s, int v) { return expf((s.x[v] - s.top) * s.inverse_temperature); }

// Sum over the values of rank >= `floor`: of their number, or of their weight. Every thread gets it.
T5K_DEVICE float total(const Scores &s, u32 floor, bool is_mass, float *part) {
    float sum = 0.0f;
    for (int v = threadIdx.x; v < s.V; v += blockDim.x)
        if (ranked(s.x[v]) >= floor) sum += is_mass ? weight(s, v) : 1.0f;
    __syncthreads();  // `part` may still be read from the pass before
    return block_sum(sum, part);
}

// The highest rank at which the total still reaches `wanted`.
T5K_DEVICE u32 highest_floor(const Scores &s, u32 at_least, bool is_mass, float wanted, float *part) {
    u32 floor = 0;
    for (int bit = 31; bit >= 0; --bit) {
        const u32 higher = floor | 1u << bit;
        if (total(s, higher > at_least ? higher : at_least, is_mass, part) >= wanted) floor = higher;
    }
    return floor > at_least ? floor : at_least;
}

T5K_DEVICE void draw(const SampleJob &job) {
    T5K_SHARED(float[32], part);
    T5K_SHARED(float[SAMPLE_THREADS], below);
    T5K_SHARED(float[32], part_top);
    const SampleRow row = job.rows[blockIdx.x];
    if (row.is_off) return;
    Scores s{job.x + blockIdx.x * job.ldx, 1.0f / row.temperature, LOWEST, job.V};
    float top = LOWEST;
    for (int v = threadIdx.x; v < s.V; v += blockDim.x) top = fmaxf(top, s.x[v]);
    s.top = block_max(top, part_top);

    u32 floor = ranked(LOWEST);  // -inf is never drawn
    // Counts are exact in fp32 up to 2^24 ids.
    if (row.top_k > 0 && row.top_k < s.V) floor = highest_floor(s, floor, false, (float)row.top_k, part);
    if (row.top_p < 1.0f) floor = highest_floor(s, floor, true, row.top_p * total(s, floor, true, part), part);

    // Thread i owns the i-th run of ids; the runs' sums in order are the distribution function.
    const int run = (s.V + SAMPLE_THREADS - 1) / SAMPLE_THREADS, begin = threadIdx.x * run;
    const int end = begin + run < s.V ? begin + run : s.V;
    float mine = 0.0f;
    for (int v = begin; v < end; ++v) mine += ranked(s.x[v]) >= floor ? weight(s, v) : 0.0f;
    below[threadIdx.x] = mine;
    __syncthreads();
    if (threadIdx.x != 0) return;
    float all = 0.0f;
    for (int i = 0; i < SAMPLE_THREADS; ++i) all += below[i];
    const float target = (float)(philox(row.seed, row.step) >> 8) * 0x1.0p-24f * all;
    float sum = 0.0f;
    int i = 0;
    while (i < SAMPLE_THREADS - 1 && sum + below[i] <= target) sum += below[i++];
    int token = -1;
    for (int v = i * run; v < s.V; ++v) {
        if (ranked(s.x[v]) < floor) continue;
        token = v;
        sum += weight(s, v);
        if (sum > target) break;
    }
    job.token[blockIdx.x] = token;
}

T5K_KERNEL(sample, SAMPLE_THREADS, SampleJob, draw)

}  // namespace t5k::cuda
