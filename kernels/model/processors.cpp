#include "model/processors.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>

namespace t5k {
namespace {

constexpr float MINUS_INFINITY = -std::numeric_limits<float>::infinity();

Status read_lists(const char *name, const t5k_config &config, int32_t count, const int32_t *ids, const int32_t *ends,
                  std::vector<Ids> *out) {
    if (count < 0 || count > 1 << 16 || (count > 0 && (!ids || !ends)))
        return Status::invalid(std::string(name) + ": bad list");
    int32_t begin = 0;
    for (int32_t i = 0; i < count; ++i) {
        const std::string where = std::string(name) + "[" + std::to_string(i) + "]";
        if (ends[i] <= begin) return Status::invalid(where + ": expected at least one id, got none");
        for (int32_t j = begin; j < ends[i]; ++j)
            if (ids[j] < 0 || ids[j] >= config.vocab)
                return Status::invalid(where + ": expected ids below " + std::to_string(config.vocab) + ", got " +
                                       std::to_string(ids[j]));
        out->emplace_back(ids + begin, ids + ends[i]);
        begin = ends[i];
    }
    return Status::good();
}

Status expect(bool holds, const char *sentence) { return holds ? Status::good() : Status::invalid(sentence); }

void penalize_repetition(float penalty, const Ids &history, float *scores) {
    Ids seen = history;
    std::sort(seen.begin(), seen.end());
    seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
    for (const int32_t id : seen) scores[id] = scores[id] < 0.0f ? scores[id] * penalty : scores[id] / penalty;
}

// Each calls forbid(token) for every token its rule excludes.
template <class Forbid>
void forbid_ngrams(int64_t size, const Ids &history, const Forbid &forbid) {
    const auto length = static_cast<int64_t>(history.size());
    if (size == 0 || length + 1 < size) return;
    const auto tail = history.end() - (size - 1);
    for (int64_t i = 0; i + size <= length; ++i)
        if (std::equal(tail, history.end(), history.begin() + i)) forbid(history[static_cast<size_t>(i + size - 1)]);
}

template <class Forbid>
void forbid_words(const t5k_config &config, const Params &params, const Ids &history, const Forbid &forbid) {
    for (const Ids &word : params.bad_words) {
        const auto prefix = static_cast<int64_t>(word.size()) - 1;
        if (prefix == 0 && params.is_eos(config, word[0])) continue;
        if (prefix > static_cast<int64_t>(history.size())) continue;
        if (std::equal(word.begin(), word.end() - 1, history.end() - prefix)) forbid(word.back());
    }
}

template <class Forbid>
void forbid_eos(const t5k_config &config, const Params &params, const Ids &history, const Forbid &forbid) {
    if (static_cast<int64_t>(history.size()) - 1 >= params.raw.min_new_tokens) return;
    for (int32_t i = 0; i < config.eos_count; ++i) forbid(config.eos_ids[i]);
}

template <class Forbid>
void forbid_all(const t5k_config &config, const Params &params, const Ids &history, const Forbid &forbid) {
    forbid_ngrams(params.raw.no_repeat_ngram_size, history, forbid);
    forbid_words(config, params, history, forbid);
    forbid_eos(config, params, history, forbid);
}

void keep_top_k(int64_t vocab, int64_t k, float *scores, std::vector<float> &scratch) {
    if (k >= vocab) return;
    scratch.assign(scores, scores + vocab);
    std::nth_element(scratch.begin(), scratch.begin() + (k - 1), scratch.end(), std::greater<float>());
    const float least = scratch[static_cast<size_t>(k - 1)];
    for (int64_t i = 0; i < vocab; ++i)
        if (scores[i] < least) scores[i] = MINUS_INFINITY;
}

// Drops the smallest scores whose probabilities together stay at or below 1 - p; the largest always stays.
void keep_top_p(int64_t vocab, float p, float *scores, std::vector<float> &scratch) {
    scratch.clear();
    for (int64_t i = 0; i < vocab; ++i)
        if (scores[i] > MINUS_INFINITY) scratch.push_back(scores[i]);
    std::sort(scratch.begin(), scratch.end());
    double total = 0.0;
    for (const float s : scratch) total += std::exp(static_cast<double>(s) - scratch.back());
    double below = 0.0;
    size_t first = 0;
    for (; first + 1 < scratch.size(); ++first) {
        below += std::exp(static_cast<double>(scratch[first]) - scratch.back()) / total;
        if (below > 1.0 - static_cast<double>(p)) break;
    }
    for (int64_t i = 0; i < vocab; ++i)
        if (scores[i] < scratch[first]) scores[i] = MINUS_INFINITY;
}

// Philox4x32-10 (Salmon et al. 2011), first word: the same number as ops/sample.cu draws with.
uint32_t philox(uint64_t key, uint64_t counter) {
    uint32_t k[2] = {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)};
    uint32_t c[4] = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0};
    for (int round = 0; round < 10; ++round) {
        const uint64_t a = uint64_t{0xd2511f53u} * c[0], b = uint64_t{0xcd9e8d57u} * c[2];
        c[0] = static_cast<uint32_t>(b >> 32) ^ c[1] ^ k[0];
        c[1] = static_cast<uint32_t>(b);
        c[2] = static_cast<uint32_t>(a >> 32) ^ c[3] ^ k[1];
        c[3] = static_cast<uint32_t>(a);
        k[0] += 0x9e3779b9u;
        k[1] += 0xbb67ae85u;
    }
    return c[0];
}

}  // namespace

