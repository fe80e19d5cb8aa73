// Large products by cuBLASLt, where it was asked for: row-major copies of the matrices, room for its workspace and for sums
// that wait for their activation, and which products it gets. Included by one source file.
//
// It gets a tiled product (LinearJob) of a bound fp32, fp16 or bf16 matrix from so many rows on; fewer rows, integer weights,
// heads and row-by-row decoding stay with our kernels. All else about a step stays as it is: what it needs is allocated when
// matrices are bound and rooms reserved, shapes are met before a step is recorded, and its launches record like ours.
#pragma once

#include "device/cuda_device.h"

namespace t5k::cuda {

inline Status CudaDevice::open_cublaslt(const CublasLtChoice &choice) {
    if (!choice.library) return Status::good();
    cublaslt_rows_ = std::max<int64_t>(choice.rows, 1);
    return cublaslt_.open(choice.library, choice.allows_tf32);
}

inline std::string CudaDevice::describe() const {
    if (!cublaslt_.is_open()) return {};
    if (row_major_.empty())
        return "cuBLASLt " + cublaslt_.version() + " has nothing to multiply: int8 and int4 weights stay with our kernels";
    return "cuBLASLt " + cublaslt_.version() + " multiplies from " + std::to_string(cublaslt_rows_) + " rows on" +
           (cublaslt_.allows_tf32() && activations_ == T5K_F32 ? " in TF32" : "") + " (in an order of its own), from " +
           std::to_string((row_major_bytes_ + 999999) / 1000000) + " MB of weights held a second time";
}

// W transposed, K contiguous for each output and rounded up to 16 bytes: zeros meet the zeros that rows end with.
inline Status CudaDevice::bind_tiled(const Panels &w, int64_t) {
    if (!cublaslt_.is_open() || w.format == FORMAT_I8 || w.format == FORMAT_I4 || row_major_.count(w.data)) return Status::good();
    const void *panels = nullptr;
    T5K_TRY(weight(w.data, &panels));
    if (!workspace_) T5K_TRY(grab(static_cast<int64_t>(CublasLt::WORKSPACE_BYTES), &workspace_));
    const int64_t depth = panel_dwords(w.format, w.K) / LANES, ld = round_up(depth, 4), count = panel_count(w.N);
    CUdeviceptr &rows = row_major_[w.data];
    T5K_TRY(grab(count * LANES * ld * 4, &rows));
    row_major_bytes_ += count * LANES * ld * 4;
    return launch("unpanel", UnpanelJob{static_cast<const u32 *>(panels), static_cast<u32 *>(pointer(rows)), depth, ld},
                  {(ld + 63) / 64, count}, UNPANEL_THREADS);
}

inline bool CudaDevice::has_room_for_sums(const Reservation &most) const {
    return row_major_.empty() || most.rows < cublaslt_rows_ || most.rows * most.sums * 4 <= sums_bytes_;
}

inline Status CudaDevice::reserve_sums(const Reservation &most) {
    if (has_room_for_sums(most)) return Status::good();
    T5K_TRY(wait());
    forget_plans();
    driver_.free(sums_);
    sums_ = 0;
    sums_bytes_ = 0;
    T5K_TRY(grab(most.rows * most.sums * 4, &sums_));
    sums_bytes_ = most.rows * most.sums * 4;
    return Status::good();
}

inline bool CudaDevice::is_for_cublaslt(const t5k::LinearJob &job) const {
    return job.is_tiled && job.epilogue != t5k::EPILOGUE_ARGMAX && job.R >= cublaslt_rows_ && row_major_.count(job.w.data);
}

// A residual and ReLU are the library's own epilogues; other activations, and gates, read its sums, which stay fp32: as 16-bit
// numbers they could overflow before the gate brings them back.
inline Status CudaDevice::multiply(const t5k::LinearJob &from) {
    if (phase_ == Phase::refresh) return Status::good();
    const bool is_half = activations_ != T5K_F32, is_gated = from.epilogue == t5k::EPILOGUE_GATED;
    const bool is_act = from.epilogue == t5k::EPILOGUE_ACT, has_relu = is_act && from.act == t5k::ACT_RELU;
    const bool waits = is_gated || (is_act && !has_relu);
    const int64_t K = is_half ? round_up(from.w.K, 8) : round_up(from.w.K, 4);
    Product product{};
    product.w = pointer(row_major_.find(from.w.data)->second);
    product.x = from.x;
    product.y = from.y;
    product.R = from.R;
    product.K = K;
    product.N = is_gated ? panel_count(from.w.N) * LANES : from.columns;
    product.ldw = K;
    product.ldx = from.ldx;
    product.ldy = from.ldy;
    product.type = activations_;
    product.adds = from.epilogue == t5k::EPILOGUE_ADD;
    product.y_is_f32 = product.adds || from.y_is_f32 || waits || !is_half;
    product.has_relu = has_relu;
    product.alpha = waits ? 1.0f : from.out_scale;  // relu(2^n x) = 2^n relu(x)
    if (waits) {
        product.ldy = panel_count(from.w.N) * LANES;
        product.y = pointer(sums_);
        if (product.R * product.ldy * 4 > sums_bytes_) return {Code::internal, "more sums than were reserved"};
    }
    T5K_TRY(cublaslt_.multiply(product, workspace_, stream_, is_stepping()));
    if (!waits) return Status::good();
    LinearJob job{};
    job.x = pointer(sums_);
    job.ldx = product.ldy;
    job.y = from.y;
    job.ldy = from.ldy;
    job.N = static_cast<int>(from.columns);
    job.epilogue = from.epilogue;
    job.act = from.act;
    job.y_is_f32 = from.y_is_f32;
    job.out_scale = from.out_scale;
    return launch(typed("finish_sums"), job, {from.R, std::min<int64_t>((from.columns + 255) / 256, 8)}, 256);
}

}  // namespace t5k::cuda
