// The CUDA driver API over the simulator: the same symbols as libcuda.so.1, for the functions in cuda/host/driver.h.
//
// Work is truly asynchronous (streams.h): it runs when something waits for it, and a copy from the host reads its source only
// then. Host code that forgets to synchronise, or reuses a buffer too early, fails. Several devices may be simulated: what
// belongs to one context is refused by another, and memory of a device without peer access cannot be touched. Stricter than
// a driver where that finds mistakes: work must be given in the context it belongs to. An error inside a kernel is sticky, as
// on a device; sim_last_error() says what it was.
#include "cuda/host/driver.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "sim/block.h"
#include "sim/memory.h"
#include "sim/streams.h"

#define API extern "C" __attribute__((visibility("default")))

namespace {

using namespace t5k::cuda;
namespace sim = t5k::sim;
using sim::Refusal;

// Primary contexts. Each has a module of its own: the same kernels, under other handles.
struct Context {
    int device = 0, retained = 0;
    unsigned peers = 0;  // devices whose memory it may touch, besides its own
    size_t modules = 0;
    sim::Stream *stream = nullptr;  // the default one
};
struct Function {
    const sim::Kernel *kernel;
    int device;
};
struct Event {
    int device;
    unsigned number;  // in order of creation since sim_pretend
    unsigned flags;
    std::shared_ptr<sim::EventState> state = std::make_shared<sim::EventState>();
};
using Graph = std::shared_ptr<const sim::Graph>;

std::string last_error;
Context contexts[sim::MOST_DEVICES];
std::map<const sim::Kernel *, std::unique_ptr<Function>> functions[sim::MOST_DEVICES];
thread_local int current = 0;  // device; a process that sets no context uses the first
size_t dynamic_limit = 48 << 10, launches = 0, submitted = 0, synchronised = 0, waited = 0, replayed = 0, captures = 0;
size_t events = 0, graphs = 0, peer_copies = 0;
unsigned next_event = 0;
unsigned long long forgotten = 0;
bool lies_about_peers = false;
int devices = 1, arch = 80, version = 13000, are_peers = 1;

Context &context_of(CUcontext c) { return *reinterpret_cast<Context *>(c); }

sim::Stream &stream_of(CUstream s) {
    if (s) return *reinterpret_cast<sim::Stream *>(s);
    Context &own = contexts[current];
    if (!own.stream) own.stream = sim::create_stream(current);
    return *own.stream;
}

CUresult outcome() { return last_error.empty() ? CUDA_SUCCESS : CUDA_ERROR_LAUNCH_FAILED; }

void complain(const std::string &what) {
    if (last_error.empty()) last_error = what;
}

CUresult outcome(Refusal refusal) {
    switch (refusal) {
        case Refusal::none: return outcome();
        case Refusal::unsupported: return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        case Refusal::merge: return CUDA_ERROR_STREAM_CAPTURE_MERGE;
        case Refusal::unmatched: return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
        case Refusal::unjoined: return CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
        case Refusal::isolation: return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
        case Refusal::captured_event: return CUDA_ERROR_CAPTURED_EVENT;
        case Refusal::locked: complain("streams wait for each other"); return outcome();
    }
    return CUDA_ERROR_INVALID_VALUE;
}

bool is_current(const sim::Stream &s) { return s.device == current; }

CUresult submit(CUstream stream, sim::Work work) {
    sim::Stream &s = stream_of(stream);
    if (!is_current(s)) return CUDA_ERROR_INVALID_CONTEXT;
    sim::submit(s, std::move(work));
    return outcome();
}

void *memory_of(CUdeviceptr p) { return reinterpret_cast<void *>(static_cast<uintptr_t>(p)); }

void execute(const sim::Kernel *kernel, int device, sim::Dim grid, sim::Dim block, size_t dynamic_bytes, const void *job) {
    if (!last_error.empty()) return;
    ++launches;
    const unsigned own = 1u << device | contexts[device].peers, all = (1u << devices) - 1;
    if (devices > 1) sim::see((own & all) == all ? sim::EVERYTHING : own);
    std::string error = sim::run({kernel, grid, block, dynamic_bytes, job});
    if (devices > 1) sim::see(sim::EVERYTHING);
    if (error.empty()) {
        error = sim::damaged();
        if (!error.empty()) error += std::string(" [") + kernel->name + "]";
    }
    if (!error.empty()) complain(error);
}

// null, or the range lies in one allocation of the stream's device.
bool is_here(const void *memory, size_t bytes, CUstream s) {
    return sim::owns(memory, bytes) && sim::owner(memory) == stream_of(s).device;
}

CUresult copy(CUstream stream, void *to, const void *from, size_t bytes, bool checks_to, bool checks_from) {
    if (checks_to && !is_here(to, bytes, stream)) return CUDA_ERROR_INVALID_VALUE;
    if (checks_from && !is_here(from, bytes, stream)) return CUDA_ERROR_INVALID_VALUE;
    return submit(stream, [=] { memcpy(to, from, bytes); });
}

}  // namespace

