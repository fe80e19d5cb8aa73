// The instructions, by file: each defines the steps of its lines in opcodes.cpp.
#pragma once

#include "lane.h"

namespace t5k::ptx {

#define T5K_PTX_STEPS(X)                                                                                                     \
    X(add) X(sub) X(mul) X(mad) X(fma) X(divide) X(remainder) X(absolute_value) X(negate) X(minimum) X(maximum) X(bit_and)   \
    X(bit_or) X(bit_xor) X(bit_not) X(logical_not) X(shift_left) X(shift_right) X(funnel_shift) X(field_extract)             \
    X(field_insert) X(reverse_bits) X(leading_zeros) X(count_ones) X(find_leading) X(permute_bytes) X(lookup3) X(dot4)       \
    X(dot2) X(sum_of_differences) X(reciprocal) X(square_root) X(reciprocal_root) X(sine) X(cosine) X(log2_) X(exp2_)        \
    X(tanh_) X(copy_sign) X(test_property) X(set_predicate) X(set_value) X(select) X(select_by_sign) X(move) X(convert)      \
    X(to_address) X(is_space) X(load) X(store) X(nothing) X(branch) X(branch_table) X(leave) X(trap) X(barrier)              \
    X(warp_barrier) X(shuffle) X(vote) X(match) X(reduce) X(active_mask) X(atomic) X(copy_async) X(commit_group)             \
    X(wait_group) X(load_matrix) X(multiply_matrix)
#define T5K_PTX_DECLARE(name) void name##_step(Lane &, const Instruction &);
T5K_PTX_STEPS(T5K_PTX_DECLARE)
#undef T5K_PTX_DECLARE

}  // namespace t5k::ptx
