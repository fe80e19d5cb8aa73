// The CUDA driver API over the simulator: the same symbols as libcuda.so.1, for the functions in device/cuda_driver.h.
//
// Work is truly asynchronous: an operation runs when something waits for it (or when its stream is destroyed), and a copy
// from the host reads its source only then. Host code that forgets to synchronise, or reuses a buffer too early, fails.
// An error inside a kernel is sticky, as on a device; sim_last_error() says what it was.
#include "device/cuda_driver.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "sim/block.h"
#include "sim/memory.h"

#define API extern "C" __attribute__((visibility("default")))

namespace {

using namespace t5k::cuda;
namespace sim = t5k::sim;

using Work = std::function<void()>;

struct Stream {
    std::deque<Work> queue;
    std::vector<Work> captured;
    bool is_capturing = false;
};
struct Event {
    bool is_done = true;
    Stream *stream = nullptr;  // where it was last recorded
    unsigned long long turn = 0;
};
struct Graph {
    std::vector<Work> nodes;
};

std::string last_error;
Stream default_stream;
std::vector<Stream *> streams{&default_stream};
unsigned long long turns = 0;
size_t dynamic_limit = 48 << 10, launches = 0, submitted = 0, synchronised = 0, waited = 0, replayed = 0, captures = 0;
int devices = 1, arch = 80, version = 13000;
int module_object;

Stream &stream_of(CUstream s) { return s ? *reinterpret_cast<Stream *>(s) : default_stream; }

CUresult outcome() { return last_error.empty() ? CUDA_SUCCESS : CUDA_ERROR_LAUNCH_FAILED; }

void complain(const std::string &what) {
    if (last_error.empty()) last_error = what;
}

CUresult drain(Stream &s) {
    if (s.is_capturing) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    while (!s.queue.empty()) {
        Work work = std::move(s.queue.front());
        s.queue.pop_front();
        work();
    }
    return outcome();
}

CUresult submit(CUstream stream, Work work) {
    Stream &s = stream_of(stream);
    if (s.is_capturing)
        s.captured.push_back(std::move(work));
    else
        s.queue.push_back(std::move(work));
    return outcome();
}

void *memory_of(CUdeviceptr p) { return reinterpret_cast<void *>(static_cast<uintptr_t>(p)); }

void execute(const sim::Kernel *kernel, sim::Dim grid, sim::Dim block, size_t dynamic_bytes, const void *job) {
    if (!last_error.empty()) return;
    ++launches;
    std::string error = sim::run({kernel, grid, block, dynamic_bytes, job});
    if (error.empty()) {
        error = sim::damaged();
        if (!error.empty()) error += std::string(" [") + kernel->name + "]";
    }
    if (!error.empty()) complain(error);
}

CUresult copy(CUstream stream, void *to, const void *from, size_t bytes, bool checks_to, bool checks_from) {
    if (checks_to && !sim::owns(to, bytes)) return CUDA_ERROR_INVALID_VALUE;
    if (checks_from && !sim::owns(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
    return submit(stream, [=] { memcpy(to, from, bytes); });
}

}  // namespace

API CUresult cuInit(unsigned flags) { return flags ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS; }
API CUresult cuGetErrorString(CUresult code, const char **text) {
    *text = code == CUDA_SUCCESS               ? "no error"
            : code == CUDA_ERROR_LAUNCH_FAILED ? last_error.c_str()
            : code == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory"
            : code == CUDA_ERROR_NOT_FOUND     ? "named symbol not found"
            : code == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED ? "operation not permitted while the stream is capturing"
                                               : "invalid argument";
    return CUDA_SUCCESS;
}
API CUresult cuDriverGetVersion(int *version) { return *version = ::version, CUDA_SUCCESS; }
API CUresult cuDeviceGetName(char *name, int bytes, CUdevice) {
    return strncpy(name, "cuda-sim", static_cast<size_t>(bytes)), CUDA_SUCCESS;
}
API CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice) { return *bytes = sim::capacity_bytes(), CUDA_SUCCESS; }
API CUresult cuDeviceGetCount(int *count) { return *count = devices, CUDA_SUCCESS; }
API CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    *device = ordinal;
    return ordinal < 0 || ordinal >= devices ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}
API CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice) {
    if (attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) return *value = arch / 10, CUDA_SUCCESS;
    if (attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR) return *value = arch % 10, CUDA_SUCCESS;
    return CUDA_ERROR_INVALID_VALUE;
}
API CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice) {
    *context = reinterpret_cast<CUcontext>(&module_object);
    return CUDA_SUCCESS;
}
API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice) { return CUDA_SUCCESS; }
API CUresult cuCtxSetCurrent(CUcontext) { return CUDA_SUCCESS; }

// There is one module, whatever the image: the kernels this library was built from.
API CUresult cuModuleLoadData(CUmodule *module, const void *) {
    *module = reinterpret_cast<CUmodule>(&module_object);
    return CUDA_SUCCESS;
}
API CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }
API CUresult cuModuleGetFunction(CUfunction *function, CUmodule, const char *name) {
    const sim::Kernel *kernel = sim::find_kernel(name);
    *function = reinterpret_cast<CUfunction>(const_cast<sim::Kernel *>(kernel));
    return kernel ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
API CUresult cuFuncSetAttribute(CUfunction, int attribute, int value) {
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value > (99 << 10)) return CUDA_ERROR_INVALID_VALUE;
    dynamic_limit = static_cast<size_t>(value) > dynamic_limit ? static_cast<size_t>(value) : dynamic_limit;
    return CUDA_SUCCESS;
}

API CUresult cuMemAlloc_v2(CUdeviceptr *memory, size_t bytes) {
    void *p = sim::allocate_memory(bytes);
    *memory = reinterpret_cast<uintptr_t>(p);
    return p ? CUDA_SUCCESS : bytes ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_ERROR_INVALID_VALUE;
}
// Frees wait for the device, as cuMemFree does.
API CUresult cuMemFree_v2(CUdeviceptr memory) {
    for (Stream *s : streams) drain(*s);
    return !memory || sim::free_memory(memory_of(memory)) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
// Page-locked host memory.
API CUresult cuMemAllocHost_v2(void **memory, size_t bytes) {
    *memory = malloc(bytes);
    return *memory ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
API CUresult cuMemFreeHost(void *memory) { return free(memory), CUDA_SUCCESS; }
API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream s) {
    return copy(s, memory_of(to), from, bytes, true, false);
}
API CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream s) {
    return copy(s, to, memory_of(from), bytes, false, true);
}
API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream s) {
    return copy(s, memory_of(to), memory_of(from), bytes, true, true);
}
API CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream s) {
    void *p = memory_of(to);
    if (!sim::owns(p, bytes)) return CUDA_ERROR_INVALID_VALUE;
    return submit(s, [=] { memset(p, value, bytes); });
}

API CUresult cuStreamCreate(CUstream *stream, unsigned) {
    streams.push_back(new Stream);
    *stream = reinterpret_cast<CUstream>(streams.back());
    return CUDA_SUCCESS;
}
API CUresult cuStreamSynchronize(CUstream stream) {
    ++synchronised;
    return drain(stream_of(stream));
}
API CUresult cuStreamDestroy_v2(CUstream stream) {
    const CUresult result = drain(stream_of(stream));
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    streams.erase(std::find(streams.begin(), streams.end(), reinterpret_cast<Stream *>(stream)));
    delete reinterpret_cast<Stream *>(stream);
    return result;
}