API CUresult cuInit(unsigned flags) { return flags ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS; }
API CUresult cuGetErrorString(CUresult code, const char **text) {
    *text = code == CUDA_SUCCESS               ? "no error"
            : code == CUDA_ERROR_LAUNCH_FAILED ? last_error.c_str()
            : code == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory"
            : code == CUDA_ERROR_NOT_FOUND     ? "named symbol not found"
            : code == CUDA_ERROR_INVALID_CONTEXT ? "invalid device context"
            : code == CUDA_ERROR_INVALID_HANDLE  ? "invalid resource handle"
            : code == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED ? "operation not permitted while the stream is capturing"
            : code == CUDA_ERROR_STREAM_CAPTURE_UNJOINED    ? "a stream that was forked into the capture did not come back"
            : code == CUDA_ERROR_STREAM_CAPTURE_ISOLATION   ? "a capture may not wait for what lies outside it"
            : code == CUDA_ERROR_PEER_ACCESS_UNSUPPORTED    ? "peer access is not supported between these two devices"
                                               : "invalid argument";
    return CUDA_SUCCESS;
}
API CUresult cuDriverGetVersion(int *version) { return *version = ::version, CUDA_SUCCESS; }
API CUresult cuDeviceGetName(char *name, int bytes, CUdevice) {
    return strncpy(name, "cuda-sim", static_cast<size_t>(bytes)), CUDA_SUCCESS;
}
API CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) { return *bytes = sim::capacity_bytes(device), CUDA_SUCCESS; }
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

// ---- contexts -------------------------------------------------------------------------------------------------------

API CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    if (device < 0 || device >= devices) return CUDA_ERROR_INVALID_VALUE;
    contexts[device].device = device;
    ++contexts[device].retained;
    *context = reinterpret_cast<CUcontext>(&contexts[device]);
    return CUDA_SUCCESS;
}
API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    if (contexts[device].retained < 1) return CUDA_ERROR_INVALID_CONTEXT;
    if (--contexts[device].retained == 0) contexts[device].peers = 0;
    return CUDA_SUCCESS;
}
API CUresult cuCtxSetCurrent(CUcontext context) { return current = context ? context_of(context).device : 0, CUDA_SUCCESS; }
API CUresult cuDeviceCanAccessPeer(int *can, CUdevice device, CUdevice peer) {
    if (device >= devices || peer >= devices) return CUDA_ERROR_INVALID_VALUE;
    return *can = are_peers && device != peer, CUDA_SUCCESS;
}
API CUresult cuCtxEnablePeerAccess(CUcontext peer, unsigned flags) {
    const int device = context_of(peer).device;
    if (flags || device == current) return CUDA_ERROR_INVALID_VALUE;
    if (!are_peers) return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
    if (contexts[current].peers >> device & 1) return CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED;
    if (!lies_about_peers) contexts[current].peers |= 1u << device;
    return CUDA_SUCCESS;
}

// There is one module, whatever the image: the kernels this library was built from.
API CUresult cuModuleLoadData(CUmodule *module, const void *) {
    ++contexts[current].modules;
    *module = reinterpret_cast<CUmodule>(&contexts[current].modules);
    return CUDA_SUCCESS;
}
API CUresult cuModuleUnload(CUmodule module) { return --*reinterpret_cast<size_t *>(module), CUDA_SUCCESS; }
API CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    const sim::Kernel *kernel = sim::find_kernel(name);
    *function = nullptr;
    if (!kernel) return CUDA_ERROR_NOT_FOUND;
    for (int d = 0; d < sim::MOST_DEVICES; ++d) {
        if (reinterpret_cast<size_t *>(module) != &contexts[d].modules) continue;
        std::unique_ptr<Function> &handle = functions[d][kernel];
        if (!handle) handle = std::make_unique<Function>(Function{kernel, d});
        *function = reinterpret_cast<CUfunction>(handle.get());
    }
    return *function ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}
API CUresult cuFuncSetAttribute(CUfunction, int attribute, int value) {
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value > (99 << 10)) return CUDA_ERROR_INVALID_VALUE;
    dynamic_limit = static_cast<size_t>(value) > dynamic_limit ? static_cast<size_t>(value) : dynamic_limit;
    return CUDA_SUCCESS;
}

