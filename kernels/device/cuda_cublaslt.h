// The few functions of cuBLASLt that large products use, resolved when somebody asks for them. Types and values are those of
// its C interface (cublasLt.h, the same in 12 and 13); nothing of it is needed to build.
//
// y [R, N] = alpha x [R, K] W [K, N] + beta y, all row by row, is Y = alpha W' X + beta Y for a library that counts by
// columns: W' is our copy of W, K contiguous per output (transposed as it is read), X and Y are the rows as they lie. Sums
// and scale are fp32; parts of a split K may meet in fp32 only, never in the output's type, nor in any order that may differ.
// An algorithm is chosen once per shape. Its sums are in an order of its own: they change with R, the GPU and the version.
#pragma once

#include <dlfcn.h>

#include <map>
#include <string>
#include <tuple>

#include "device/cuda_driver.h"
#include "device/status.h"
#include "include/t5k.h"

namespace t5k::cuda {

// One product. Strides in numbers; x and W are of `type`, y too unless y_is_f32.
struct Product {
    const void *w, *x;
    void *y;
    int64_t R, K, N, ldw, ldx, ldy;
    int type;  // T5K_F32, T5K_F16, T5K_BF16
    bool y_is_f32, adds, has_relu;
    float alpha;
};

class CublasLt {
   public:
    static constexpr size_t WORKSPACE_BYTES = 32 << 20;  // what NVIDIA advises for Hopper; 4 MiB would do before it

    CublasLt() = default;
    CublasLt(const CublasLt &) = delete;
    CublasLt &operator=(const CublasLt &) = delete;
    ~CublasLt() { close(); }

    bool is_open() const { return handle_ != nullptr; }
    const std::string &version() const { return version_; }
    bool allows_tf32() const { return allows_tf32_; }

