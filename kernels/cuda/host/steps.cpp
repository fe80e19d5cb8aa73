// Steps of the CUDA device that run ahead of the host: rows bound, one step recorded per shape, tokens read a step later.
#include "cuda/host/device.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

namespace t5k::cuda {

constexpr int64_t MAX_WANTED_PER_ROW = 9;  // 1 + the most eos ids (model/beams.h)

bool CudaDevice::has_room(const Reservation &most) const {
    const Reservation &m = parts_.most;
    if (!most.mix) return true;  // only decode steps need scratch
    return most.rows <= m.rows && most.shards <= m.shards && most.scores <= m.scores && most.mix <= m.mix && most.keys <= m.keys;
}

Status CudaDevice::reserve(const Reservation &most) {
    if (has_room(most)) return Status::good();
    Reservation &m = parts_.most;
    m = {std::max(m.rows, most.rows), 0, std::max(m.keys, most.keys), std::max(m.mix, most.mix),
         std::max(m.shards, most.shards), std::max(m.scores, most.scores)};
    const int64_t splits = (m.keys + SPLIT_KEYS - 1) / SPLIT_KEYS;
    int64_t bytes = 0;
    const auto part = [&bytes](int64_t size) {
        const int64_t at = bytes;
        bytes += round_up(std::max<int64_t>(size, 1), 256);
        return at;
    };
    const int64_t at[] = {part((m.scores / LANES + m.rows * m.shards) * 8),
                          part(m.rows * 8),
                          part(m.rows * 8),
                          part(m.rows * 4),
                          part(m.rows * 4),
                          part(m.scores * 4),
                          part(splits > 1 ? m.rows * m.shards * m.mix * splits * 4 : 0),
                          part(m.rows * MAX_WANTED_PER_ROW * 12)};
    T5K_TRY(wait());
    forget_plans();
    driver_.free(scratch_);
    scratch_ = 0;
    T5K_TRY(grab(bytes, &scratch_));
    const auto here = [this](int64_t offset) { return pointer(scratch_ + static_cast<CUdeviceptr>(offset)); };
    parts_.parts = static_cast<Best *>(here(at[0]));
    parts_.best = static_cast<Best *>(here(at[1]));
    parts_.chosen = static_cast<Chosen *>(here(at[2]));
    parts_.drawn = static_cast<int32_t *>(here(at[3]));
    parts_.normalizers = static_cast<float *>(here(at[4]));
    parts_.scores = static_cast<float *>(here(at[5]));
    parts_.partial = static_cast<float *>(here(at[6]));
    parts_.candidates = static_cast<BeamCandidate *>(here(at[7]));
    return Status::good();
}

void CudaDevice::forget_plans() {
    abandon_capture();
    for (auto &[shape, plan] : plans_) {
        if (plan.graph) driver_.graph_exec_destroy(plan.graph);
        driver_.free(plan.records);
    }
    plans_.clear();
}

// Grows by doubling: recorded steps hold these addresses.
Status CudaDevice::enlarge_batch(int64_t rows, int64_t capacity, int64_t words, int64_t lists) {
    auto &size = batch_size_;
    if (rows <= size.rows && capacity <= size.capacity && words <= size.words && lists <= size.lists) return Status::good();
    const auto grown = [](int64_t have, int64_t wanted) { return wanted <= have ? have : std::max(wanted, 2 * have); };
    size = {grown(size.rows, rows), grown(size.capacity, capacity), grown(size.words, words), grown(size.lists, lists)};
    T5K_TRY(wait());
    forget_plans();
    int64_t bytes = 0;
    const auto part = [&bytes](int64_t wanted) {
        const int64_t at = bytes;
        bytes += round_up(std::max<int64_t>(wanted, 1), 256);
        return at;
    };
    const int64_t R = size.rows;
    const int64_t at[] = {part(R * static_cast<int64_t>(sizeof(RowRules))),
                          part(R * static_cast<int64_t>(sizeof(SampleRow))),
                          part(size.words * 4),
                          part((size.lists + 1) * 4),
                          part(8 * 4),
                          part(R * size.capacity * 4),
                          part(R * 4),
                          part(R * 4),
                          part(R * 4)};
    driver_.free(batch_.memory);
    batch_.memory = 0;
    T5K_TRY(grab(bytes, &batch_.memory));
    batch_.host.assign(static_cast<size_t>(bytes), 0);
    const auto here = [this](int64_t offset) { return pointer(batch_.memory + static_cast<CUdeviceptr>(offset)); };
    StepState &s = batch_.state;
    s.rows = static_cast<const RowRules *>(here(at[0]));
    s.sample = static_cast<SampleRow *>(here(at[1]));
    s.words = static_cast<const int32_t *>(here(at[2]));
    s.word_at = static_cast<const int32_t *>(here(at[3]));
    s.eos = static_cast<const int32_t *>(here(at[4]));
    s.history = static_cast<int32_t *>(here(at[5]));
    s.token = static_cast<int32_t *>(here(at[6]));
    s.position = static_cast<int32_t *>(here(at[7]));
    s.done = static_cast<int32_t *>(here(at[8]));
    s.capacity = size.capacity;
    if (R <= results_rows_) return Status::good();
    if (results_) driver_.free_host(results_);
    results_ = nullptr;
    results_rows_ = R;
    void *memory = nullptr;
    T5K_TRY(check(driver_.allocate_host(&memory, static_cast<size_t>(2 * R) * sizeof(Chosen)), "cuMemAllocHost"));
    results_ = static_cast<Chosen *>(memory);
    return Status::good();
}

Status CudaDevice::bind_rows(const std::vector<StepRow> &rows, const std::vector<int32_t> &eos) {
    if (issued_ != taken_) return {Code::internal, "rows bound while a step is under way"};
    int64_t capacity = 64, words = 16, lists = 8;
    for (const StepRow &row : rows) {
        if (row.is_padding) continue;
        capacity = std::max<int64_t>(capacity, row.max_new_tokens + 2);
        lists += static_cast<int64_t>(row.bad_words->size());
        for (const auto &word : *row.bad_words) words += static_cast<int64_t>(word.size());
    }
    T5K_TRY(enlarge_batch(static_cast<int64_t>(rows.size()), capacity, words, lists));
    StepState &s = batch_.state;
    s.eos_count = static_cast<int>(eos.size());
    s.R = static_cast<int>(rows.size());
    const auto mirror = [this](const auto *at) {
        using T = std::remove_const_t<std::remove_pointer_t<decltype(at)>>;
        return reinterpret_cast<T *>(batch_.host.data() + (address(at) - batch_.memory));
    };
    std::copy(eos.begin(), eos.end(), mirror(s.eos));
    int word = 0, list = 0;
    mirror(s.word_at)[0] = 0;
    for (size_t r = 0; r < rows.size(); ++r) {
        const StepRow &from = rows[r];
        RowRules to{from.repetition_penalty, from.ngram, from.min_new_tokens, from.max_new_tokens, list, 0, from.is_beam,
                   from.wants_logprob, from.ends_at_eos};
        SampleRow sample{from.seed, 0, from.temperature, from.top_p, from.top_k, !from.is_sampled};
        int position = -1;
        if (!from.is_padding) {
            for (const auto &each : *from.bad_words) {
                std::copy(each.begin(), each.end(), mirror(s.words) + word);
                word += static_cast<int>(each.size());
                mirror(s.word_at)[++list] = word;
            }
            to.words = list - to.first_word;
            sample.step = from.ids->size();
            position = static_cast<int>(from.ids->size()) - 1;
            std::copy(from.ids->begin(), from.ids->end(), mirror(s.history) + static_cast<int64_t>(r) * s.capacity);
        }
        mirror(s.rows)[r] = to;
        mirror(s.sample)[r] = sample;
        mirror(s.position)[r] = position;
        mirror(s.token)[r] = from.is_padding ? 0 : from.ids->back();
        mirror(s.done)[r] = from.is_padding;
    }
    ++batch_.version;
    return check(driver_.to_device(batch_.memory, batch_.host.data(), batch_.host.size(), stream_), "cuMemcpyHtoDAsync");
}

// A shape is issued plainly the first time (kernels load, records are counted), recorded the second, then repeated.
Status CudaDevice::take_up(const StepShape &shape) {
    abandon_capture();
    plan_ = plans_.try_emplace(shape).first;
    Plan &plan = plan_->second;
    phase_ = plan.runs == 0                      ? Phase::run
             : !plan.is_recorded                 ? Phase::capture
             : plan.version != batch_.version ? Phase::refresh
                                              : Phase::replay;
    if (phase_ == Phase::capture) {
        plan.host.assign(plan.used, AttendJob{});
        driver_.free(plan.records);
        plan.records = 0;
        T5K_TRY(grab(static_cast<int64_t>(plan.used * sizeof(AttendJob)), &plan.records));
    }
    if (phase_ != Phase::replay) plan.used = 0;
    return Status::good();
}

Status CudaDevice::begin_capture() {
    return check(driver_.capture_begin(stream_, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), "cuStreamBeginCapture");
}

// A step that failed half way through its recording leaves the stream to be used again.
void CudaDevice::abandon_capture() {
    CUgraph graph = nullptr;
    if (phase_ == Phase::capture && driver_.capture_end(stream_, &graph) == CUDA_SUCCESS && graph) driver_.graph_destroy(graph);
    if (phase_ == Phase::capture) plan_->second.runs = 0;
    phase_ = Phase::outside;
}

Status CudaDevice::begin_step(const StepShape &shape, bool *issues) {
    T5K_TRY(take_up(shape));
    *issues = phase_ != Phase::replay;
    return phase_ == Phase::capture ? begin_capture() : Status::good();
}

Status CudaDevice::choose(LinearJob *head, int n, float *logits, int64_t ld, int64_t V) {
    if (plan_->first.needs_scores) {
        T5K_TRY(linear(head, n));
        return choose_token(0, logits, ld, V);
    }
    int64_t panels = 0, first = 0;
    for (int i = 0; i < n; ++i) panels += panel_count(std::max<int64_t>(head[i].columns, 0));
    for (int i = 0; i < n; ++i) {
        if (head[i].columns <= 0) continue;
        head[i].epilogue = EPILOGUE_ARGMAX;
        head[i].gpu.best = parts_.parts + first;
        head[i].gpu.best_stride = panels;
        T5K_TRY(launch_linear(head[i]));
        first += panel_count(head[i].columns);
    }
    return choose_token(panels, logits, ld, V);
}

// From the head's results on this device - `panels` partial maxima of each row, or its logits - to each row's next token.
Status CudaDevice::choose_token(int64_t panels, float *logits, int64_t ld, int64_t V) {
    const StepShape &shape = plan_->first;
    const int64_t R = shape.rows;
    AdvanceJob step{batch_.state, parts_.best, parts_.drawn, nullptr, parts_.normalizers, parts_.chosen, ld, static_cast<int>(V)};
    if (!shape.needs_scores) {
        T5K_TRY(launch("best_panels", BestJob{parts_.parts, nullptr, parts_.best, 0, static_cast<int>(panels)}, {R}, 256));
    } else {
        if (shape.needs_normalizers) {
            const LogSoftmaxJob sums{logits, nullptr, parts_.normalizers, ld, 0, static_cast<int>(V)};
            T5K_TRY(launch("log_softmax", sums, {R}, 256));
        }
        const ProcessJob rules{batch_.state, logits, parts_.normalizers, parts_.scores, ld, ld, static_cast<int>(V)};
        T5K_TRY(launch("process_scores", rules, {R}, 256));
        T5K_TRY(launch("best_logits", BestJob{nullptr, parts_.scores, parts_.best, ld, static_cast<int>(V)}, {R}, 256));
        const SampleJob draw{parts_.scores, batch_.state.sample, parts_.drawn, ld, static_cast<int>(V)};
        T5K_TRY(launch("sample", draw, {R}, 256));
        step.x = logits;
        scores_ld_ = ld;
        scores_V_ = V;
    }
    return launch("advance", step, {(R + 63) / 64}, 64);
}

Status CudaDevice::end_capture() {
    Plan &plan = plan_->second;
    CUgraph graph = nullptr;
    T5K_TRY(check(driver_.capture_end(stream_, &graph), "cuStreamEndCapture"));
    const CUresult made = driver_.graph_instantiate(&plan.graph, graph, 0);
    driver_.graph_destroy(graph);
    return check(made, "cuGraphInstantiate");
}

// The records of a step that was just issued, as the batch now has them.
Status CudaDevice::upload_records() {
    Plan &plan = plan_->second;
    plan.is_recorded = true;
    plan.version = batch_.version;
    return check(driver_.to_device(plan.records, plan.host.data(), plan.used * sizeof(AttendJob), stream_), "cuMemcpyHtoDAsync");
}

Status CudaDevice::launch_graph() { return check(driver_.graph_launch(plan_->second.graph, stream_), "cuGraphLaunch"); }

Status CudaDevice::end_step() {
    if (phase_ == Phase::capture) T5K_TRY(end_capture());
    if (phase_ == Phase::capture || phase_ == Phase::refresh) T5K_TRY(upload_records());
    if (phase_ != Phase::run) T5K_TRY(launch_graph());
    return deliver();
}

// The step is issued.
void CudaDevice::leave_step() {
    phase_ = Phase::outside;
    ++plan_->second.runs;
}

// And its tokens go to the host.
Status CudaDevice::deliver() {
    leave_step();
    const size_t rows = static_cast<size_t>(batch_.state.R);
    Chosen *to = results_ + static_cast<int64_t>(issued_ % 2) * results_rows_;
    T5K_TRY(check(driver_.to_host(to, address(parts_.chosen), rows * sizeof(Chosen), stream_), "cuMemcpyDtoHAsync"));
    T5K_TRY(check(driver_.event_record(events_[issued_ % 2], stream_), "cuEventRecord"));
    ++issued_;
    return Status::good();
}

Status CudaDevice::take(Chosen *chosen) {
    const auto turn = taken_ % 2;
    T5K_TRY(check(driver_.event_synchronize(events_[turn]), "cuEventSynchronize"));
    std::memcpy(chosen, results_ + static_cast<int64_t>(turn) * results_rows_, static_cast<size_t>(batch_.state.R) * sizeof(Chosen));
    ++taken_;
    return Status::good();
}

Status CudaDevice::beam_candidates(int first, int n, const float *scores, int wanted, BeamCandidate *out) {
    if (wanted > n * MAX_WANTED_PER_ROW) return {Code::internal, "more candidates than were reserved"};
    CUdeviceptr at = 0;
    T5K_TRY(stage(scores, n * 4, &at));
    const BeamJob job{parts_.scores + first * scores_ld_, static_cast<const float *>(pointer(at)), parts_.candidates, scores_ld_,
                      static_cast<int>(scores_V_), n, wanted};
    T5K_TRY(launch("beam_step", job, {1}, 256));
    return read(out, parts_.candidates, wanted * static_cast<int64_t>(sizeof(BeamCandidate)));
}

}  // namespace t5k::cuda
