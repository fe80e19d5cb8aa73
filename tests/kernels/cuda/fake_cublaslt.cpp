// A libcublasLt of a few functions for the simulator named by T5K_CUDA_SIM: it multiplies truthfully, in float64, in order
// with the stream, and writes down every product it is asked for. Where the real library says INVALID_VALUE it does, and it
// refuses what was never chosen by its heuristic. FAKE_CUBLASLT_FAILS names a function and the status it returns.
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

namespace {

enum { INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum { R_32F = 0, R_16F = 2, R_16BF = 14 };

struct Operation {
    int compute, scale, trans_a = 0, epilogue = 1;
};
struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t ld;
};
struct Preference {
    uint64_t workspace = 0;
    uint32_t reductions = 7;
};
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

// What a test reads back.
struct Record {
    int64_t rows, K, N, ldw, ldx, ldy;
    int type, out, compute, scale, epilogue, is_capturing;
    float alpha, beta;
    int64_t workspace;
};
struct Task {
    Record r;
    const unsigned char *w, *x;
    unsigned char *y;
};

void *simulator = nullptr;
std::vector<Record> products;
size_t live = 0, handles = 0, heuristics = 0, captured_heuristics = 0;
uint64_t workspace_allowed = 0;
constexpr uint64_t MAGIC = 0x7465737473ull;

bool fails(const char *name, int *status) {
    const char *wanted = getenv("FAKE_CUBLASLT_FAILS");
    if (!wanted || strncmp(wanted, name, strlen(name)) || wanted[strlen(name)] != '=') return false;
    *status = atoi(wanted + strlen(name) + 1);
    return true;
}
#define MAY_FAIL(name) \
    if (int status = 0; fails(name, &status)) return status

bool is_capturing() { return reinterpret_cast<int (*)()>(dlsym(simulator, "sim_is_capturing"))() != 0; }

float value(const unsigned char *p, int type, int64_t at) {
    if (type == R_32F) {
        float f;
        return memcpy(&f, p + 4 * at, 4), f;
    }
    uint16_t bits;
    memcpy(&bits, p + 2 * at, 2);
    if (type == R_16F) {
        _Float16 half;
        return memcpy(&half, &bits, 2), static_cast<float>(half);
    }
    const uint32_t wide = uint32_t{bits} << 16;
    float f;
    return memcpy(&f, &wide, 4), f;
}

void store(unsigned char *p, int type, int64_t at, float f) {
    if (type == R_32F) {
        memcpy(p + 4 * at, &f, 4);
    } else if (type == R_16F) {
        const auto half = static_cast<_Float16>(f);
        memcpy(p + 2 * at, &half, 2);
    } else {
        uint32_t bits;
        memcpy(&bits, &f, 4);
        const auto rounded = static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
        memcpy(p + 2 * at, &rounded, 2);
    }
}

void multiply(void *data) {
    const Task &t = *static_cast<Task *>(data);
    const Record &r = t.r;
    for (int64_t row = 0; row < r.rows; ++row)
        for (int64_t n = 0; n < r.N; ++n) {
            double sum = 0.0;
            for (int64_t k = 0; k < r.K; ++k)
                sum += static_cast<double>(value(t.w, r.type, n * r.ldw + k)) * value(t.x, r.type, row * r.ldx + k);
            float y = r.alpha * static_cast<float>(sum);
            if (r.beta != 0.0f) y += r.beta * value(t.y, r.out, row * r.ldy + n);
            store(t.y, r.out, row * r.ldy + n, r.epilogue == 2 && y < 0.0f ? 0.0f : y);
        }
}

}  // namespace

