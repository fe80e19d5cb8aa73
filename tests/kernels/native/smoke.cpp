// The whole engine through its C interface, for the sanitizers: every format, ISA, several ranks and threads, greedy,
// sampled and beam requests in one batch, joining, cancelled and refused. Checks that results agree; exits 0 if so.
// Shapes are odd on purpose: every tail of every loop is taken.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "t5k.h"
#include "t5k_ops.h"

namespace {

#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition)) {                                                           \
            std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
            std::exit(1);                                                             \
        }                                                                             \
    } while (0)

constexpr int VOCAB = 101, E = 33, D = 5, HEADS = 4, F = 46, LAYERS = 2, WINDOW = 12;

struct Free {
    void operator()(void *p) const { std::free(p); }
};
using Memory = std::unique_ptr<char, Free>;

// A random model cut over `ranks`, kept alive with its memory.
struct TestModel {
    std::vector<Memory> memory;
    std::vector<t5k_tensor> tensors;
    t5k_config config{};
    std::mt19937 random{7};

    char *take(int64_t bytes) {
        memory.emplace_back(static_cast<char *>(std::aligned_alloc(64, static_cast<size_t>((bytes + 63) / 64 * 64))));
        std::memset(memory.back().get(), 0, static_cast<size_t>(bytes));
        return memory.back().get();
    }

    std::vector<float> normal(int64_t n, float deviation) {
        std::normal_distribution<float> distribution(0.0f, deviation);
        std::vector<float> values(static_cast<size_t>(n));
        for (float &v : values) v = distribution(random);
        return values;
    }

    void add(int role, int is_decoder, int layer, int rank, int format, int64_t K, int64_t N, char *data, int64_t bytes) {
        tensors.push_back({role, is_decoder, layer, rank, format, 0, K, N, data, bytes});
    }

    void panels(int role, int is_decoder, int layer, int rank, int format, int64_t K, int64_t N, bool gated = false) {
        const int64_t half = N / 2, total = gated ? 2 * ((half + 15) / 16 * 16) : N;
        const int64_t bytes = t5k_packed_bytes(format, K, total);
        char *data = take(bytes);
        for (int part = 0; part < (gated ? 2 : 1); ++part) {
            const std::vector<float> w = normal((gated ? half : N) * K, 1.2f / std::max(1.0f, static_cast<float>(K) / 6));
            CHECK(t5k_pack(format, w.data(), K, K, gated ? half : N, total, part, gated ? 2 : 1, data, nullptr) == T5K_OK);
        }
        add(role, is_decoder, layer, rank, format, K, total, data, bytes);
    }

    void plain(int role, int is_decoder, int layer, int rank, int64_t K, int64_t N, float mean, float deviation) {
        std::vector<float> w = normal(K * N, deviation);
        for (float &v : w) v += mean;
        char *data = take(K * N * 4);
        std::memcpy(data, w.data(), static_cast<size_t>(K * N * 4));
        add(role, is_decoder, layer, rank, 0, K, N, data, K * N * 4);
    }

    void layer(int is_decoder, int index, int format) {
        const int ranks = config.ranks, I = HEADS * D / ranks, f = F / ranks;
        plain(T5K_NORM_ATT, is_decoder, index, 0, 1, E, 1.0f, 0.2f);
        plain(T5K_NORM_FF, is_decoder, index, 0, 1, E, 1.0f, 0.2f);
        if (is_decoder) plain(T5K_NORM_CROSS, 1, index, 0, 1, E, 1.0f, 0.2f);
        for (int r = 0; r < ranks; ++r) {
            panels(T5K_QKV, is_decoder, index, r, format, E, 3 * I);
            panels(T5K_OUT, is_decoder, index, r, format, I, E);
            if (index == 0) plain(T5K_BIAS, is_decoder, 0, r, HEADS / ranks, 2 * WINDOW + 32, 0.0f, 0.5f);
            if (is_decoder) {
                panels(T5K_CROSS_Q, 1, index, r, format, E, I);
                panels(T5K_CROSS_KV, 1, index, r, format, E, 2 * I);
                panels(T5K_CROSS_OUT, 1, index, r, format, I, E);
            }
            panels(T5K_FF_IN, is_decoder, index, r, format, E, 2 * f, true);
            panels(T5K_FF_OUT, is_decoder, index, r, format, f, E);
        }
    }