// ---- memory ---------------------------------------------------------------------------------------------------------

API CUresult cuMemAlloc_v2(CUdeviceptr *memory, size_t bytes) {
    if (sim::is_capturing()) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    void *p = sim::allocate_memory(bytes, current, devices > 1);
    *memory = reinterpret_cast<uintptr_t>(p);
    return p ? CUDA_SUCCESS : bytes ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_ERROR_INVALID_VALUE;
}
// Frees wait for the device, as cuMemFree does.
API CUresult cuMemFree_v2(CUdeviceptr memory) {
    if (!memory) return CUDA_SUCCESS;
    const int device = sim::owner(memory_of(memory));
    const Refusal refusal = sim::finish_device(device);
    if (refusal == Refusal::unsupported) return outcome(refusal);
    return sim::free_memory(memory_of(memory)) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
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
API CUresult cuMemcpyPeerAsync(CUdeviceptr to, CUcontext to_context, CUdeviceptr from, CUcontext from_context, size_t bytes,
                               CUstream s) {
    void *target = memory_of(to);
    const void *source = memory_of(from);
    if (!sim::owns(target, bytes) || sim::owner(target) != context_of(to_context).device) return CUDA_ERROR_INVALID_VALUE;
    if (!sim::owns(source, bytes) || sim::owner(source) != context_of(from_context).device) return CUDA_ERROR_INVALID_VALUE;
    ++peer_copies;
    return submit(s, [=] { memcpy(target, source, bytes); });
}
API CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream s) {
    void *p = memory_of(to);
    if (!is_here(p, bytes, s)) return CUDA_ERROR_INVALID_VALUE;
    return submit(s, [=] { memset(p, value, bytes); });
}

// ---- streams and events ---------------------------------------------------------------------------------------------

API CUresult cuStreamCreate(CUstream *stream, unsigned) {
    *stream = reinterpret_cast<CUstream>(sim::create_stream(current));
    return CUDA_SUCCESS;
}
API CUresult cuStreamSynchronize(CUstream stream) {
    ++synchronised;
    return outcome(sim::finish(stream_of(stream)));
}
API CUresult cuStreamDestroy_v2(CUstream stream) {
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    return outcome(sim::destroy_stream(reinterpret_cast<sim::Stream *>(stream)));
}

API CUresult cuEventCreate(CUevent *event, unsigned flags) {
    ++events;
    *event = reinterpret_cast<CUevent>(new Event{current, next_event++, flags});
    return CUDA_SUCCESS;
}
API CUresult cuEventDestroy_v2(CUevent event) {
    --events;
    delete reinterpret_cast<Event *>(event);
    return CUDA_SUCCESS;
}
API CUresult cuEventRecord(CUevent event, CUstream stream) {
    auto *e = reinterpret_cast<Event *>(event);
    sim::Stream &s = stream_of(stream);
    if (e->device != s.device) return CUDA_ERROR_INVALID_HANDLE;
    return outcome(sim::record(e->state, s));
}
API CUresult cuEventSynchronize(CUevent event) {
    ++waited;
    return outcome(sim::finish(reinterpret_cast<Event *>(event)->state));
}
// Only benches ask: seconds of this emulator, which say nothing of a device.
API CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
    const auto *from = reinterpret_cast<Event *>(start), *to = reinterpret_cast<Event *>(end);
    for (const Event *e : {from, to}) {
        if (e->flags & CU_EVENT_DISABLE_TIMING || !e->state->recorded) return CUDA_ERROR_INVALID_HANDLE;
        if (e->state->done < e->state->recorded) return CUDA_ERROR_NOT_READY;
    }
    *milliseconds = std::chrono::duration<float, std::milli>(to->state->happened - from->state->happened).count();
    return CUDA_SUCCESS;
}
API CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
    const auto *e = reinterpret_cast<Event *>(event);
    if (e->number < 64 && forgotten >> e->number & 1) return outcome();
    return outcome(sim::wait(stream_of(stream), e->state));
}

// Parameters are copied now, as the driver does: the kernel's one record.
API CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                            unsigned bz, unsigned dynamic_bytes, CUstream stream, void **parameters, void **extra) {
    const auto *f = reinterpret_cast<const Function *>(function);
    if (!f || f->device != stream_of(stream).device) return CUDA_ERROR_INVALID_HANDLE;
    if (!parameters || extra || dynamic_bytes > dynamic_limit) return CUDA_ERROR_INVALID_VALUE;
    ++submitted;
    const sim::Kernel *kernel = f->kernel;
    const int device = f->device;
    std::vector<unsigned char> job(kernel->job_bytes);
    memcpy(job.data(), parameters[0], kernel->job_bytes);
    return submit(stream, [=] { execute(kernel, device, {gx, gy, gz}, {bx, by, bz}, dynamic_bytes, job.data()); });
}

