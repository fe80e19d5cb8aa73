#include "model/weights.h"

#include <string>

namespace t5k {
namespace {

constexpr const char *ROLE_NAMES[T5K_ROLES] = {"embed",    "head",      "norm_att", "qkv",    "out",        "norm_cross", "cross_q",
                                               "cross_kv", "cross_out", "norm_ff",  "ff_in",  "ff_out",     "norm_final", "bias", "head_screen", "screen_norms"};

std::string name_of(const t5k_tensor &t) {
    const char *role = t.role >= 0 && t.role < T5K_ROLES ? ROLE_NAMES[t.role] : "unknown";
    return std::string(t.is_decoder ? "decoder" : "encoder") + " layer " + std::to_string(t.layer) + " rank " +
           std::to_string(t.rank) + " " + role;
}

// The shape [K, N] a role must have on one rank; N = 0 means the role is unknown.
struct Shape {
    int64_t K, N;
};

Shape shape_of(const t5k_config &c, int role) {
    const int64_t E = c.d_model, I = int64_t{c.heads} * c.d_kv / c.ranks, F = c.d_ff / c.ranks;
    const int64_t V = round_up(c.vocab, LANES * c.ranks) / c.ranks;
    switch (role) {
        case T5K_EMBED: return {E, c.vocab};
        case T5K_SCREEN_NORMS: return {2, panel_count(c.ranks == 1 ? c.vocab : V) * LANES};
        case T5K_HEAD_SCREEN:
        case T5K_HEAD: return {E, c.ranks == 1 ? c.vocab : V};
        case T5K_QKV: return {E, 3 * I};
        case T5K_OUT:
        case T5K_CROSS_OUT: return {I, E};
        case T5K_CROSS_Q: return {E, I};
        case T5K_CROSS_KV: return {E, 2 * I};
        case T5K_FF_IN: return {E, c.is_gated ? 2 * round_up(F, LANES) : F};
        case T5K_FF_OUT: return {F, E};
        case T5K_BIAS: return {c.heads / c.ranks, 2 * int64_t{c.bias_window} + 2 * LANES};
        case T5K_NORM_ATT:
        case T5K_NORM_CROSS:
        case T5K_NORM_FF:
        case T5K_NORM_FINAL: return {1, E};
        default: return {0, 0};
    }
}

bool is_panels(int role) {
    switch (role) {
        case T5K_HEAD:
        case T5K_HEAD_SCREEN:
        case T5K_QKV:
        case T5K_OUT:
        case T5K_CROSS_Q:
        case T5K_CROSS_KV:
        case T5K_CROSS_OUT:
        case T5K_FF_IN:
        case T5K_FF_OUT: return true;
        default: return false;
    }
}

int64_t bytes_of(const t5k_tensor &t) {
    if (is_panels(t.role)) return packed_bytes(t.format, t.K, t.N);
    return t.K * t.N * (t.format == FORMAT_BF16 || t.format == FORMAT_F16 ? 2 : 4);
}

// fp16 weights meet fp16 activations only, which only the CUDA device has; 16-bit activations meet no fp32 weights.
bool is_allowed(const t5k_config &config, const t5k_tensor &t) {
    if (t.format < 0 || t.format >= FORMATS) return false;
    if (!is_panels(t.role) && t.role != T5K_EMBED) return t.format == FORMAT_F32;
    if (config.activations == T5K_F16) return t.format == FORMAT_F16;
    if (t.format == FORMAT_F16 || (is_panels(t.role) && config.activations == T5K_BF16 && t.format == FORMAT_F32)) return false;
    return is_panels(t.role) || t.format <= FORMAT_BF16;
}

Status check_tensor(const t5k_config &config, const t5k_tensor &t) {
    const Shape shape = shape_of(config, t.role);
    if (shape.N == 0) return Status::invalid(name_of(t) + ": no such tensor");
    if (t.rank < 0 || t.rank >= config.ranks) return Status::invalid(name_of(t) + ": no such rank");
    if (t.K != shape.K || t.N != shape.N)
        return Status::invalid(name_of(t) + ": expected [" + std::to_string(shape.K) + ", " + std::to_string(shape.N) +
                               "], got [" + std::to_string(t.K) + ", " + std::to_string(t.N) + "]");
    if (!is_allowed(config, t)) return Status::invalid(name_of(t) + ": format not allowed here");
    const uintptr_t alignment = t.role == T5K_EMBED ? 1 : 64;  // the table may lie in a checkpoint's own mapping
    if (!t.data || reinterpret_cast<uintptr_t>(t.data) % alignment)
        return Status::invalid(name_of(t) + ": not 64-byte aligned");
    if (t.bytes != bytes_of(t))
        return Status::invalid(name_of(t) + ": expected " + std::to_string(bytes_of(t)) + " bytes, got " +
                               std::to_string(t.bytes));
    return Status::good();
}

Sharded *panels_slot(LayerWeights &layer, int role) {
    switch (role) {
        case T5K_QKV: return &layer.qkv;
        case T5K_OUT: return &layer.out;
        case T5K_CROSS_Q: return &layer.cross_q;
        case T5K_CROSS_KV: return &layer.cross_kv;
        case T5K_CROSS_OUT: return &layer.cross_out;
        case T5K_FF_IN: return &layer.ff_in;
        case T5K_FF_OUT: return &layer.ff_out;
        default: return nullptr;
    }
}

const float **norm_slot(LayerWeights &layer, int role) {
    switch (role) {
        case T5K_NORM_ATT: return &layer.norm_att;
        case T5K_NORM_CROSS: return &layer.norm_cross;
        case T5K_NORM_FF: return &layer.norm_ff;
        default: return nullptr;
    }
}

Status bind_one(const t5k_config &config, const t5k_tensor &t, Weights *out) {
    T5K_TRY(check_tensor(config, t));
    StackWeights &stack = t.is_decoder ? out->decoder : out->encoder;
    const auto *numbers = static_cast<const float *>(t.data);
    const Panels panels{static_cast<const uint32_t *>(t.data), t.format, t.K, t.N};
    if (t.role == T5K_EMBED) {
        out->embed = t.data;
        out->embed_format = t.format;
        return Status::good();
    }
    if (t.role == T5K_HEAD) {
        out->head[static_cast<size_t>(t.rank)] = panels;
        return Status::good();
    }
    if (t.role == T5K_HEAD_SCREEN) {
        if (t.format != FORMAT_I8) return Status::invalid(name_of(t) + ": expected int8");
        out->screen[static_cast<size_t>(t.rank)] = panels;
        return Status::good();
    }
    if (t.role == T5K_SCREEN_NORMS) {
        out->screen_norms[static_cast<size_t>(t.rank)] = numbers;
        return Status::good();
    }
    if (t.role == T5K_NORM_FINAL) {
        stack.norm_final = numbers;
        return Status::good();
    }
    if (t.layer < 0 || static_cast<size_t>(t.layer) >= stack.layers.size())
        return Status::invalid(name_of(t) + ": no such layer");
    LayerWeights &layer = stack.layers[static_cast<size_t>(t.layer)];
    const auto rank = static_cast<size_t>(t.rank);
    if (t.role == T5K_BIAS)
        layer.bias[rank] = numbers;
    else if (Sharded *slot = panels_slot(layer, t.role))
        (*slot)[rank] = panels;
    else
        *norm_slot(layer, t.role) = numbers;
    return Status::good();
}

Status missing(bool is_decoder, size_t layer, const char *what) {
    return Status::invalid(std::string(is_decoder ? "decoder" : "encoder") + " layer " + std::to_string(layer) +
                           ": missing " + what);
}

bool complete(const Sharded &shards) {
    for (const Panels &p : shards)
        if (!p.data) return false;
    return true;
}

Status check_layer(LayerWeights &layer, const LayerWeights &first, bool is_decoder, size_t index) {
    for (size_t r = 0; r < layer.bias.size(); ++r) {
        if (!layer.bias[r]) layer.bias[r] = first.bias[r];
        if (!layer.bias[r]) return missing(is_decoder, index, "bias");
    }
    for (const int role : {T5K_QKV, T5K_OUT, T5K_FF_IN, T5K_FF_OUT})
        if (!complete(*panels_slot(layer, role))) return missing(is_decoder, index, ROLE_NAMES[role]);
    if (!layer.norm_att || !layer.norm_ff) return missing(is_decoder, index, "a norm");
    if (!is_decoder) return Status::good();
    for (const int role : {T5K_CROSS_Q, T5K_CROSS_KV, T5K_CROSS_OUT})
        if (!complete(*panels_slot(layer, role))) return missing(is_decoder, index, ROLE_NAMES[role]);
    return layer.norm_cross ? Status::good() : missing(is_decoder, index, "norm_cross");
}

Status check_stack(StackWeights &stack, bool is_decoder) {
    for (size_t l = 0; l < stack.layers.size(); ++l)
        T5K_TRY(check_layer(stack.layers[l], stack.layers[0], is_decoder, l));
    if (!stack.layers.empty() && !stack.norm_final) return missing(is_decoder, 0, "norm_final");
    return Status::good();
}

void size_stack(StackWeights &stack, int32_t layers, int32_t ranks) {
    stack.layers.resize(static_cast<size_t>(layers));
    for (LayerWeights &layer : stack.layers) {
        for (int role = 0; role < T5K_ROLES; ++role)
            if (Sharded *slot = panels_slot(layer, role)) slot->resize(static_cast<size_t>(ranks));
        layer.bias.resize(static_cast<size_t>(ranks));
    }
}

Status in_range(const char *name, int64_t value, int64_t least, int64_t most) {
    if (value >= least && value <= most) return Status::good();
    return Status::invalid(std::string(name) + ": expected " + std::to_string(least) + " to " + std::to_string(most) +
                           ", got " + std::to_string(value));
}

}  // namespace

bool is_cut(int role) { return is_panels(role) || role == T5K_BIAS || role == T5K_SCREEN_NORMS; }

Status check_config(const t5k_config &c) {
    T5K_TRY(in_range("abi", c.abi, T5K_ABI, T5K_ABI));
    T5K_TRY(in_range("vocab", c.vocab, 2, 1 << 24));
    T5K_TRY(in_range("d_model", c.d_model, 1, 1 << 17));
    T5K_TRY(in_range("d_kv", c.d_kv, 1, 1 << 12));
    T5K_TRY(in_range("d_ff", c.d_ff, 1, 1 << 17));
    T5K_TRY(in_range("heads", c.heads, 1, 1 << 10));
    T5K_TRY(in_range("encoder_layers", c.encoder_layers, 1, 1 << 10));
    T5K_TRY(in_range("decoder_layers", c.decoder_layers, 0, 1 << 10));
    T5K_TRY(in_range("activation", c.activation, 0, 3));
    T5K_TRY(in_range("bias_window", c.bias_window, 1, 1 << 20));
    T5K_TRY(in_range("start_id", c.start_id, 0, c.vocab - 1));
    T5K_TRY(in_range("eos_count", c.eos_count, 0, 8));
    T5K_TRY(in_range("ranks", c.ranks, 1, 64));
    T5K_TRY(in_range("threads", c.threads, 1, 256));
    T5K_TRY(in_range("max_slots", c.max_slots, 1, 4096));
    T5K_TRY(in_range("max_source", c.max_source, 1, 1 << 20));
    T5K_TRY(in_range("max_target", c.max_target, 1, 1 << 20));
    T5K_TRY(in_range("activations", c.activations, T5K_F32, T5K_BF16));
    if (!c.cuda_driver && c.activations != T5K_F32) return Status::invalid("activations: the CPU keeps fp32 ones");
    if (c.caches != T5K_F32 && (c.cuda_driver || c.caches != T5K_BF16))
        return Status::invalid("caches: expected fp32, or bf16 on the CPU; on the cuda device they are as activations");
    if (c.heads % c.ranks) return Status::invalid("tensor-parallel degree must divide the heads");
    if (c.d_ff % c.ranks) return Status::invalid("tensor-parallel degree must divide d_ff");
    return Status::good();
}

Status bind_weights(const t5k_config &config, const t5k_tensor *tensors, int32_t count, Weights *out) {
    size_stack(out->encoder, config.encoder_layers, config.ranks);
    size_stack(out->decoder, config.decoder_layers, config.ranks);
    out->head.resize(static_cast<size_t>(config.ranks));
    out->screen.resize(static_cast<size_t>(config.ranks));
    out->screen_norms.resize(static_cast<size_t>(config.ranks));
    for (int32_t i = 0; i < count; ++i) T5K_TRY(bind_one(config, tensors[i], out));
    T5K_TRY(check_stack(out->encoder, false));
    T5K_TRY(check_stack(out->decoder, true));
    if (!out->embed) return Status::invalid("missing embed");
    if (config.decoder_layers && !complete(out->head)) return Status::invalid("missing head");
    bool has_screen = complete(out->screen);
    for (const float *norms : out->screen_norms) has_screen = has_screen && norms;
    if (!has_screen) out->screen.clear();
    return Status::good();
}

}  // namespace t5k