    TestModel(int format, int ranks, int threads, const char *isa, bool quantize_rows) {
        config.abi = T5K_ABI;
        config.vocab = VOCAB;
        config.d_model = E;
        config.d_kv = D;
        config.d_ff = F;
        config.heads = HEADS;
        config.encoder_layers = config.decoder_layers = LAYERS;
        config.activation = 1;
        config.is_gated = 1;
        config.bias_window = WINDOW;
        config.eos_count = 1;
        config.eos_ids[0] = 1;
        config.eps = 1e-6f;
        config.head_scale = 1.0f;
        config.ranks = ranks;
        config.threads = threads;
        config.max_slots = 3;
        config.max_source = 64;
        config.max_target = 64;
        config.quantize_rows = quantize_rows;
        config.caches = format == 0 ? T5K_F32 : T5K_BF16;
        std::snprintf(config.isa, sizeof config.isa, "%s", isa);
        plain(T5K_EMBED, 0, 0, 0, E, VOCAB, 0.0f, 0.5f);
        for (int stack = 0; stack < 2; ++stack) {
            for (int l = 0; l < LAYERS; ++l) layer(stack, l, format);
            plain(T5K_NORM_FINAL, stack, 0, 0, 1, E, 1.0f, 0.2f);
        }
        const int64_t width = ranks == 1 ? VOCAB : (VOCAB + 16 * ranks - 1) / (16 * ranks) * 16;
        for (int r = 0; r < ranks; ++r) panels(T5K_HEAD, 1, 0, r, format, E, width);
    }
};

t5k_params params_of(int kind) {
    static const int32_t words[] = {5, 6, 7}, ends[] = {1, 3};
    t5k_params p{};
    p.max_new_tokens = 9 + kind;
    p.num_beams = p.num_return_sequences = 1;
    p.length_penalty = p.temperature = p.top_p = p.repetition_penalty = 1.0f;
    p.ignore_eos = kind % 2;
    if (kind == 1) {
        p.do_sample = 1;
        p.top_k = 9;
        p.top_p = 0.9f;
        p.temperature = 1.3f;
        p.seed = 11;
    } else if (kind == 2) {
        p.num_beams = 3;
        p.num_return_sequences = 2;
    } else if (kind == 3) {
        p.repetition_penalty = 1.3f;
        p.no_repeat_ngram_size = 2;
        p.bad_words = 2;
        p.bad_word_ids = words;
        p.bad_word_ends = ends;
        p.stop_sequences = 1;
        p.stop_ids = words;
        p.stop_ends = ends;
        p.return_logprobs = 1;
        p.min_new_tokens = 2;
    }
    return p;
}

using Outputs = std::map<std::pair<int64_t, int32_t>, std::vector<int32_t>>;

void collect(t5k_engine *engine, Outputs *outputs) {
    const t5k_event *events;
    int64_t count;
    t5k_error error;
    CHECK(t5k_step(engine, 1, &events, &count, &error) == T5K_OK);
    for (int64_t i = 0; i < count; ++i) (*outputs)[{events[i].handle, events[i].hypothesis}].push_back(events[i].token);
}

void check_refusals(t5k_engine *engine) {
    const t5k_params good = params_of(0);
    int64_t handle;
    t5k_error error;
    const int32_t bad[] = {3, VOCAB, -1};
    CHECK(t5k_submit(engine, bad, 0, &good, &handle, &error) == T5K_INVALID);
    CHECK(t5k_submit(engine, bad, 2, &good, &handle, &error) == T5K_INVALID);
    CHECK(t5k_submit(engine, bad + 2, 1, &good, &handle, &error) == T5K_INVALID);
    t5k_params wrong = good;
    wrong.num_beams = 1000;
    CHECK(t5k_submit(engine, bad, 1, &wrong, &handle, &error) == T5K_INVALID);
    CHECK(t5k_cancel(engine, 123456, &error) == T5K_INVALID);
    CHECK(error.message[0] != 0);
}