API size_t cublasLtGetVersion() { return 130103; }
API const char *cublasLtGetStatusString(int status) {
    return status == 3 ? "CUBLAS_STATUS_ALLOC_FAILED" : status == INVALID_VALUE ? "CUBLAS_STATUS_INVALID_VALUE"
         : status == NOT_SUPPORTED ? "CUBLAS_STATUS_NOT_SUPPORTED" : "CUBLAS_STATUS_NOT_INITIALIZED";
}
API int cublasLtCreate(void **handle) {
    MAY_FAIL("cublasLtCreate");
    simulator = dlopen(getenv("T5K_CUDA_SIM"), RTLD_NOW | RTLD_NOLOAD);
    if (!simulator) return 1;
    ++handles;
    return *handle = &handles, 0;
}
API int cublasLtDestroy(void *) { return --handles, 0; }
API int cublasLtMatmulDescCreate(Operation **o, int compute, int scale) { return *o = new Operation{compute, scale}, ++live, 0; }
API int cublasLtMatmulDescDestroy(Operation *o) { return delete o, --live, 0; }
API int cublasLtMatmulDescSetAttribute(Operation *o, int attribute, const void *from, size_t bytes) {
    if (bytes != 4 || (attribute != 3 && attribute != 7)) return INVALID_VALUE;
    memcpy(attribute == 3 ? &o->trans_a : &o->epilogue, from, 4);
    return 0;
}
API int cublasLtMatrixLayoutCreate(Layout **l, int type, uint64_t rows, uint64_t columns, int64_t ld) {
    if (!rows || !columns || ld < static_cast<int64_t>(rows)) return INVALID_VALUE;
    return *l = new Layout{type, rows, columns, ld}, ++live, 0;
}
API int cublasLtMatrixLayoutDestroy(Layout *l) { return delete l, --live, 0; }
API int cublasLtMatmulPreferenceCreate(Preference **p) { return *p = new Preference, ++live, 0; }
API int cublasLtMatmulPreferenceDestroy(Preference *p) { return delete p, --live, 0; }
API int cublasLtMatmulPreferenceSetAttribute(Preference *p, int attribute, const void *from, size_t bytes) {
    if (attribute == 1 && bytes == 8) return memcpy(&p->workspace, from, 8), 0;
    if (attribute == 3 && bytes == 4) return memcpy(&p->reductions, from, 4), 0;
    return INVALID_VALUE;
}

API int cublasLtMatmulAlgoGetHeuristic(void *, Operation *o, Layout *a, Layout *b, Layout *c, Layout *d, Preference *p, int wanted,
                                       Found *found, int *count) {
    MAY_FAIL("cublasLtMatmulAlgoGetHeuristic");
    if (wanted != 1 || c != d || o->trans_a != 1 || a->rows != b->rows || d->rows != a->columns || d->columns != b->columns ||
        p->reductions != 2)
        return INVALID_VALUE;
    ++heuristics;
    captured_heuristics += is_capturing();
    *found = Found{};
    *count = 0;
    if (int status = 0; fails("heuristic", &status)) return 0;  // none found
    workspace_allowed = p->workspace;
    *found = {{{MAGIC, a->columns, b->columns, a->rows, 0, 0, 0, 0}}, p->workspace, 0, 1.0f, {}};
    return *count = 1, 0;
}

API int cublasLtMatmul(void *, Operation *o, const float *alpha, const void *w, Layout *a, const void *x, Layout *b, const float *beta,
                       const void *c, Layout *c_layout, void *y, Layout *d, const Algorithm *algorithm, void *workspace,
                       size_t workspace_bytes, void *stream) {
    MAY_FAIL("cublasLtMatmul");
    const bool is_chosen = algorithm->data[0] == MAGIC && algorithm->data[1] == a->columns && algorithm->data[2] == b->columns;
    const bool is_aligned = (reinterpret_cast<uintptr_t>(w) | reinterpret_cast<uintptr_t>(x) | reinterpret_cast<uintptr_t>(y)) % 16 == 0;
    if (!is_chosen || !is_aligned || c != y || c_layout != d || a->type != b->type || !workspace || workspace_bytes < workspace_allowed)
        return INVALID_VALUE;
    Record r{static_cast<int64_t>(b->columns), static_cast<int64_t>(a->rows), static_cast<int64_t>(a->columns), a->ld, b->ld, d->ld,
             a->type, d->type, o->compute, o->scale, o->epilogue, is_capturing(), *alpha, *beta, static_cast<int64_t>(workspace_bytes)};
    products.push_back(r);
    auto *task = new Task{r, static_cast<const unsigned char *>(w), static_cast<const unsigned char *>(x), static_cast<unsigned char *>(y)};
    const auto submit = reinterpret_cast<int (*)(void *, void (*)(void *), void *, void (*)(void *))>(dlsym(simulator, "sim_submit"));
    return submit(stream, multiply, task, [](void *t) { delete static_cast<Task *>(t); }) ? 13 : 0;
}

// Objects alive, handles alive, heuristics asked, of them while a stream was recording, products so far.
API void fake_counts(size_t *five) {
    const size_t all[] = {live, handles, heuristics, captured_heuristics, products.size()};
    memcpy(five, all, sizeof all);
}
API const Record *fake_product(size_t i) { return &products[i]; }
API void fake_forget() { products.clear(), heuristics = captured_heuristics = 0; }
