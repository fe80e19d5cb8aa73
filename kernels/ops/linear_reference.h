// linear_reference: linear as its contract reads (ops/linear.h), one output after the other. The oracle of the tests: the fast
// kernels give the same bits for STORE, ADD and ARGMAX; activations agree to their stated error.
#pragma once

#include "ops/linear.h"

namespace t5k {

// y, or best [R] for ARGMAX, of fp32 rows on the CPU. Rows are rounded here: of job.rows only the kind is read,
// and only ROWS_BF16_AMX matters, which is another order of bf16's sums.
void linear_reference(const LinearJob &job, Best *best);

}  // namespace t5k