bool Params::is_eos(const t5k_config &config, int32_t token) const {
    if (raw.ignore_eos) return false;
    return std::find(config.eos_ids, config.eos_ids + config.eos_count, token) != config.eos_ids + config.eos_count;
}

bool Params::is_greedy() const {
    return raw.num_beams == 1 && !raw.do_sample && raw.repetition_penalty == 1.0f;
}

Status read_params(const t5k_config &config, const t5k_params &raw, Params *out) {
    out->raw = raw;
    out->raw.bad_word_ids = out->raw.bad_word_ends = out->raw.stop_ids = out->raw.stop_ends = nullptr;
    if (raw.max_new_tokens < 1 || raw.max_new_tokens > config.max_target)
        return Status::invalid("max_new_tokens: expected 1 to " + std::to_string(config.max_target) + ", got " +
                               std::to_string(raw.max_new_tokens));
    T5K_TRY(expect(raw.min_new_tokens >= 0 && raw.min_new_tokens <= raw.max_new_tokens,
                   "min_new_tokens: expected 0 to max_new_tokens"));
    T5K_TRY(expect(raw.num_beams >= 1 && raw.num_beams <= 64, "num_beams: expected 1 to 64"));
    T5K_TRY(expect(int64_t{raw.num_beams} * 2 <= config.vocab, "num_beams: expected at most half the vocabulary"));
    T5K_TRY(expect(raw.num_return_sequences >= 1 && raw.num_return_sequences <= raw.num_beams,
                   "num_return_sequences: expected 1 to num_beams"));
    T5K_TRY(expect(raw.early_stopping >= 0 && raw.early_stopping <= 2, "early_stopping: expected False, True or 'never'"));
    T5K_TRY(expect(!(raw.do_sample && raw.num_beams > 1), "do_sample: expected num_beams = 1 beside it"));
    T5K_TRY(expect(raw.top_k >= 0, "top_k: expected 0 (off) or more"));
    T5K_TRY(expect(raw.top_p >= 0.0f && raw.top_p <= 1.0f, "top_p: expected 0 to 1"));
    T5K_TRY(expect(raw.temperature > 0.0f && std::isfinite(raw.temperature), "temperature: expected a number above 0"));
    T5K_TRY(expect(raw.repetition_penalty > 0.0f && std::isfinite(raw.repetition_penalty),
                   "repetition_penalty: expected a number above 0"));
    T5K_TRY(expect(std::isfinite(raw.length_penalty), "length_penalty: expected a finite number"));
    T5K_TRY(expect(raw.no_repeat_ngram_size >= 0, "no_repeat_ngram_size: expected 0 (off) or more"));
    T5K_TRY(read_lists("bad_words_ids", config, raw.bad_words, raw.bad_word_ids, raw.bad_word_ends, &out->bad_words));
    return read_lists("stop_sequences", config, raw.stop_sequences, raw.stop_ids, raw.stop_ends, &out->stop_sequences);
}

void process_scores(const t5k_config &config, const Params &params, const Ids &history, float *scores,
                    std::vector<float> &scratch) {
    const t5k_params &raw = params.raw;
    if (raw.repetition_penalty != 1.0f) penalize_repetition(raw.repetition_penalty, history, scores);
    forbid_all(config, params, history, [&](int32_t token) { scores[token] = MINUS_INFINITY; });
    if (!raw.do_sample) return;
    if (raw.temperature != 1.0f)
        for (int64_t i = 0; i < config.vocab; ++i) scores[i] /= raw.temperature;
    if (raw.top_k > 0) keep_top_k(config.vocab, raw.top_k, scores, scratch);
    if (raw.top_p < 1.0f) keep_top_p(config.vocab, raw.top_p, scores, scratch);
}

bool is_forbidden(const t5k_config &config, const Params &params, const Ids &history, int32_t token) {
    bool found = false;
    forbid_all(config, params, history, [&](int32_t other) { found |= other == token; });
    return found;
}

int32_t draw(const float *scores, int64_t vocab, uint64_t seed, uint64_t n) {
    const float top = *std::max_element(scores, scores + vocab);
    double total = 0.0;
    for (int64_t i = 0; i < vocab; ++i) total += std::exp(static_cast<double>(scores[i]) - top);
    const double u = (philox(seed, n) >> 8) * 0x1.0p-24 * total;
    double below = 0.0;
    int32_t last = 0;
    for (int64_t i = 0; i < vocab; ++i) {
        if (scores[i] == MINUS_INFINITY) continue;
        below += std::exp(static_cast<double>(scores[i]) - top);
        last = static_cast<int32_t>(i);
        if (below > u) break;
    }
    return last;
}

bool hits_stop_sequence(const Params &params, const Ids &history) {
    for (const Ids &stop : params.stop_sequences)
        if (stop.size() < history.size() && std::equal(stop.begin(), stop.end(), history.end() - static_cast<int64_t>(stop.size())))
            return true;
    return false;
}

}  // namespace t5k