// ---- graphs ---------------------------------------------------------------------------------------------------------

API CUresult cuStreamBeginCapture_v2(CUstream stream, int) {
    if (!stream) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    return outcome(sim::begin_capture(stream_of(stream)));
}
API CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) {
    Graph made;
    *graph = nullptr;
    const Refusal refusal = sim::end_capture(stream_of(stream), &made);
    if (refusal != Refusal::none) return outcome(refusal);
    ++captures;
    ++graphs;
    *graph = reinterpret_cast<CUgraph>(new Graph(std::move(made)));
    return outcome();
}
API CUresult cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph, unsigned long long) {
    ++graphs;
    *exec = reinterpret_cast<CUgraphExec>(new Graph(*reinterpret_cast<Graph *>(graph)));
    return CUDA_SUCCESS;
}
API CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream) {
    ++replayed;
    if (!is_current(stream_of(stream))) return CUDA_ERROR_INVALID_CONTEXT;
    sim::submit_graph(stream_of(stream), *reinterpret_cast<Graph *>(exec));
    return outcome();
}
API CUresult cuGraphExecDestroy(CUgraphExec exec) { return --graphs, delete reinterpret_cast<Graph *>(exec), CUDA_SUCCESS; }
API CUresult cuGraphDestroy(CUgraph graph) { return --graphs, delete reinterpret_cast<Graph *>(graph), CUDA_SUCCESS; }

// ---- the simulator's own controls -----------------------------------------------------------------------------------

API const char *sim_last_error() { return last_error.c_str(); }
API void sim_reset() { last_error.clear(); }
API void sim_set_order(unsigned long long seed) { sim::set_order(seed); }
// How streams take turns: 0 as late as may be, else in an order drawn from this seed (streams.h).
API void sim_set_schedule(unsigned long long seed) { sim::set_schedule(seed); }
// What the driver says of itself from now on: devices, their architecture (80 for sm_80), its CUDA version (13000).
API void sim_pretend(int devices_, int arch_, int version_) {
    devices = devices_ < sim::MOST_DEVICES ? devices_ : sim::MOST_DEVICES;
    arch = arch_;
    version = version_;
    current = 0;
    next_event = 0;
    forgotten = 0;
    lies_about_peers = false;
}
// Whether devices can reach each other's memory.
API void sim_set_peers(int are) { are_peers = are; }
// Faults: streams no longer wait for these events (bit n: the n-th created since sim_pretend); peer access is granted and not
// given.
API void sim_forget_waits(unsigned long long event_numbers) { forgotten = event_numbers; }
API void sim_lie_about_peers() { lies_about_peers = true; }
API void sim_set_capacity(size_t bytes) { sim::set_capacity(bytes); }
API void sim_set_device_capacity(int device, size_t bytes) { sim::set_capacity(device, bytes); }
API size_t sim_allocations() { return sim::allocations(); }
API size_t sim_launches() { return launches; }
// Calls so far: kernel launches (captured ones too), captures, graph launches, stream synchronisations, event waits.
API void sim_calls(size_t *five) {
    const size_t all[] = {submitted, captures, replayed, synchronised, waited};
    memcpy(five, all, sizeof all);
}
API size_t sim_peer_copies() { return peer_copies; }
// What exists now: allocations, streams (default ones apart), events, graphs, modules, references to contexts.
API void sim_live(size_t *six) {
    size_t modules = 0, retained = 0, defaults = 0;
    for (const Context &each : contexts) {
        modules += each.modules;
        retained += static_cast<size_t>(each.retained);
        defaults += each.stream != nullptr;
    }
    const size_t all[] = {sim::allocations(), sim::live_streams() - defaults, events, graphs, modules, retained};
    memcpy(six, all, sizeof all);
}
// For libraries that work on streams themselves: does `work(data)` when the stream gets there, with all memory in sight.
API CUresult sim_submit(CUstream stream, void (*work)(void *), void *data, void (*drop)(void *)) {
    const std::shared_ptr<void> kept(data, drop);
    return submit(stream, [work, kept] { work(kept.get()); });
}
API int sim_is_capturing() { return sim::is_capturing(); }
API size_t sim_job_bytes(const char *name) {
    const sim::Kernel *kernel = sim::find_kernel(name);
    return kernel ? kernel->job_bytes : 0;
}
API const char *sim_kernel_name(size_t index) {
    const sim::Kernel *kernel = sim::first_kernel();
    while (kernel && index--) kernel = kernel->next;
    return kernel ? kernel->name : nullptr;
}