// Eight requests of four kinds over three slots, one cancelled on the way.
Outputs run(const TestModel &model) {
    t5k_engine *engine = nullptr;
    t5k_error error;
    const auto status = t5k_create(&model.config, model.tensors.data(), static_cast<int32_t>(model.tensors.size()),
                                   &engine, &error);
    if (status != T5K_OK) std::fprintf(stderr, "create: %s\n", error.message);
    CHECK(status == T5K_OK);
    check_refusals(engine);
    Outputs outputs;
    std::mt19937 random(3);
    for (int i = 0; i < 8; ++i) {
        std::vector<int32_t> ids(1 + random() % 40);
        for (int32_t &id : ids) id = 2 + static_cast<int32_t>(random() % (VOCAB - 2));
        const t5k_params params = params_of(i % 4);
        int64_t handle;
        CHECK(t5k_submit(engine, ids.data(), static_cast<int32_t>(ids.size()), &params, &handle, &error) == T5K_OK);
        if (i == 5) CHECK(t5k_cancel(engine, handle, &error) == T5K_OK);
        collect(engine, &outputs);
    }
    int32_t waiting = 1, running = 1;
    while (waiting + running) {
        collect(engine, &outputs);
        t5k_load(engine, &waiting, &running);
    }
    const int32_t ids[] = {5, 6, 7, 8, 1}, lengths[] = {2, 3};
    std::vector<float> states(5 * E), logits(5 * VOCAB);
    CHECK(t5k_encode(engine, ids, lengths, 2, states.data(), &error) == T5K_OK);
    CHECK(t5k_score(engine, ids, 5, ids, 5, logits.data(), &error) == T5K_OK);
    t5k_destroy(engine);
    return outputs;
}

void check_broken_models() {
    TestModel model(0, 1, 1, "", false);
    t5k_engine *engine = nullptr;
    t5k_error error;
    const auto count = static_cast<int32_t>(model.tensors.size());
    CHECK(t5k_create(&model.config, model.tensors.data(), count - 1, &engine, &error) == T5K_INVALID);  // no head
    model.config.caches = T5K_F16;
    CHECK(t5k_create(&model.config, model.tensors.data(), count, &engine, &error) == T5K_INVALID);
    model.config.caches = T5K_F32;
    model.tensors[3].N += 1;
    CHECK(t5k_create(&model.config, model.tensors.data(), count, &engine, &error) == T5K_INVALID);
    model.config.heads = 0;
    CHECK(t5k_create(&model.config, model.tensors.data(), count, &engine, &error) == T5K_INVALID);
    CHECK(t5k_create(nullptr, nullptr, 0, nullptr, &error) == T5K_INVALID);
}

}  // namespace

int main() {
    check_broken_models();
    const char *const isas[] = {"scalar", "avx2", "avx512", "avx512_bf16", "amx"};
    for (int kind = 0; kind < 5; ++kind) {
        const int format = kind == 4 ? 2 : kind;
        for (const char *isa : isas) {
            if (!t5k_isa(isa)) continue;
            const bool has_own_bits = format != 0 && !std::strcmp(isa, "amx");
            const Outputs expected = run(TestModel(format, 1, 1, has_own_bits ? isa : "scalar", kind == 4));
            CHECK(run(TestModel(format, 1, 3, isa, kind == 4)) == expected);
            run(TestModel(format, 2, 3, isa, kind == 4));
        }
    }
    t5k_bench *bench = t5k_bench_open("", 4);
    CHECK(bench && t5k_op_barrier(bench, 2000) > 0.0);
    t5k_bench_close(bench);
    std::puts("ok");
    return 0;
}
