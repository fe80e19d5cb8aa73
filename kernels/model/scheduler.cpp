#include "model/scheduler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

namespace t5k {
namespace {

// Rows one admission may encode together: enough to fill the GEMM tiles, little enough to bound the pause of running
// requests and the activation buffers.
constexpr int64_t ENCODE_ROWS = 2048;

// The log-probability field of a token nobody wanted one for: 0, or NaN if the model's logits were not finite.
float finite_mark(float logit) { return std::isfinite(logit) ? 0.0f : std::numeric_limits<float>::quiet_NaN(); }

}  // namespace

Scheduler::Scheduler(std::unique_ptr<Model> model) : model_(std::move(model)) {
    for (int32_t i = 0; i < model_->config().max_slots; ++i) slots_.push_back(std::make_unique<Slot>());
}

int32_t Scheduler::running() const {
    return static_cast<int32_t>(std::count_if(slots_.begin(), slots_.end(), [](const auto &s) { return !!s->request; }));
}

Status Scheduler::check_source(const int32_t *ids, int32_t count) const {
    const t5k_config &c = model_->config();
    if (count < 1) return Status::invalid("input is empty: expected at least one id");
    if (count > c.max_source)
        return Status::invalid("input is too long: expected at most " + std::to_string(c.max_source) + " ids, got " +
                               std::to_string(count));
    for (int32_t i = 0; i < count; ++i)
        if (ids[i] < 0 || ids[i] >= c.vocab)
            return Status::invalid("id at index " + std::to_string(i) + ": expected 0 to " + std::to_string(c.vocab - 1) +
                                   ", got " + std::to_string(ids[i]));
    return Status::good();
}

Status Scheduler::submit(const int32_t *ids, int32_t count, const t5k_params &params, int64_t *handle) {
    if (model_->config().decoder_layers == 0) return Status::invalid("this model has an encoder only");
    T5K_TRY(check_source(ids, count));
    auto request = std::make_unique<Request>();
    T5K_TRY(read_params(model_->config(), params, &request->params));
    request->source.assign(ids, ids + count);
    request->ids.push_back(model_->config().start_id);
    *handle = request->handle = next_handle_++;
    waiting_.push_back(std::move(request));
    return Status::good();
}

Status Scheduler::cancel(int64_t handle) {
    for (auto &request : waiting_)
        if (request->handle == handle) return request->is_cancelled = true, Status::good();
    for (auto &slot : slots_)
        if (slot->request && slot->request->handle == handle) return slot->request->is_cancelled = true, Status::good();
    return Status::invalid("no request with handle " + std::to_string(handle));
}

void Scheduler::drop_cancelled() {
    const auto report = [this](const Request &r) {
        events_.push_back({r.handle, -1, T5K_CANCELLED, 0, 0.0f});
    };
    for (auto &slot : slots_)
        if (slot->request && slot->request->is_cancelled) {
            report(*slot->request);
            slot->request.reset();
        }
    for (auto it = waiting_.begin(); it != waiting_.end();) {
        if ((*it)->is_cancelled) {
            report(**it);
            it = waiting_.erase(it);
        } else {
            ++it;
        }
    }
}

Status Scheduler::prepare_slot(Slot &slot) {
    Request &r = *slot.request;
    const auto beams = static_cast<size_t>(r.params.raw.num_beams);
    while (slot.rows.size() < beams) slot.rows.push_back(std::make_unique<LayerCache>());
    for (size_t b = 0; b < beams; ++b)
        T5K_TRY(slot.rows[b]->reserve(model_->device(), model_->config(), r.params.raw.max_new_tokens));
    if (beams > 1) r.beams = std::make_unique<Beams>(model_->config(), r.params);
    return slot.cross.reserve(model_->device(), model_->config(), static_cast<int64_t>(r.source.size()));
}

Status Scheduler::admit() {
    if (model_->config().is_static && running() > 0) return Status::good();
    std::vector<Slot *> group;
    int64_t rows = 0;
    for (auto &slot : slots_) {
        if (waiting_.empty()) break;
        if (slot->request) continue;
        const auto length = static_cast<int64_t>(waiting_.front()->source.size());
        if (!group.empty() && rows + length > ENCODE_ROWS) {
            T5K_TRY(admit_group(group));
            group.clear();
            rows = 0;
        }
        rows += length;
        slot->request = std::move(waiting_.front());
        waiting_.pop_front();
        group.push_back(slot.get());
    }
    return group.empty() ? Status::good() : admit_group(group);
}

// Encodes a group together. If memory runs out the whole group leaves its slots and the step reports why.
Status Scheduler::admit_group(const std::vector<Slot *> &group) {
    std::vector<Sequence> sequences;
    std::vector<LayerCache *> caches;
    int64_t rows = 0, longest = 0;
    const auto run = [&]() -> Status {
        for (Slot *slot : group) {
            T5K_TRY(prepare_slot(*slot));
            const Ids &source = slot->request->source;
            sequences.push_back({source.data(), static_cast<int64_t>(source.size())});
            caches.push_back(&slot->cross);
            rows += sequences.back().length;
            longest = std::max(longest, sequences.back().length);
        }
        T5K_TRY(model_->reserve_encoder(rows, longest, static_cast<int>(group.size())));
        int64_t decoder_rows = 0;
        for (auto &slot : slots_)
            if (slot->request) decoder_rows += slot->request->params.raw.num_beams;
        T5K_TRY(model_->reserve_decoder(row_bucket(decoder_rows)));
        const float *out;
        int64_t ld;
        T5K_TRY(model_->encode(sequences.data(), static_cast<int>(sequences.size()), &out, &ld));
        return model_->fill_cross(sequences.data(), static_cast<int>(sequences.size()), caches.data());
    };
    Status status = run();
    if (!status.ok())
        for (Slot *slot : group) slot->request.reset();
    return status;
}

Status Scheduler::step(int32_t max_steps) {
    model_->device().enter();
    events_.clear();
    drop_cancelled();
    for (int32_t i = 0; i < max_steps; ++i) {
        T5K_TRY(admit());
        if (running() == 0) break;
        T5K_TRY(model_->device().runs_ahead() ? decode_ahead() : decode_once());
        if (has_ended()) break;
    }
    return Status::good();
}

bool Scheduler::has_ended() const {
    return std::any_of(events_.begin(), events_.end(), [](const t5k_event &e) { return e.finish != T5K_GOES_ON; });
}

Status Scheduler::decode_once() {
    std::vector<Slot *> active;
    rows_.clear();
    for (auto &slot : slots_) {
        if (!slot->request) continue;
        active.push_back(slot.get());
        const Request &r = *slot->request;
        const int64_t beams = r.beams ? r.beams->beams() : 1;
        for (int64_t b = 0; b < beams; ++b) {
            const Ids &ids = r.beams ? r.beams->ids(b) : r.ids;
            rows_.push_back({ids.back(), static_cast<int64_t>(ids.size()) - 1, slot->rows[static_cast<size_t>(b)].get(),
                             &slot->cross, static_cast<int64_t>(r.source.size())});
        }
    }
    T5K_TRY(model_->decode(rows_.data(), static_cast<int>(rows_.size())));
    const bool all_greedy = std::all_of(active.begin(), active.end(), [](const Slot *s) {
        const Request &r = *s->request;
        return r.params.is_greedy() && !r.params.raw.return_logprobs && r.looks == 0;
    });
    for (Slot *slot : active) slot->request->looks -= slot->request->looks > 0;
    return all_greedy ? choose_greedy(active) : choose(active);
}

// Every row takes the argmax and no logits are stored at all - unless one is forbidden: then the scores decide.
Status Scheduler::choose_greedy(const std::vector<Slot *> &active) {
    constexpr int32_t LOOKS = 8;  // a row that met its ban often meets it again: then the try would be in vain
    best_.resize(active.size());
    T5K_TRY(model_->best(static_cast<int>(active.size()), best_.data()));
    const float *logits = nullptr;
    int64_t ld = 0;
    for (size_t i = 0; i < active.size(); ++i) {
        Request &r = *active[i]->request;
        if (!is_forbidden(model_->config(), r.params, r.ids, best_[i].index)) {
            emit(*active[i], best_[i].index, finite_mark(best_[i].value));
            continue;
        }
        r.looks = LOOKS;
        if (!logits) T5K_TRY(model_->logits(static_cast<int>(active.size()), &logits, &ld));
        T5K_TRY(choose_one(*active[i], logits + static_cast<int64_t>(i) * ld, 0.0));
    }
    return Status::good();
}

Status Scheduler::choose(const std::vector<Slot *> &active) {
    const int n = static_cast<int>(rows_.size());
    const float *logits;
    int64_t ld;
    T5K_TRY(model_->logits(n, &logits, &ld));
    const bool any_logs = std::any_of(active.begin(), active.end(), [](const Slot *s) {
        return s->request->params.raw.return_logprobs || s->request->beams;
    });
    logsums_.assign(rows_.size(), 0.0);
    if (any_logs) T5K_TRY(model_->device().log_normalizers(logits, ld, n, model_->config().vocab, logsums_.data()));
    size_t row = 0;
    for (Slot *slot : active) {
        const float *first = logits + static_cast<int64_t>(row) * ld;
        const size_t beams = slot->request->beams ? static_cast<size_t>(slot->request->beams->beams()) : 1;
        if (slot->request->beams)
            T5K_TRY(choose_beams(*slot, first, ld, logsums_.data() + row));
        else
            T5K_TRY(choose_one(*slot, first, logsums_[row]));
        row += beams;
    }
    return Status::good();
}

Status Scheduler::choose_one(Slot &slot, const float *logits, double logsum) {
    const t5k_config &c = model_->config();
    const Request &r = *slot.request;
    auto mark = [&](float logit) {
        return r.params.raw.return_logprobs ? static_cast<float>(logit - logsum) : finite_mark(logit);
    };
    if (r.params.is_greedy()) {
        Best best;
        T5K_TRY(model_->device().argmax(logits, c.vocab, &best));
        if (!is_forbidden(c, r.params, r.ids, best.index)) {
            emit(slot, best.index, mark(best.value));
            return Status::good();
        }
    }
    scores_.resize(static_cast<size_t>(c.vocab));
    T5K_TRY(model_->device().read(scores_.data(), logits, int64_t{c.vocab} * 4));
    process_scores(c, r.params, r.ids, scores_.data(), scratch_);
    int32_t token;
    if (r.params.raw.do_sample) {
        token = draw(scores_.data(), c.vocab, r.params.raw.seed, r.ids.size());
    } else {
        token = static_cast<int32_t>(std::max_element(scores_.begin(), scores_.end()) - scores_.begin());
    }
    float logit;
    T5K_TRY(model_->device().read(&logit, logits + token, 4));
    emit(slot, token, mark(logit));
    return Status::good();
}

void Scheduler::emit(Slot &slot, int32_t token, float logprob) {
    Request &r = *slot.request;
    r.ids.push_back(token);
    int32_t finish = T5K_GOES_ON;
    if (r.params.is_eos(model_->config(), token))
        finish = T5K_EOS;
    else if (hits_stop_sequence(r.params, r.ids))
        finish = T5K_STOP;
    else if (static_cast<int64_t>(r.ids.size()) > r.params.raw.max_new_tokens)
        finish = T5K_LENGTH;
    events_.push_back({r.handle, token, finish, 0, logprob});
    if (finish != T5K_GOES_ON) slot.request.reset();
}

// ---- beams ----------------------------------------------------------------------------------------------------------

Status Scheduler::choose_beams(Slot &slot, const float *logits, int64_t ld, const double *logsum) {
    const t5k_config &c = model_->config();
    Request &r = *slot.request;
    Beams &beams = *r.beams;
    scores_.resize(static_cast<size_t>(beams.beams() * c.vocab));
    std::vector<const float *> log_probs;
    for (int64_t b = 0; b < beams.beams(); ++b) {
        float *row = scores_.data() + b * c.vocab;
        T5K_TRY(model_->device().read(row, logits + b * ld, int64_t{c.vocab} * 4));
        for (int64_t v = 0; v < c.vocab; ++v) row[v] = static_cast<float>(row[v] - logsum[b]);
        process_scores(c, r.params, beams.ids(b), row, scratch_);
        log_probs.push_back(row);
    }
    const auto positions = static_cast<int64_t>(beams.ids(0).size());
    if (!beams.advance(log_probs)) return inherit(slot, positions);
    emit_hypotheses(slot);
    return Status::good();
}

// Hands every new beam the cache of its parent. The first child of a parent takes it over in place; only further
// children copy, into caches whose beams died.
Status Scheduler::inherit(Slot &slot, int64_t positions) {
    const std::vector<int32_t> &parents = slot.request->beams->parents();
    const size_t n = parents.size();
    std::vector<std::unique_ptr<LayerCache>> next(n);
    std::vector<size_t> holder(n, n);  // parent -> the new beam that holds its cache
    for (size_t b = 0; b < n; ++b) {
        const auto parent = static_cast<size_t>(parents[b]);
        if (holder[parent] != n) continue;
        holder[parent] = b;
        next[b] = std::move(slot.rows[parent]);
    }
    size_t free = 0;
    Status status;
    for (size_t b = 0; b < n; ++b) {
        if (next[b]) continue;
        while (!slot.rows[free]) ++free;
        next[b] = std::move(slot.rows[free]);
        if (status.ok()) status = copy_cache(*next[b], *next[holder[static_cast<size_t>(parents[b])]], positions);
    }
    for (size_t b = 0; b < n; ++b) slot.rows[b] = std::move(next[b]);
    return status;
}

Status Scheduler::copy_cache(LayerCache &to, const LayerCache &from, int64_t positions) {
    const t5k_config &c = model_->config();
    const int64_t panels = panel_count(c.d_kv), keys = round_up(positions, LANES), size = from.size;
    for (int64_t head = 0; head < int64_t{c.decoder_layers} * c.heads; ++head) {
        const HeadCache source = head_cache({from.k.data(), from.v.data(), from.capacity, size}, head, c.d_kv);
        const HeadCache target = head_cache({to.k.data(), to.v.data(), to.capacity, size}, head, c.d_kv);
        T5K_TRY(model_->device().copy(target.k, source.k, keys * c.d_kv * size));
        for (int64_t p = 0; p < panels; ++p)
            T5K_TRY(model_->device().copy(advanced(target.v, p * target.capacity * LANES, size),
                                          advanced(source.v, p * source.capacity * LANES, size), positions * LANES * size));
    }
    return Status::good();
}

void Scheduler::emit_hypotheses(Slot &slot) {
    const Request &r = *slot.request;
    for (int32_t h = 0; h < r.params.raw.num_return_sequences; ++h) {
        const Beams::Hypothesis &best = r.beams->best()[static_cast<size_t>(h)];
        for (size_t i = 1; i < best.ids.size(); ++i) {
            const bool is_last = i + 1 == best.ids.size();
            int32_t finish = T5K_GOES_ON;
            if (is_last) {
                finish = r.params.is_eos(model_->config(), best.ids[i])  ? T5K_EOS
                         : hits_stop_sequence(r.params, best.ids) ? T5K_STOP
                                                                  : T5K_LENGTH;
            }
            events_.push_back({r.handle, best.ids[i], finish, h, is_last ? best.score : 0.0f});
        }
        if (best.ids.size() < 2) events_.push_back({r.handle, -1, T5K_LENGTH, h, best.score});
    }
    slot.request.reset();
}

// ---- without slots --------------------------------------------------------------------------------------------------

Status Scheduler::encode(const int32_t *ids, const int32_t *lengths, int32_t sequences, float *out) {
    const int64_t E = model_->config().d_model;
    model_->device().enter();
    int64_t offset = 0;
    for (int32_t i = 0; i < sequences; ++i) {
        T5K_TRY(check_source(ids + offset, lengths[i]));
        offset += lengths[i];
    }
    offset = 0;
    for (int32_t i = 0; i < sequences;) {
        std::vector<Sequence> group;
        int64_t rows = 0, longest = 0;
        while (i < sequences && (group.empty() || rows + lengths[i] <= ENCODE_ROWS)) {
            group.push_back({ids + offset + rows, lengths[i]});
            rows += lengths[i];
            longest = std::max<int64_t>(longest, lengths[i++]);
        }
        T5K_TRY(model_->reserve_encoder(rows, longest, static_cast<int>(group.size())));
        const float *from;
        int64_t ld;
        T5K_TRY(model_->encode(group.data(), static_cast<int>(group.size()), &from, &ld));
        for (int64_t r = 0; r < rows; ++r)
            T5K_TRY(model_->device().read_numbers(out + (offset + r) * E,
                                                  advanced(from, r * ld, model_->device().storage().bytes), E));
        offset += rows;
    }
    return Status::good();
}

Status Scheduler::score(const int32_t *ids, int32_t count, const int32_t *target, int32_t targets, float *out) {
    const t5k_config &c = model_->config();
    model_->device().enter();
    if (c.decoder_layers == 0) return Status::invalid("this model has an encoder only");
    T5K_TRY(check_source(ids, count));
    T5K_TRY(check_source(target, targets));
    LayerCache self, cross;
    T5K_TRY(self.reserve(model_->device(), c, targets));
    T5K_TRY(cross.reserve(model_->device(), c, count));
    T5K_TRY(model_->reserve_encoder(count, count, 1));
    T5K_TRY(model_->reserve_decoder(1));
    const Sequence source{ids, count};
    LayerCache *const caches[] = {&cross};
    const float *from;
    int64_t ld;
    T5K_TRY(model_->encode(&source, 1, &from, &ld));
    T5K_TRY(model_->fill_cross(&source, 1, caches));
    for (int32_t t = 0; t < targets; ++t) {
        const Row row{target[t], t, &self, &cross, count};
        T5K_TRY(model_->decode(&row, 1));
        T5K_TRY(model_->logits(1, &from, &ld));
        T5K_TRY(model_->device().read(out + int64_t{t} * c.vocab, from, int64_t{c.vocab} * 4));
    }
    return Status::good();
}

}  // namespace t5k
