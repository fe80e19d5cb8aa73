// The ops of several GPUs: where their work meets, and in what order.
#include "cuda/host/device.h"

#include <algorithm>

namespace t5k::cuda {

Status CudaGroup::open(const Driver &driver, const void *image, int activations, int ranks, std::unique_ptr<Device> *out) {
    std::unique_ptr<CudaGroup> group(new CudaGroup(driver));
    T5K_TRY(group->start(image, activations, ranks));
    *out = std::move(group);
    return Status::good();
}

CudaGroup::~CudaGroup() {
    wait_for_gpus();
    for (size_t r = 0; r < ranks_.size(); ++r) {
        ranks_[r]->enter();
        ranks_[r]->forget_plans();
        for (const std::vector<CUevent> *events : {&ready_, &read_, &turn_})
            if (r < events->size() && (*events)[r]) driver_.event_destroy((*events)[r]);
    }
}

std::string CudaGroup::describe() const {
    const std::string words = std::to_string(ranks_.size()) + " GPUs";
    return words + (are_peers_ ? " with peer access" : ", sums copied between them (no peer access)");
}

void CudaGroup::wait_for_gpus() {
    for (const auto &rank : ranks_)
        if (rank->stream_) rank->enter(), driver_.stream_synchronize(rank->stream_);
    if (!ranks_.empty()) enter();
}

Status CudaGroup::start(const void *image, int activations, int ranks) {
    for (int r = 0; r < ranks; ++r) {
        std::unique_ptr<CudaDevice> rank;
        Status status = CudaDevice::open(driver_, image, activations, r, &rank);
        if (!status.ok()) return status.message = "GPU " + std::to_string(r) + ": " + status.message, status;
        ranks_.push_back(std::move(rank));
    }
    for (std::vector<CUevent> *events : {&ready_, &read_, &turn_}) events->resize(ranks_.size());
    const Status done = each([&](CudaDevice &rank, size_t r) {
        for (std::vector<CUevent> *events : {&ready_, &read_, &turn_})
            T5K_TRY(rank.check(driver_.event_create(&(*events)[r], CU_EVENT_DISABLE_TIMING), "cuEventCreate"));
        return Status::good();
    });
    T5K_TRY(done);
    return meet();
}

// Peer access between all pairs, or none at all: one way of working at a time.
Status CudaGroup::meet() {
    are_peers_ = true;
    return each([&](CudaDevice &rank, size_t) {
        for (const auto &other : ranks_) {
            if (other.get() == &rank || !are_peers_) continue;
            int can = 0;
            T5K_TRY(rank.check(driver_.can_access_peer(&can, rank.device_, other->device_), "cuDeviceCanAccessPeer"));
            const CUresult code = can ? driver_.enable_peer(other->context_, 0) : CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
            are_peers_ = code == CUDA_SUCCESS || code == CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED;
        }
        return Status::good();
    });
}

// ---- memory: one logical address, a place on each GPU ---------------------------------------------------------------

Status CudaGroup::take(int64_t bytes, int64_t part, bool is_cut, void **out) {
    *out = nullptr;
    Block block{bytes, part, is_cut, {}};
    const Status status = each([&](CudaDevice &rank, size_t) {
        void *memory = nullptr;
        T5K_TRY(rank.allocate(part, &memory));
        block.at.push_back(memory);
        return Status::good();
    });
    if (!status.ok()) {
        for (size_t r = 0; r < block.at.size(); ++r) ranks_[r]->release(block.at[r], part);
        return status;
    }
    *out = reinterpret_cast<void *>(next_);
    blocks_[next_] = std::move(block);
    next_ += static_cast<uintptr_t>(round_up(bytes, 4096) + 4096);
    return Status::good();
}

void CudaGroup::release(void *memory, int64_t bytes) {
    const auto found = blocks_.find(number(memory));
    if (found == blocks_.end()) return;
    wait_for_gpus();
    for (const auto &rank : ranks_) rank->enter(), rank->forget_plans();
    for (size_t r = 0; r < found->second.at.size(); ++r) ranks_[r]->release(found->second.at[r], bytes);
    blocks_.erase(found);
    reduced_.clear();
}

const CudaGroup::Block *CudaGroup::find(const void *logical) const {
    auto it = blocks_.upper_bound(number(logical));
    if (it == blocks_.begin()) return nullptr;
    --it;
    return number(logical) < it->first + static_cast<uintptr_t>(it->second.bytes) ? &it->second : nullptr;
}

int64_t CudaGroup::offset(const void *logical) const {
    return static_cast<int64_t>(number(logical) - std::prev(blocks_.upper_bound(number(logical)))->first);
}

size_t CudaGroup::owner(const void *logical) const {
    const Block *block = find(logical);
    return block && block->is_cut ? static_cast<size_t>(offset(logical) / block->part) : 0;
}

Status CudaGroup::reserve(const Reservation &most) {
    if (ranks_[0]->has_room(most)) return Status::good();
    wait_for_gpus();
    return each([&](CudaDevice &rank, size_t) { return rank.reserve(most); });
}

Status CudaGroup::bind(const void *host, int64_t bytes, int64_t rank) {
    return each([&](CudaDevice &one, size_t r) {
        return rank < 0 || rank == static_cast<int64_t>(r) ? one.bind(host, bytes, rank) : Status::good();
    });
}

Status CudaGroup::read(void *host, const void *memory, int64_t bytes) {
    const size_t r = owner(memory);
    ranks_[r]->enter();
    return ranks_[r]->read(host, at(memory, r), bytes);
}

Status CudaGroup::read_numbers(float *host, const float *memory, int64_t n) {
    const size_t r = owner(memory);
    ranks_[r]->enter();
    return ranks_[r]->read_numbers(host, at(memory, r), n);
}

Status CudaGroup::copy(void *to, const void *from, int64_t bytes) {
    const Block *block = find(to);
    const size_t only = owner(to);
    return each([&](CudaDevice &rank, size_t r) {
        return block && block->is_cut && r != only ? Status::good() : rank.copy(at(to, r), at(from, r), bytes);
    });
}

// ---- order between GPUs ----------------------------------------------------------------------------------------------

Status CudaGroup::mark(std::vector<CUevent> &events, size_t r) {
    ranks_[r]->enter();
    return ranks_[r]->check(driver_.event_record(events[r], ranks_[r]->stream_), "cuEventRecord");
}

Status CudaGroup::wait_for(std::vector<CUevent> &events, size_t waits, size_t r) {
    ranks_[waits]->enter();
    return ranks_[waits]->check(driver_.stream_wait(ranks_[waits]->stream_, events[r], 0), "cuStreamWaitEvent");
}

// Every rank waits for every other.
Status CudaGroup::wait_for_all(std::vector<CUevent> &events) {
    for (size_t waits = 0; waits < ranks_.size(); ++waits)
        for (size_t r = 0; r < ranks_.size(); ++r)
            if (r != waits) T5K_TRY(wait_for(events, waits, r));
    return Status::good();
}

// The first GPU goes on when all have come here.
Status CudaGroup::gather() {
    for (size_t r = 1; r < ranks_.size(); ++r) {
        T5K_TRY(mark(turn_, r));
        T5K_TRY(wait_for(turn_, 0, r));
    }
    enter();
    return Status::good();
}

// The others go on when the first has come here.
Status CudaGroup::scatter() {
    T5K_TRY(mark(turn_, 0));
    for (size_t r = 1; r < ranks_.size(); ++r) T5K_TRY(wait_for(turn_, r, 0));
    enter();
    return Status::good();
}

Status CudaGroup::send(CUdeviceptr to, size_t to_rank, CUdeviceptr from, size_t from_rank, int64_t bytes, size_t on) {
    ranks_[on]->enter();
    return ranks_[on]->check(driver_.peer_copy(to, ranks_[to_rank]->context_, from, ranks_[from_rank]->context_,
                                               static_cast<size_t>(bytes), ranks_[on]->stream_),
                             "cuMemcpyPeerAsync");
}

// ---- ops -------------------------------------------------------------------------------------------------------------

Status CudaGroup::embed(const EmbedJob &from) {
    return each([&](CudaDevice &rank, size_t r) {
        EmbedJob job = from;
        job.y = at(job.y, r);
        return rank.embed(job);
    });
}

Status CudaGroup::rms_norm(const RmsNormJob &from) {
    return each([&](CudaDevice &rank, size_t r) {
        RmsNormJob job = from;
        job.x = at(job.x, r);
        job.y = at(job.y, r);
        return rank.rms_norm(job);
    });
}

Status CudaGroup::linear(LinearJob *jobs, int n) {
    if (n > count()) return {Code::internal, "more jobs than GPUs"};
    if (!is_rewriting() && reduced_.count(jobs[0].y)) {
        T5K_TRY(wait_for_all(read_));
        reduced_.clear();
    }
    return each([&](CudaDevice &rank, size_t r) {
        if (r >= static_cast<size_t>(n)) return Status::good();
        LinearJob job = jobs[r];
        job.x = at(job.x, r);
        job.y = at(job.y, r);
        return rank.linear(&job, 1);
    });
}

Status CudaGroup::add_shards(const AddShardsJob &from) {
    if (is_rewriting()) return Status::good();
    const int64_t bytes = from.R * from.ld * 4;
    for (size_t r = 0; r < ranks_.size(); ++r) T5K_TRY(mark(ready_, r));
    T5K_TRY(wait_for_all(ready_));
    const Status done = each([&](CudaDevice &rank, size_t r) {
        std::vector<const float *> here;
        for (size_t owner = 0; owner < static_cast<size_t>(from.count); ++owner) {
            here.push_back(at(from.parts[owner], are_peers_ ? owner : r));
            if (!are_peers_ && owner != r)
                T5K_TRY(send(number(here.back()), r, number(at(from.parts[owner], owner)), owner, bytes, r));
        }
        AddShardsJob job = from;
        job.parts = here.data();
        job.y = at(job.y, r);
        return rank.add_shards(job);
    });
    T5K_TRY(done);
    for (size_t r = 0; r < ranks_.size(); ++r) T5K_TRY(mark(read_, r));
    reduced_.insert(from.parts[0]);
    enter();
    return Status::good();
}

Status CudaGroup::store_kv(const StoreJob *jobs, int n) {
    return each([&](CudaDevice &rank, size_t r) {
        std::vector<StoreJob> own;
        for (int i = 0; i < n; ++i) {
            if (jobs[i].rank != static_cast<int64_t>(r)) continue;
            StoreJob job = jobs[i];
            job.k = at(job.k, r);
            job.v = at(job.v, r);
            job.cache.k = at(job.cache.k, r);
            job.cache.v = at(job.cache.v, r);
            own.push_back(job);
        }
        return own.empty() ? Status::good() : rank.store_kv(own.data(), static_cast<int>(own.size()));
    });
}

Status CudaGroup::attend(const AttendJob *jobs, int n) {
    return each([&](CudaDevice &rank, size_t r) {
        std::vector<AttendJob> own;
        for (int i = 0; i < n; ++i) {
            if (jobs[i].rank != static_cast<int64_t>(r)) continue;
            AttendJob job = jobs[i];
            job.q = at(job.q, r);
            job.out = at(job.out, r);
            job.append_k = at(job.append_k, r);
            job.append_v = at(job.append_v, r);
            job.cache.k = at(job.cache.k, r);
            job.cache.v = at(job.cache.v, r);
            own.push_back(job);
        }
        return own.empty() ? Status::good() : rank.attend(own.data(), static_cast<int>(own.size()));
    });
}

// All columns in the first GPU's y: written there by each rank through peer access, else copied row by row.
Status CudaGroup::linear_joined(LinearJob *jobs, int n) {
    if (!ranks_[0]->is_stepping()) T5K_TRY(scatter());
    const Status done = each([&](CudaDevice &rank, size_t r) {
        if (r >= static_cast<size_t>(n) || jobs[r].columns <= 0) return Status::good();
        LinearJob job = jobs[r];
        job.x = at(job.x, r);
        job.y = at(jobs[r].y, are_peers_ ? 0 : r);
        T5K_TRY(rank.linear(&job, 1));
        for (int64_t row = 0; r > 0 && !are_peers_ && !is_rewriting() && row < job.R; ++row)
            T5K_TRY(send(number(at(jobs[r].y, 0) + row * job.ldy), 0, number(job.y + row * job.ldy), r, job.columns * 4, r));
        return Status::good();
    });
    T5K_TRY(done);
    return is_rewriting() ? Status::good() : gather();
}

// The same for each row's maxima per panel: [R, panels] on the first GPU.
Status CudaGroup::join_maxima(LinearJob *head, int n, int64_t *panels) {
    std::vector<int64_t> own(ranks_.size(), 0), before(ranks_.size(), 0);
    *panels = 0;
    for (size_t r = 0; r < static_cast<size_t>(n); ++r) {
        before[r] = *panels;
        *panels += own[r] = panel_count(std::max<int64_t>(head[r].columns, 0));
    }
    const Status done = each([&](CudaDevice &rank, size_t r) {
        if (own[r] == 0) return Status::good();
        LinearJob job = head[r];
        job.epilogue = EPILOGUE_ARGMAX;
        job.x = at(job.x, r);
        Best *there = ranks_[0]->parts_.parts + before[r], *here = are_peers_ ? there : rank.parts_.parts + before[r];
        job.gpu.best = here;
        job.gpu.best_stride = *panels;
        T5K_TRY(rank.launch_linear(job));
        for (int64_t row = 0; r > 0 && !are_peers_ && !is_rewriting() && row < job.R; ++row)
            T5K_TRY(send(number(there + row * *panels), 0, number(here + row * *panels), r,
                         own[r] * static_cast<int64_t>(sizeof(Best)), r));
        return Status::good();
    });
    T5K_TRY(done);
    return is_rewriting() ? Status::good() : gather();
}

// ---- steps ----------------------------------------------------------------------------------------------------------

Status CudaGroup::bind_rows(const std::vector<StepRow> &rows, const std::vector<int32_t> &eos) {
    return each([&](CudaDevice &rank, size_t) { return rank.bind_rows(rows, eos); });
}

Status CudaGroup::begin_step(const StepShape &shape, bool *issues) {
    for (size_t r = ranks_.size(); r-- > 0;) {
        ranks_[r]->enter();
        T5K_TRY(ranks_[r]->take_up(shape));
    }
    const Phase phase = ranks_[0]->phase_;
    *issues = phase != Phase::replay;
    // Whatever went before is over, for every GPU, when the step begins (a recorded one: when it is launched).
    if (phase == Phase::run) T5K_TRY(gather());
    if (phase == Phase::capture) T5K_TRY(first().begin_capture());
    if (phase == Phase::run || phase == Phase::capture) T5K_TRY(scatter());
    reduced_.clear();
    return Status::good();
}

Status CudaGroup::choose(LinearJob *head, int n, float *logits, int64_t ld, int64_t V) {
    int64_t panels = 0;
    if (ranks_[0]->plan_->first.needs_scores)
        T5K_TRY(linear_joined(head, n));
    else
        T5K_TRY(join_maxima(head, n, &panels));
    T5K_TRY(first().choose_token(panels, at(logits, 0), ld, V));
    if (is_rewriting()) return Status::good();
    const StepState &from = ranks_[0]->batch_.state;  // position lies behind token
    const int64_t bytes = static_cast<int64_t>(number(from.position) - number(from.token)) + from.R * 4;
    for (size_t r = 1; r < ranks_.size(); ++r)
        T5K_TRY(send(number(ranks_[r]->batch_.state.token), r, number(from.token), 0, bytes, 0));
    return Status::good();
}

Status CudaGroup::end_step() {
    const Phase phase = ranks_[0]->phase_;
    if (phase == Phase::capture) {
        T5K_TRY(gather());
        T5K_TRY(first().end_capture());
    }
    if (phase == Phase::capture || phase == Phase::refresh)
        T5K_TRY(each([](CudaDevice &rank, size_t) { return rank.upload_records(); }));
    T5K_TRY(gather());
    if (phase != Phase::run) T5K_TRY(first().launch_graph());
    T5K_TRY(scatter());
    reduced_.clear();
    for (size_t r = 1; r < ranks_.size(); ++r) ranks_[r]->leave_step();
    return first().deliver();
}

}  // namespace t5k::cuda
