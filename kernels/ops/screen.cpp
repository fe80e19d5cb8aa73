#include "ops/screen.h"

#include "cpu/kernel_table.h"
#include "cpu/vec.h"

namespace t5k::T5K_NS {
namespace {

T5K_INLINE V16 width_at(const ScreenJob &job, int64_t n) {
    return fma(bcast(job.x_norm), load(job.norms + n), mul(bcast(job.round_norm), load(job.norms + job.padded + n)));
}

T5K_INLINE V16 masked(V16 v, const ScreenJob &job, int64_t n) {
    const int64_t left = job.columns - n;
    return left >= LANES ? v : keep_first(v, left < 0 ? 0 : (int)left, bcast(-3.4e38f));
}

}  // namespace

// Writes the panels that may hold the argmax, in order; returns how many, or MAX_SCREENED + 1 when there are more.
int screen_panels(const ScreenJob &job, int32_t *panels) {
    V16 lowest = bcast(-3.4e38f);
    for (int64_t n = 0; n < job.padded; n += LANES)
        lowest = max(lowest, masked(sub(load(job.approx + n), width_at(job, n)), job, n));
    const float least = largest(lowest);
    int count = 0;
    for (int64_t n = 0; n < job.padded; n += LANES) {
        if (!any_not_below(masked(add(load(job.approx + n), width_at(job, n)), job, n), least)) continue;  // NaN: kept
        if (count == MAX_SCREENED) return MAX_SCREENED + 1;
        panels[count++] = (int32_t)(n / LANES);
    }
    return count;
}

}  // namespace t5k::T5K_NS
