// Decoding on a device that runs ahead of the host (device/steps.h): two steps are under way, and the tokens of the older one
// are looked at while the newer one runs. Rows are bound again only when the batch changes. Beams need the host after every
// step: while there are any, one step is under way.

#include <algorithm>

#include "model/scheduler.h"

namespace t5k {
namespace {

constexpr int STEPS_AHEAD = 2;

// Keys a step is recorded for: a power of two, so that few graphs serve all lengths.
int64_t key_bucket(int64_t keys) {
    int64_t bucket = 64;
    while (bucket < keys) bucket *= 2;
    return bucket;
}

}  // namespace

Status Scheduler::decode_ahead() {
    if (needs_binding()) {
        while (in_flight_ > 0) T5K_TRY(collect());
        if (running() == 0) return Status::good();
        T5K_TRY(bind());
    }
    while (in_flight_ < (has_beams_ ? 1 : STEPS_AHEAD) && has_more()) T5K_TRY(issue());
    return collect();
}

// True if a request runs that the device does not know of, or so few of those it knows are left that a smaller batch would do.
bool Scheduler::needs_binding() const {
    int64_t rows = 0;
    for (const auto &slot : slots_) {
        if (!slot->request) continue;
        const Request &r = *slot->request;
        rows += r.params.raw.num_beams;
        const bool is_known = std::any_of(bound_.begin(), bound_.end(), [&](const BoundRow &row) {
            return row.slot == slot.get() && row.handle == r.handle;
        });
        if (!is_known) return true;
    }
    return row_bucket(rows) < static_cast<int64_t>(bound_.size());
}

Status Scheduler::bind() {
    const t5k_config &c = model_->config();
    bound_.clear();
    rows_.clear();
    has_beams_ = false;
    std::vector<StepRow> steps;
    for (auto &slot : slots_) {
        if (!slot->request) continue;
        const Request &r = *slot->request;
        const t5k_params &raw = r.params.raw;
        const int64_t beams = r.beams ? r.beams->beams() : 1;
        has_beams_ |= !!r.beams;
        for (int64_t b = 0; b < beams; ++b) {
            StepRow step;
            step.is_beam = !!r.beams;
            step.ids = r.beams ? &r.beams->ids(b) : &r.ids;
            step.bad_words = &r.params.bad_words;
            step.max_new_tokens = raw.max_new_tokens;
            step.min_new_tokens = raw.min_new_tokens;
            step.ngram = raw.no_repeat_ngram_size;
            step.ends_at_eos = !raw.ignore_eos;
            step.is_sampled = raw.do_sample;
            step.wants_logprob = raw.return_logprobs;
            step.repetition_penalty = raw.repetition_penalty;
            step.temperature = raw.temperature;
            step.top_p = raw.top_p;
            step.top_k = raw.top_k;
            step.seed = raw.seed;
            steps.push_back(step);
            bound_.push_back({slot.get(), r.handle});
            rows_.push_back({step.ids->back(), static_cast<int64_t>(step.ids->size()) - 1,
                             slot->rows[static_cast<size_t>(b)].get(), &slot->cross, static_cast<int64_t>(r.source.size())});
        }
    }
    T5K_TRY(idle_.reserve(model_->device(), c, 1));
    while (static_cast<int64_t>(bound_.size()) < row_bucket(static_cast<int64_t>(bound_.size()))) {
        StepRow padding;
        padding.is_padding = true;
        steps.push_back(padding);
        bound_.push_back({});
        rows_.push_back({0, -1, &idle_, &idle_, 0});
    }
    return model_->device().bind_rows(steps, Ids(c.eos_ids, c.eos_ids + c.eos_count));
}

// False once every row is sure to end within the steps under way.
bool Scheduler::has_more() const {
    return std::any_of(bound_.begin(), bound_.end(), [this](const BoundRow &row) {
        if (!row.slot || !row.slot->request || row.slot->request->handle != row.handle) return false;
        const Request &r = *row.slot->request;
        return r.beams || static_cast<int64_t>(r.ids.size()) - 1 + in_flight_ < r.params.raw.max_new_tokens;
    });
}

Status Scheduler::issue() {
    StepShape shape;
    shape.rows = static_cast<int32_t>(bound_.size());
    int64_t source = 1, target = 1;
    for (size_t i = 0; i < bound_.size(); ++i) {
        const BoundRow &row = bound_[i];
        if (!row.slot || !row.slot->request || row.slot->request->handle != row.handle) continue;
        const Request &r = *row.slot->request;
        const t5k_params &raw = r.params.raw;
        const auto length = static_cast<int64_t>(r.beams ? r.beams->ids(0).size() : r.ids.size());
        source = std::max(source, rows_[i].source);
        target = std::max(target, length + in_flight_);
        const bool is_plain = r.params.is_greedy() && r.params.bad_words.empty() && raw.no_repeat_ngram_size == 0;
        // Once min_new_tokens have come, the rule has nothing left to forbid.
        const bool is_early = raw.min_new_tokens > length - 1 + in_flight_;
        shape.needs_scores |= !is_plain || is_early || raw.return_logprobs;
        shape.needs_normalizers |= r.beams || raw.return_logprobs;
    }
    shape.source = key_bucket(source);
    shape.target = key_bucket(target);
    for (size_t i = 0; has_beams_ && i < bound_.size(); ++i) {
        if (i == 0 || !bound_[i].slot || bound_[i].slot != bound_[i - 1].slot) shape.groups.push_back(0);
        ++shape.groups.back();
    }
    T5K_TRY(model_->step(rows_.data(), shape));
    ++in_flight_;
    return Status::good();
}

Status Scheduler::collect() {
    if (in_flight_ == 0) return Status::good();
    chosen_.resize(bound_.size());
    T5K_TRY(model_->device().take(chosen_.data()));
    --in_flight_;
    for (size_t i = 0; i < bound_.size(); ++i) {
        const BoundRow row = bound_[i];
        if (!row.slot || !row.slot->request || row.slot->request->handle != row.handle) continue;
        if (!row.slot->request->beams) {
            if (chosen_[i].token >= 0) emit(*row.slot, chosen_[i].token, chosen_[i].logprob);
        } else if (i == 0 || bound_[i - 1].slot != row.slot) {
            T5K_TRY(advance_beams(*row.slot, static_cast<int>(i)));
        }
    }
    if (has_beams_) bound_.clear();  // the beams moved: rows are bound again
    return Status::good();
}

Status Scheduler::advance_beams(Slot &slot, int first) {
    Beams &beams = *slot.request->beams;
    const auto positions = static_cast<int64_t>(beams.ids(0).size());
    std::vector<BeamCandidate> best(static_cast<size_t>(beams.wanted()));
    T5K_TRY(model_->device().beam_candidates(first, static_cast<int>(beams.beams()), beams.scores().data(),
                                             static_cast<int>(beams.wanted()), best.data()));
    if (!beams.advance(best)) return inherit(slot, positions);
    emit_hypotheses(slot);
    return Status::good();
}

}  // namespace t5k
