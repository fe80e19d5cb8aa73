#include "ops/softmax.h"

#include "cpu/kernel_table.h"
#include "cpu/vec.h"

namespace t5k::T5K_NS {

Best argmax(const float *x, int64_t V) {
    V16 peak = bcast(-__builtin_inff());
    int64_t i = 0;
    for (; i + LANES <= V; i += LANES) peak = max(peak, load(x + i));
    float top = largest(peak);
    for (; i < V; ++i) top = x[i] > top ? x[i] : top;
    for (i = 0; i < V - 1 && x[i] != top; ++i) {
    }
    return {top, (int32_t)i};
}

double log_normalizer(const float *x, int64_t V) {
    const float top = argmax(x, V).value;
    double total = 0.0;
    int64_t i = 0;
    while (i + LANES <= V) {
        V16 part = zero();
        for (int n = 0; n < 64 && i + LANES <= V; ++n, i += LANES) part = add(part, exp(sub(load(x + i), bcast(top))));
        total += (double)sum(part);
    }
    for (; i < V; ++i) total += __builtin_exp((double)x[i] - (double)top);
    return (double)top + __builtin_log(total);
}

}  // namespace t5k::T5K_NS