API CUresult cuEventCreate(CUevent *event, unsigned) {
    *event = reinterpret_cast<CUevent>(new Event);
    return CUDA_SUCCESS;
}
API CUresult cuEventDestroy_v2(CUevent event) {
    delete reinterpret_cast<Event *>(event);
    return CUDA_SUCCESS;
}
API CUresult cuEventRecord(CUevent event, CUstream stream) {
    auto *e = reinterpret_cast<Event *>(event);
    e->is_done = false;
    e->stream = &stream_of(stream);
    const unsigned long long turn = e->turn = ++turns;
    return submit(stream, [e, turn] { e->is_done |= e->turn == turn; });
}
static CUresult wait_for(Event *e) {
    while (!e->is_done && !e->stream->queue.empty()) {
        Work work = std::move(e->stream->queue.front());
        e->stream->queue.pop_front();
        work();
    }
    return outcome();
}
API CUresult cuEventSynchronize(CUevent event) {
    ++waited;
    return wait_for(reinterpret_cast<Event *>(event));
}
API CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
    auto *e = reinterpret_cast<Event *>(event);
    return submit(stream, [e] { wait_for(e); });
}

// Parameters are copied now, as the driver does: the kernel's one record.
API CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                            unsigned bz, unsigned dynamic_bytes, CUstream stream, void **parameters, void **extra) {
    const auto *kernel = reinterpret_cast<const sim::Kernel *>(function);
    if (!kernel) return CUDA_ERROR_INVALID_HANDLE;
    if (!parameters || extra || dynamic_bytes > dynamic_limit) return CUDA_ERROR_INVALID_VALUE;
    ++submitted;
    std::vector<unsigned char> job(kernel->job_bytes);
    memcpy(job.data(), parameters[0], kernel->job_bytes);
    return submit(stream, [=] { execute(kernel, {gx, gy, gz}, {bx, by, bz}, dynamic_bytes, job.data()); });
}

API CUresult cuStreamBeginCapture_v2(CUstream stream, int) {
    Stream &s = stream_of(stream);
    if (!stream || s.is_capturing) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    s.is_capturing = true;
    return CUDA_SUCCESS;
}
API CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) {
    Stream &s = stream_of(stream);
    if (!s.is_capturing) return CUDA_ERROR_INVALID_VALUE;
    s.is_capturing = false;
    ++captures;
    *graph = reinterpret_cast<CUgraph>(new Graph{std::move(s.captured)});
    s.captured.clear();
    return CUDA_SUCCESS;
}
API CUresult cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph, unsigned long long) {
    *exec = reinterpret_cast<CUgraphExec>(new Graph(*reinterpret_cast<Graph *>(graph)));
    return CUDA_SUCCESS;
}
API CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream) {
    ++replayed;
    for (const Work &work : reinterpret_cast<Graph *>(exec)->nodes) submit(stream, work);
    return outcome();
}
API CUresult cuGraphExecDestroy(CUgraphExec exec) { return delete reinterpret_cast<Graph *>(exec), CUDA_SUCCESS; }
API CUresult cuGraphDestroy(CUgraph graph) { return delete reinterpret_cast<Graph *>(graph), CUDA_SUCCESS; }

// The simulator's own controls.
API const char *sim_last_error() { return last_error.c_str(); }
API void sim_reset() { last_error.clear(); }
API void sim_set_order(unsigned long long seed) { sim::set_order(seed); }
// What the driver says of itself from now on: devices, their architecture (80 for sm_80), its CUDA version (13000).
API void sim_pretend(int devices_, int arch_, int version_) {
    devices = devices_;
    arch = arch_;
    version = version_;
}
API void sim_set_capacity(size_t bytes) { sim::set_capacity(bytes); }
API size_t sim_allocations() { return sim::allocations(); }
API size_t sim_launches() { return launches; }
// Calls so far: kernel launches (captured ones too), captures, graph launches, stream synchronisations, event waits.
API void sim_calls(size_t *five) {
    const size_t all[] = {submitted, captures, replayed, synchronised, waited};
    memcpy(five, all, sizeof all);
}
API size_t sim_job_bytes(const char *name) {
    const sim::Kernel *kernel = sim::find_kernel(name);
    return kernel ? kernel->job_bytes : 0;
}
API const char *sim_kernel_name(size_t index) {
    const sim::Kernel *kernel = sim::first_kernel();
    while (kernel && index--) kernel = kernel->next;
    return kernel ? kernel->name : nullptr;
}
