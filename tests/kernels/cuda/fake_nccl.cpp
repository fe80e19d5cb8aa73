// A libnccl of a few functions for the simulator named by T5K_CUDA_SIM: it sums truthfully, in its own order (last rank
// first), in order with the streams, and counts what it was asked. Like NCCL it may be recorded into a graph.
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include <memory>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

namespace {

struct Comm {
    int rank, ranks;
    void *context = nullptr, *event = nullptr;
};
struct Part {
    const float *from;
    float *to;
    size_t count;
    Comm *comm;
    void *stream;
};
using Sums = std::shared_ptr<std::vector<std::vector<float>>>;
struct Task {
    Sums sums;
    Part part;
};

void *simulator = nullptr;
std::vector<Part> parts;
bool is_grouped = false;
size_t live = 0, calls = 0, largest = 0;

template <class... Arguments>
int driver(const char *name, Arguments... arguments) {
    return reinterpret_cast<int (*)(Arguments...)>(dlsym(simulator, name))(arguments...);
}

int submit(const Part &part, const Sums &sums, void (*work)(void *)) {
    return driver("sim_submit", part.stream, work, static_cast<void *>(new Task{sums, part}),
                  static_cast<void (*)(void *)>([](void *task) { delete static_cast<Task *>(task); }));
}

void keep(void *data) {
    const auto &task = *static_cast<Task *>(data);
    (*task.sums)[static_cast<size_t>(task.part.comm->rank)].assign(task.part.from, task.part.from + task.part.count);
}

void sum(void *data) {
    const auto &task = *static_cast<Task *>(data);
    for (size_t i = 0; i < task.part.count; ++i) {
        float total = 0.0f;
        for (size_t r = task.sums->size(); r-- > 0;) total += (*task.sums)[r][i];
        task.part.to[i] = total;
    }
}

}  // namespace

API int ncclGetVersion(int *version) { return *version = 22705, 0; }
API const char *ncclGetErrorString(int code) { return code == 5 ? "invalid usage" : "unhandled cuda error"; }
API int ncclCommInitAll(Comm **comms, int ranks, const int *devices) {
    simulator = dlopen(getenv("T5K_CUDA_SIM"), RTLD_NOW | RTLD_NOLOAD);
    if (!simulator || devices) return 5;
    for (int r = 0; r < ranks; ++r) {
        comms[r] = new Comm{r, ranks};
        if (driver("cuDevicePrimaryCtxRetain", &comms[r]->context, r)) return 1;
        driver("cuCtxSetCurrent", comms[r]->context);
        driver("cuEventCreate", &comms[r]->event, 2u);
        ++live;
    }
    return 0;
}
API int ncclCommDestroy(Comm *comm) {
    driver("cuEventDestroy_v2", comm->event);
    driver("cuDevicePrimaryCtxRelease_v2", comm->rank);
    delete comm;
    return --live, 0;
}
API int ncclGroupStart() { return is_grouped ? 5 : (is_grouped = true, 0); }
API int ncclAllReduce(const void *from, void *to, size_t count, int type, int op, Comm *comm, void *stream) {
    if (!is_grouped || type != 7 || op != 0) return 5;
    parts.push_back({static_cast<const float *>(from), static_cast<float *>(to), count, comm, stream});
    ++calls;
    largest = count > largest ? count : largest;
    return 0;
}
API int ncclGroupEnd() {
    is_grouped = false;
    const Sums sums = std::make_shared<std::vector<std::vector<float>>>(parts.size());
    for (const Part &part : parts) {
        if (part.comm->ranks != static_cast<int>(parts.size())) return 5;
        driver("cuCtxSetCurrent", part.comm->context);
        if (submit(part, sums, keep) || driver("cuEventRecord", part.comm->event, part.stream)) return 1;
    }
    for (const Part &part : parts) {
        driver("cuCtxSetCurrent", part.comm->context);
        for (const Part &other : parts)
            if (other.comm != part.comm && driver("cuStreamWaitEvent", part.stream, other.comm->event, 0u)) return 1;
        if (submit(part, sums, sum)) return 1;
    }
    parts.clear();
    return 0;
}
// Communicators alive, all-reduce calls, and the most floats of one.
API void fake_counts(size_t *three) {
    const size_t all[] = {live, calls, largest};
    memcpy(three, all, sizeof all);
}