    // A handle for the context that is current. The library stays open for the life of the process.
    Status open(const char *path, bool allows_tf32) {
        void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (!library) return Status::invalid(std::string("no cuBLASLt: ") + dlerror());
#define T5K_RESOLVE(member, symbol)                                                   \
    member = reinterpret_cast<decltype(member)>(dlsym(library, #symbol));             \
    if (!member) return Status::invalid(std::string(path) + " has no " #symbol ": cuBLASLt 12 or newer is needed")
        T5K_RESOLVE(get_version_, cublasLtGetVersion);
        T5K_RESOLVE(status_text_, cublasLtGetStatusString);
        T5K_RESOLVE(create_, cublasLtCreate);
        T5K_RESOLVE(destroy_, cublasLtDestroy);
        T5K_RESOLVE(operation_create_, cublasLtMatmulDescCreate);
        T5K_RESOLVE(operation_destroy_, cublasLtMatmulDescDestroy);
        T5K_RESOLVE(operation_set_, cublasLtMatmulDescSetAttribute);
        T5K_RESOLVE(layout_create_, cublasLtMatrixLayoutCreate);
        T5K_RESOLVE(layout_destroy_, cublasLtMatrixLayoutDestroy);
        T5K_RESOLVE(preference_create_, cublasLtMatmulPreferenceCreate);
        T5K_RESOLVE(preference_destroy_, cublasLtMatmulPreferenceDestroy);
        T5K_RESOLVE(preference_set_, cublasLtMatmulPreferenceSetAttribute);
        T5K_RESOLVE(heuristic_, cublasLtMatmulAlgoGetHeuristic);
        T5K_RESOLVE(matmul_, cublasLtMatmul);
#undef T5K_RESOLVE
        const size_t code = get_version_();
        version_ = std::to_string(code / 10000) + "." + std::to_string(code / 100 % 100) + "." + std::to_string(code % 100);
        allows_tf32_ = allows_tf32;
        return check(create_(&handle_), "cublasLtCreate");
    }

    // In order with `stream`; `workspace` has WORKSPACE_BYTES. stays: the shape will come again in every step. Shapes that do
    // not stay are forgotten when there are many; asking for an algorithm is the host's work alone, so a stream that records
    // does not mind, but a step meets its shapes before it is recorded.
    Status multiply(const Product &p, CUdeviceptr workspace, CUstream stream, bool stays) {
        const Shape shape{p.R, p.K, p.N, p.ldw, p.ldx, p.ldy, p.type, p.y_is_f32, p.adds, p.has_relu};
        auto found = plans_.find(shape);
        if (found == plans_.end()) {
            if (!stays && passing_ >= MOST_PASSING) forget_passing();
            Plan plan;
            plan.stays = stays;
            const Status status = prepare(p, &plan);
            if (!status.ok()) return drop(plan), status;
            passing_ += !stays;
            found = plans_.emplace(shape, plan).first;
        }
        const Plan &plan = found->second;
        const float alpha = p.alpha, beta = p.adds ? 1.0f : 0.0f;
        const int code = matmul_(handle_, plan.operation, &alpha, p.w, plan.w, p.x, plan.x, &beta, p.y, plan.y, p.y, plan.y,
                                 &plan.algorithm, reinterpret_cast<void *>(static_cast<uintptr_t>(workspace)), WORKSPACE_BYTES, stream);
        return check(code, "cublasLtMatmul" + words(p));
    }

    void close() {
        for (auto &[shape, plan] : plans_) drop(plan);
        plans_.clear();
        passing_ = 0;
        if (handle_) destroy_(handle_);
        handle_ = nullptr;
    }

   private:
    using Operation = struct cublasLtMatmulDesc *;
    using Layout = struct cublasLtMatrixLayout *;
    using Preference = struct cublasLtMatmulPreference *;
    using Handle = struct cublasLtContext *;
    struct Algorithm {
        uint64_t data[8];
    };
    struct Found {
        Algorithm algorithm;
        size_t workspace_bytes;
        int state;
        float waves;
        int reserved[4];
    };
    enum { R_32F = 0, R_16F = 2, R_16BF = 14 };                  // cudaDataType_t
    enum { COMPUTE_32F = 68, COMPUTE_32F_FAST_TF32 = 77 };       // cublasComputeType_t
    enum { DESC_TRANSA = 3, DESC_EPILOGUE = 7 };                 // cublasLtMatmulDescAttributes_t
    enum { EPILOGUE_DEFAULT = 1, EPILOGUE_RELU = 2, OP_T = 1 };  // cublasLtEpilogue_t, cublasOperation_t
    enum { PREF_MAX_WORKSPACE_BYTES = 1, PREF_REDUCTION_SCHEME_MASK = 3, REDUCTION_COMPUTE_TYPE = 2 };
    enum { STATUS_ALLOC_FAILED = 3 };
    static constexpr int MOST_PASSING = 2048;

    using Shape = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int, bool, bool, bool>;
    struct Plan {
        Operation operation = nullptr;
        Layout w = nullptr, x = nullptr, y = nullptr;
        Algorithm algorithm{};
        bool stays = false;
    };

    static int type_of(int activations) { return activations == T5K_F16 ? R_16F : activations == T5K_BF16 ? R_16BF : R_32F; }

    Status prepare(const Product &p, Plan *plan) {
        const bool is_tf32 = allows_tf32_ && p.type == T5K_F32;
        const int type = type_of(p.type), out = p.y_is_f32 ? R_32F : type, transposed = OP_T;
        const int epilogue = p.has_relu ? EPILOGUE_RELU : EPILOGUE_DEFAULT;
        const auto K = static_cast<uint64_t>(p.K), N = static_cast<uint64_t>(p.N), R = static_cast<uint64_t>(p.R);
        T5K_TRY(check(operation_create_(&plan->operation, is_tf32 ? COMPUTE_32F_FAST_TF32 : COMPUTE_32F, R_32F),
                      "cublasLtMatmulDescCreate"));
        T5K_TRY(check(operation_set_(plan->operation, DESC_TRANSA, &transposed, sizeof transposed), "CUBLASLT_MATMUL_DESC_TRANSA"));
        T5K_TRY(check(operation_set_(plan->operation, DESC_EPILOGUE, &epilogue, sizeof epilogue), "CUBLASLT_MATMUL_DESC_EPILOGUE"));
        T5K_TRY(check(layout_create_(&plan->w, type, K, N, p.ldw), "cublasLtMatrixLayoutCreate"));
        T5K_TRY(check(layout_create_(&plan->x, type, K, R, p.ldx), "cublasLtMatrixLayoutCreate"));
        T5K_TRY(check(layout_create_(&plan->y, out, N, R, p.ldy), "cublasLtMatrixLayoutCreate"));
        Preference preference = nullptr;
        T5K_TRY(check(preference_create_(&preference), "cublasLtMatmulPreferenceCreate"));
        const Status chosen = choose(p, preference, plan);
        preference_destroy_(preference);
        return chosen;
    }

    Status choose(const Product &p, Preference preference, Plan *plan) {
        const uint64_t bytes = WORKSPACE_BYTES;
        const uint32_t reductions = REDUCTION_COMPUTE_TYPE;
        T5K_TRY(check(preference_set_(preference, PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes), "CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES"));
        T5K_TRY(check(preference_set_(preference, PREF_REDUCTION_SCHEME_MASK, &reductions, sizeof reductions),
                      "CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK"));
        Found found{};
        int count = 0;
        const int code = heuristic_(handle_, plan->operation, plan->w, plan->x, plan->y, plan->y, preference, 1, &found, &count);
        T5K_TRY(check(code, "cublasLtMatmulAlgoGetHeuristic" + words(p)));
        if (count < 1 || found.state != 0)
            return {Code::internal, "cuBLASLt " + version_ + " has no algorithm" + words(p) + ": load without T5K_CUBLASLT"};
        plan->algorithm = found.algorithm;
        return Status::good();
    }

    void drop(const Plan &plan) {
        for (const Layout layout : {plan.w, plan.x, plan.y})
            if (layout) layout_destroy_(layout);
        if (plan.operation) operation_destroy_(plan.operation);
    }

    void forget_passing() {
        for (auto it = plans_.begin(); it != plans_.end();)
            if (it->second.stays) {
                ++it;
            } else {
                drop(it->second);
                it = plans_.erase(it);
            }
        passing_ = 0;
    }

    static std::string words(const Product &p) {
        static const char *const types[] = {"fp32", "fp16", "bf16"};
        return " for " + std::to_string(p.R) + " rows, K " + std::to_string(p.K) + ", N " + std::to_string(p.N) + " in " + types[p.type];
    }
    Status check(int code, const std::string &what) const {
        if (code == 0) return Status::good();
        const std::string text = "cuBLASLt " + version_ + ": " + what + ": " + status_text_(code) + " (" + std::to_string(code) + ")";
        return {code == STATUS_ALLOC_FAILED ? Code::no_memory : Code::internal, text};
    }

    std::map<Shape, Plan> plans_;
    int passing_ = 0;  // plans that do not stay
    Handle handle_ = nullptr;
    std::string version_;
    bool allows_tf32_ = false;
    size_t (*get_version_)() = nullptr;
    const char *(*status_text_)(int) = nullptr;
    int (*create_)(Handle *) = nullptr;
    int (*destroy_)(Handle) = nullptr;
    int (*operation_create_)(Operation *, int, int) = nullptr;
    int (*operation_destroy_)(Operation) = nullptr;
    int (*operation_set_)(Operation, int, const void *, size_t) = nullptr;
    int (*layout_create_)(Layout *, int, uint64_t, uint64_t, int64_t) = nullptr;
    int (*layout_destroy_)(Layout) = nullptr;
    int (*preference_create_)(Preference *) = nullptr;
    int (*preference_destroy_)(Preference) = nullptr;
    int (*preference_set_)(Preference, int, const void *, size_t) = nullptr;
    int (*heuristic_)(Handle, Operation, Layout, Layout, Layout, Layout, Preference, int, Found *, int *) = nullptr;
    int (*matmul_)(Handle, Operation, const void *, const void *, Layout, const void *, Layout, const void *, const void *, Layout,
                   void *, Layout, const Algorithm *, void *, size_t, CUstream) = nullptr;
};

}  // namespace t5k::cuda
