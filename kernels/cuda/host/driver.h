// The part of the CUDA driver API that the engine uses, as a table of functions resolved at run time.
//
// No CUDA header is needed to build and no driver to load: open_driver() finds libcuda.so.1, or the simulator, which
// exports the same names (sim/driver.cpp). Types and values are those of the driver's stable C ABI (cuda.h 13.0).
#pragma once

#include <stddef.h>

#include <string>

namespace t5k::cuda {

using CUresult = int;
using CUdevice = int;
using CUdeviceptr = unsigned long long;
using CUcontext = struct CUctx_st *;
using CUmodule = struct CUmod_st *;
using CUfunction = struct CUfunc_st *;
using CUstream = struct CUstream_st *;
using CUevent = struct CUevent_st *;
using CUgraph = struct CUgraph_st *;
using CUgraphExec = struct CUgraphExec_st *;

enum : CUresult {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_INVALID_CONTEXT = 201,
    CUDA_ERROR_PEER_ACCESS_UNSUPPORTED = 217,
    CUDA_ERROR_INVALID_HANDLE = 400,
    CUDA_ERROR_NOT_FOUND = 500,
    CUDA_ERROR_NOT_READY = 600,
    CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED = 704,
    CUDA_ERROR_LAUNCH_FAILED = 719,
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900,
    CUDA_ERROR_STREAM_CAPTURE_MERGE = 902,
    CUDA_ERROR_STREAM_CAPTURE_UNMATCHED = 903,
    CUDA_ERROR_STREAM_CAPTURE_UNJOINED = 904,
    CUDA_ERROR_STREAM_CAPTURE_ISOLATION = 905,
    CUDA_ERROR_CAPTURED_EVENT = 907,
};
constexpr int CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8;
constexpr int CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75;
constexpr int CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76;
constexpr int CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1;
constexpr unsigned CU_STREAM_NON_BLOCKING = 1;
constexpr unsigned CU_EVENT_DISABLE_TIMING = 2;

// X(member, exported symbol, parameters): every function here returns a CUresult.
#define T5K_CUDA_DRIVER(X)                                                                                            \
    X(init, cuInit, (unsigned flags))                                                                                 \
    X(error_string, cuGetErrorString, (CUresult code, const char **text))                                             \
    X(driver_version, cuDriverGetVersion, (int *version))                                                             \
    X(device_name, cuDeviceGetName, (char *name, int bytes, CUdevice device))                                         \
    X(device_memory, cuDeviceTotalMem_v2, (size_t * bytes, CUdevice device))                                          \
    X(device_count, cuDeviceGetCount, (int *count))                                                                   \
    X(device_get, cuDeviceGet, (CUdevice * device, int ordinal))                                                      \
    X(device_attribute, cuDeviceGetAttribute, (int *value, int attribute, CUdevice device))                           \
    X(context_retain, cuDevicePrimaryCtxRetain, (CUcontext * context, CUdevice device))                               \
    X(context_release, cuDevicePrimaryCtxRelease_v2, (CUdevice device))                                               \
    X(context_set, cuCtxSetCurrent, (CUcontext context))                                                              \
    X(can_access_peer, cuDeviceCanAccessPeer, (int *can, CUdevice device, CUdevice peer))                             \
    X(enable_peer, cuCtxEnablePeerAccess, (CUcontext peer, unsigned flags))                                           \
    X(module_load, cuModuleLoadData, (CUmodule * module, const void *image))                                          \
    X(module_unload, cuModuleUnload, (CUmodule module))                                                               \
    X(module_function, cuModuleGetFunction, (CUfunction * function, CUmodule module, const char *name))               \
    X(function_attribute, cuFuncSetAttribute, (CUfunction function, int attribute, int value))                        \
    X(allocate, cuMemAlloc_v2, (CUdeviceptr * memory, size_t bytes))                                                  \
    X(free, cuMemFree_v2, (CUdeviceptr memory))                                                                       \
    X(allocate_host, cuMemAllocHost_v2, (void **memory, size_t bytes))                                                \
    X(free_host, cuMemFreeHost, (void *memory))                                                                       \
    X(to_device, cuMemcpyHtoDAsync_v2, (CUdeviceptr to, const void *from, size_t bytes, CUstream stream))             \
    X(to_host, cuMemcpyDtoHAsync_v2, (void *to, CUdeviceptr from, size_t bytes, CUstream stream))                     \
    X(on_device, cuMemcpyDtoDAsync_v2, (CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream))             \
    X(peer_copy, cuMemcpyPeerAsync,                                                                                   \
      (CUdeviceptr to, CUcontext to_context, CUdeviceptr from, CUcontext from_context, size_t bytes, CUstream stream))  \
    X(fill, cuMemsetD8Async, (CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream))                    \
    X(stream_create, cuStreamCreate, (CUstream * stream, unsigned flags))                                             \
    X(stream_destroy, cuStreamDestroy_v2, (CUstream stream))                                                          \
    X(stream_synchronize, cuStreamSynchronize, (CUstream stream))                                                     \
    X(stream_wait, cuStreamWaitEvent, (CUstream stream, CUevent event, unsigned flags))                               \
    X(event_create, cuEventCreate, (CUevent * event, unsigned flags))                                                 \
    X(event_destroy, cuEventDestroy_v2, (CUevent event))                                                              \
    X(event_record, cuEventRecord, (CUevent event, CUstream stream))                                                  \
    X(event_synchronize, cuEventSynchronize, (CUevent event))                                                         \
    X(launch, cuLaunchKernel,                                                                                         \
      (CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,             \
       unsigned dynamic_bytes, CUstream stream, void **parameters, void **extra))                                     \
    X(capture_begin, cuStreamBeginCapture_v2, (CUstream stream, int mode))                                            \
    X(capture_end, cuStreamEndCapture, (CUstream stream, CUgraph * graph))                                            \
    X(graph_instantiate, cuGraphInstantiateWithFlags, (CUgraphExec * exec, CUgraph graph, unsigned long long flags))  \
    X(graph_launch, cuGraphLaunch, (CUgraphExec exec, CUstream stream))                                               \
    X(graph_exec_destroy, cuGraphExecDestroy, (CUgraphExec exec))                                                     \
    X(graph_destroy, cuGraphDestroy, (CUgraph graph))

struct Driver {
    void *library = nullptr;
#define T5K_MEMBER_OF(member, symbol, parameters) CUresult(*member) parameters = nullptr;
    T5K_CUDA_DRIVER(T5K_MEMBER_OF)
#undef T5K_MEMBER_OF
};

// Opens `path` ("libcuda.so.1", or a simulator library). On failure says what is missing and returns false; the library
// stays open for the life of the process, as the driver wants it.
bool open_driver(const char *path, Driver *driver, std::string *missing);

}  // namespace t5k::cuda
