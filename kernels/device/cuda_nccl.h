// The few functions of NCCL that a group of GPUs uses, resolved when somebody asks for them. Types and values are those of
// NCCL's stable C interface (nccl.h 2.x); nothing of it is needed to build.
//
// A sum by NCCL is the same on every rank, but its order of additions is NCCL's own: it changes with the number of GPUs, the
// size and the version, so results are not those of our all-reduce bit for bit, nor those of one GPU.
#pragma once

#include <dlfcn.h>

#include <string>
#include <vector>

#include "device/cuda_driver.h"
#include "device/status.h"

namespace t5k::cuda {

class Nccl {
   public:
    bool is_open() const { return !comms_.empty(); }
    const std::string &version() const { return version_; }

    // A communicator per device 0 .. ranks - 1. The library stays open for the life of the process.
    Status open(const char *path, int ranks) {
        void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (!library) return Status::invalid(std::string("no NCCL: ") + dlerror());
        const bool is_whole = resolve(library, "ncclGetVersion", &get_version_) && resolve(library, "ncclGetErrorString", &error_) &&
                              resolve(library, "ncclCommInitAll", &init_) && resolve(library, "ncclCommDestroy", &destroy_) &&
                              resolve(library, "ncclGroupStart", &group_start_) && resolve(library, "ncclGroupEnd", &group_end_) &&
                              resolve(library, "ncclAllReduce", &all_reduce_);
        if (!is_whole) return Status::invalid(std::string(path) + " has not all of NCCL's functions");
        int code = 0;
        T5K_TRY(check(get_version_(&code), "ncclGetVersion"));
        version_ = std::to_string(code / 10000) + "." + std::to_string(code / 100 % 100) + "." + std::to_string(code % 100);
        std::vector<Comm> comms(static_cast<size_t>(ranks));
        T5K_TRY(check(init_(comms.data(), ranks, nullptr), "ncclCommInitAll"));
        comms_ = std::move(comms);
        return Status::good();
    }

    // Every rank's `floats` at parts[rank] become their sum, in order with each rank's stream.
    Status sum(const std::vector<void *> &parts, int64_t floats, const std::vector<CUstream> &streams) {
        T5K_TRY(check(group_start_(), "ncclGroupStart"));
        int code = 0;
        for (size_t r = 0; r < comms_.size() && code == 0; ++r)
            code = all_reduce_(parts[r], parts[r], static_cast<size_t>(floats), FLOAT32, SUM, comms_[r], streams[r]);
        const int ended = group_end_();
        return check(code ? code : ended, "ncclAllReduce");
    }

    void close() {
        for (const Comm comm : comms_) destroy_(comm);
        comms_.clear();
    }

   private:
    using Comm = struct ncclComm *;
    static constexpr int FLOAT32 = 7, SUM = 0;

    template <class F>
    static bool resolve(void *library, const char *name, F *function) {
        *function = reinterpret_cast<F>(dlsym(library, name));
        return *function != nullptr;
    }
    Status check(int code, const char *what) const {
        return code ? Status{Code::internal, std::string(what) + ": " + error_(code)} : Status::good();
    }

    std::vector<Comm> comms_;
    std::string version_;
    int (*get_version_)(int *) = nullptr;
    const char *(*error_)(int) = nullptr;
    int (*init_)(Comm *, int, const int *) = nullptr;
    int (*destroy_)(Comm) = nullptr;
    int (*group_start_)() = nullptr;
    int (*group_end_)() = nullptr;
    int (*all_reduce_)(const void *, void *, size_t, int, int, Comm, CUstream) = nullptr;
};

}  // namespace t5k::cuda
