#include "model/beams.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace t5k {
namespace {

constexpr float NEVER = -1.0e9f;  // Hugging Face's "not a candidate", added to a score and not put in its place

}  // namespace

Beams::Beams(const t5k_config &config, const Params &params) : config_(config), params_(params) {
    const auto n = static_cast<size_t>(params.raw.num_beams);
    const Ids start{config.start_id};
    running_.assign(n, {start, NEVER, false});
    running_[0].score = 0.0f;  // the beams are equal at first: only one of them may branch
    finished_.assign(n, {start, NEVER, false});
    parents_.resize(n);
    std::iota(parents_.begin(), parents_.end(), 0);
    const int64_t eos = params.raw.ignore_eos ? 0 : config.eos_count;
    wanted_ = std::max<int64_t>(2, 1 + eos) * params.raw.num_beams;
}

float Beams::by_length(float score, int64_t length) const {
    return score / static_cast<float>(std::pow(static_cast<double>(length), static_cast<double>(params_.raw.length_penalty)));
}

Ids Beams::extended(const Candidate &c) const {
    Ids ids = running_[static_cast<size_t>(c.beam)].ids;
    ids.push_back(c.token);
    return ids;
}

// The `wanted_` best (beam, token) pairs, best first; equal scores keep the order of beam, then token.
void Beams::collect(const std::vector<const float *> &log_probs) {
    candidates_.clear();
    const auto worse = [](const Candidate &a, const Candidate &b) { return a.score > b.score; };
    const auto wanted = static_cast<size_t>(wanted_);
    for (int32_t b = 0; b < static_cast<int32_t>(running_.size()); ++b) {
        const float base = running_[static_cast<size_t>(b)].score, *row = log_probs[static_cast<size_t>(b)];
        for (int32_t v = 0; v < config_.vocab; ++v) {
            const float score = row[v] + base;
            if (candidates_.size() < wanted) {
                candidates_.push_back({score, b, v});
                std::push_heap(candidates_.begin(), candidates_.end(), worse);
            } else if (score > candidates_.front().score) {
                std::pop_heap(candidates_.begin(), candidates_.end(), worse);
                candidates_.back() = {score, b, v};
                std::push_heap(candidates_.begin(), candidates_.end(), worse);
            }
        }
    }
    std::sort(candidates_.begin(), candidates_.end(), [](const Candidate &a, const Candidate &b) {
        if (a.score != b.score) return a.score > b.score;
        return a.beam != b.beam ? a.beam < b.beam : a.token < b.token;
    });
}

// The best candidates that go on become the running beams.
void Beams::keep_running(const std::vector<char> &stops) {
    std::vector<size_t> order(candidates_.size());
    std::iota(order.begin(), order.end(), size_t{0});
    const auto score = [&](size_t i) { return candidates_[i].score + (stops[i] ? NEVER : 0.0f); };
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return score(a) > score(b); });
    next_.clear();
    for (size_t b = 0; b < running_.size(); ++b) {
        next_.push_back({extended(candidates_[order[b]]), score(order[b]), false});
        parents_[b] = candidates_[order[b]].beam;
    }
}

// Merges the first `beams` candidates that stop into the finished list.
void Beams::keep_finished(const std::vector<char> &stops) {
    bool is_full = params_.raw.early_stopping == 1;
    for (const Hypothesis &h : finished_) is_full = is_full && h.is_finished;
    std::vector<Hypothesis> merged = finished_;
    for (size_t i = 0; i < candidates_.size(); ++i) {
        const bool finishes = stops[i] && i < running_.size();
        float score = by_length(candidates_[i].score, generated_ + 1);
        if (is_full) score += NEVER;
        if (!can_improve_) score += NEVER;
        if (!finishes) score += NEVER;
        merged.push_back({finishes ? extended(candidates_[i]) : Ids{config_.start_id}, score, finishes});
    }
    std::stable_sort(merged.begin(), merged.end(),
                     [](const Hypothesis &a, const Hypothesis &b) { return a.score > b.score; });
    merged.resize(finished_.size());
    finished_ = std::move(merged);
}

bool Beams::is_over(const std::vector<char> &stops) {
    const bool looks_far = params_.raw.early_stopping == 2 && params_.raw.length_penalty > 0.0f;
    const float reachable = by_length(running_[0].score, looks_far ? params_.raw.max_new_tokens : generated_);
    float worst = finished_[0].score;
    bool all_finished = true, improves = false;
    for (const Hypothesis &h : finished_) {
        worst = std::min(worst, h.score);
        all_finished = all_finished && h.is_finished;
    }
    for (const Hypothesis &h : finished_) improves = improves || reachable > (h.is_finished ? worst : NEVER);
    can_improve_ = can_improve_ && improves;
    const bool all_stop = std::all_of(stops.begin(), stops.end(), [](char s) { return s != 0; });
    return !can_improve_ || (all_finished && params_.raw.early_stopping == 1) || all_stop;
}

bool Beams::advance(const std::vector<const float *> &log_probs) {
    collect(log_probs);
    return move_on();
}

bool Beams::advance(const std::vector<BeamCandidate> &best) {
    candidates_ = best;
    return move_on();
}

std::vector<float> Beams::scores() const {
    std::vector<float> all;
    for (const Hypothesis &beam : running_) all.push_back(beam.score);
    return all;
}

bool Beams::move_on() {
    std::vector<char> stops(candidates_.size());
    for (size_t i = 0; i < candidates_.size(); ++i) {
        const Candidate &c = candidates_[i];
        stops[i] = generated_ + 1 >= params_.raw.max_new_tokens || params_.is_eos(config_, c.token) ||
                   (!params_.stop_sequences.empty() && hits_stop_sequence(params_, extended(c)));
    }
    keep_running(stops);
    keep_finished(stops);
    running_.swap(next_);
    ++generated_;
    return is_over(stops);
}

}  // namespace t5k
