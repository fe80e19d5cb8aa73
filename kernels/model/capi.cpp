// The C boundary: checks pointers, turns a Status into a code and a sentence, and lets no exception through.

#include <cstdio>
#include <cstring>
#include <new>

#include "cpu/device.h"
#include "cuda/host/device.h"
#include "include/t5k.h"
#include "model/digest.h"
#include "model/pack.h"
#include "model/scheduler.h"

struct t5k_engine {
    t5k::Scheduler scheduler;
    std::string about;
};

namespace {

using t5k::Status;

t5k_status report(const Status &status, t5k_error *error) {
    if (error) std::snprintf(error->message, sizeof error->message, "%s", status.message.c_str());
    return static_cast<t5k_status>(status.code);
}

template <class F>
t5k_status guarded(t5k_error *error, F body) noexcept {
    try {
        return report(body(), error);
    } catch (const std::bad_alloc &) {
        return report({t5k::Code::no_memory, "out of memory"}, error);
    } catch (const std::exception &e) {
        return report({t5k::Code::internal, e.what()}, error);
    } catch (...) {
        return report({t5k::Code::internal, "unknown failure"}, error);
    }
}

Status make_device(const t5k_config &config, std::unique_ptr<t5k::Device> *out) {
    if (config.cuda_driver) {
        if (config.quantize_rows)
            return Status::invalid("dtype w8a8: not on the cuda device, which reads int8 weights beside unrounded activations; "
                                   "use int8");
        return t5k::make_cuda_device(config.cuda_driver, config.cuda_image, config.activations, config.ranks, out);
    }
    t5k::Isa isa;
    const std::string forced(config.isa, strnlen(config.isa, sizeof config.isa));
    if (!t5k::choose_isa(forced.c_str(), &isa))
        return Status::invalid("isa '" + forced + "': this machine cannot run it (expected scalar, avx2, avx512, avx512_bf16 or amx)");
    *out = t5k::make_cpu_device(isa, config.threads, config.caches == T5K_BF16 ? 2 : 4);
    return Status::good();
}

Status create(const t5k_config &config, const t5k_tensor *tensors, int32_t count, t5k_engine **out) {
    T5K_TRY(t5k::check_config(config));
    std::unique_ptr<t5k::Device> device;
    T5K_TRY(make_device(config, &device));
    auto model = std::make_unique<t5k::Model>(config, std::move(device));
    T5K_TRY(model->bind(tensors, count));
    *out = new t5k_engine{t5k::Scheduler(std::move(model)), {}};
    return Status::good();
}

}  // namespace

extern "C" {

const char *t5k_isa(const char *forced) {
    t5k::Isa isa;
    return t5k::choose_isa(forced, &isa) ? t5k::isa_name(isa) : nullptr;
}

t5k_status t5k_cuda_look(const char *driver, t5k_cuda *out, t5k_error *error) {
    return guarded(error, [&] {
        return driver && out ? t5k::look_at_cuda(driver, out) : Status::invalid("null argument");
    });
}

int64_t t5k_packed_bytes(int32_t format, int64_t K, int64_t N) {
    return format < 0 || format >= t5k::FORMATS || K < 1 || N < 1 ? -1 : t5k::packed_bytes(format, K, N);
}

t5k_status t5k_pack(int32_t format, const float *source, int64_t ld, int64_t K, int64_t N, int64_t total_N,
                    int64_t first_panel, int64_t step, void *packed, const float *peaks) {
    return guarded(nullptr, [&] { return t5k::pack({format, source, ld, K, N, total_N, first_panel, step, packed, peaks}); });
}

t5k_status t5k_unpack(int32_t format, const void *packed, int64_t K, int64_t N, float *out) {
    return guarded(nullptr, [&] { return t5k::unpack({static_cast<const uint32_t *>(packed), format, K, N}, out); });
}

void t5k_digest(const void *data, int64_t bytes, uint64_t out[2]) { t5k::digest(data, bytes, out); }

t5k_status t5k_create(const t5k_config *config, const t5k_tensor *tensors, int32_t count, t5k_engine **out,
                      t5k_error *error) {
    return guarded(error, [&] {
        if (!config || !tensors || !out) return Status::invalid("null argument");
        return create(*config, tensors, count, out);
    });
}

void t5k_destroy(t5k_engine *engine) { delete engine; }

const char *t5k_about(t5k_engine *engine) {
    engine->about = engine->scheduler.model().device().describe();
    return engine->about.c_str();
}

t5k_status t5k_submit(t5k_engine *engine, const int32_t *ids, int32_t count, const t5k_params *params, int64_t *handle,
                      t5k_error *error) {
    return guarded(error, [&] {
        if (!engine || !params || !handle || (count > 0 && !ids)) return Status::invalid("null argument");
        return engine->scheduler.submit(ids, count, *params, handle);
    });
}

t5k_status t5k_cancel(t5k_engine *engine, int64_t handle, t5k_error *error) {
    return guarded(error, [&] { return engine->scheduler.cancel(handle); });
}

t5k_status t5k_step(t5k_engine *engine, int32_t max_steps, const t5k_event **events, int64_t *count, t5k_error *error) {
    return guarded(error, [&] {
        if (!engine || !events || !count) return Status::invalid("null argument");
        const Status status = engine->scheduler.step(max_steps);
        *events = engine->scheduler.events().data();
        *count = static_cast<int64_t>(engine->scheduler.events().size());
        return status;
    });
}

void t5k_load(const t5k_engine *engine, int32_t *waiting, int32_t *running) {
    *waiting = engine->scheduler.waiting();
    *running = engine->scheduler.running();
}

t5k_status t5k_encode(t5k_engine *engine, const int32_t *ids, const int32_t *lengths, int32_t sequences, float *out,
                      t5k_error *error) {
    return guarded(error, [&] {
        if (!engine || !ids || !lengths || !out) return Status::invalid("null argument");
        return engine->scheduler.encode(ids, lengths, sequences, out);
    });
}

t5k_status t5k_score(t5k_engine *engine, const int32_t *ids, int32_t count, const int32_t *target, int32_t targets,
                     float *out, t5k_error *error) {
    return guarded(error, [&] {
        if (!engine || !ids || !target || !out) return Status::invalid("null argument");
        return engine->scheduler.score(ids, count, target, targets, out);
    });
}

t5k_status t5k_process(const t5k_engine *engine, const t5k_params *params, const int32_t *history, int32_t length,
                       float *scores, t5k_error *error) {
    return guarded(error, [&] {
        const t5k_config &config = const_cast<t5k_engine *>(engine)->scheduler.model().config();
        t5k::Params checked;
        T5K_TRY(t5k::read_params(config, *params, &checked));
        std::vector<float> scratch;
        t5k::process_scores(config, checked, t5k::Ids(history, history + length), scores, scratch);
        return Status::good();
    });
}

}  // extern "C"
