// Several GPUs as one device: rank r of a tensor-parallel model runs on GPU r, with a context, stream, module and memory of its
// own there, and its own shards of the weights and caches.
//
// Memory is named by logical addresses that no GPU has: one block of `allocate` is a block on every GPU (so the residual and
// the norms are computed on each, the same way), one of `allocate_shards` an equal part on each. Jobs are translated rank by
// rank; a forgotten translation faults. Work of different GPUs meets in four places, ordered by events and nothing else:
//
//   all-reduce  every rank adds all parts to its own copy of the residual, in rank order: the sums of one GPU, bit for bit.
//               Parts of others are read through peer access, or copied over first where there is none. A part is written again
//               only after every rank has read it.
//   head        each rank's columns, or its partial maxima, go to the first GPU, which chooses the tokens
//   feedback    chosen tokens and positions go from the first GPU to the others
//   steps       begin on all GPUs after, and end before, work of the first: one step is one graph over all GPUs, captured on
//               the first one's stream, which forks to the others by events and joins them again
//
// Executed on the simulator only; not yet run on GPUs.
#pragma once

#include <algorithm>
#include <functional>
#include <set>

#include "device/cuda.h"
#include "device/cuda_steps.h"

namespace t5k::cuda {

class CudaGroup final : public Device {
   public:
    // The first `ranks` devices of `driver`.
    static Status open(const Driver &driver, const void *image, int activations, int ranks,
                       std::unique_ptr<Device> *out) {
        std::unique_ptr<CudaGroup> group(new CudaGroup(driver));
        T5K_TRY(group->start(image, activations, ranks));
        *out = std::move(group);
        return Status::good();
    }

    ~CudaGroup() override {
        quiet();
        for (size_t r = 0; r < ranks_.size(); ++r) {
            ranks_[r]->enter();
            ranks_[r]->forget_plans();
            for (const std::vector<CUevent> *events : {&ready_, &read_, &turn_})
                if (r < events->size() && (*events)[r]) driver_.event_destroy((*events)[r]);
        }
    }

    void enter() override { ranks_[0]->enter(); }
    Storage storage() const override { return ranks_[0]->storage(); }

    std::string describe() const override {
        const std::string words = std::to_string(ranks_.size()) + " GPUs";
        return words + (are_peers_ ? " with peer access" : ", sums copied between them (no peer access)");
    }

    Status allocate(int64_t bytes, void **out) override { return take(bytes, bytes, false, out); }
    Status allocate_shards(int64_t bytes, int64_t shards, void **out) override {
        return shards == count() ? take(bytes, bytes / shards, true, out) : take(bytes, bytes, false, out);
    }

    void release(void *memory, int64_t bytes) override {
        const auto found = blocks_.find(number(memory));
        if (found == blocks_.end()) return;
        quiet();
        for (const auto &rank : ranks_) rank->enter(), rank->forget_plans();
        for (size_t r = 0; r < found->second.at.size(); ++r) ranks_[r]->release(found->second.at[r], bytes);
        blocks_.erase(found);
        reduced_.clear();
    }

    Status reserve(const Reservation &most) override {
        if (ranks_[0]->has_room(most)) return Status::good();
        quiet();
        return each([&](CudaDevice &rank, size_t) { return rank.reserve(most); });
    }

    Status bind(const void *host, int64_t bytes, int64_t rank) override {
        return each([&](CudaDevice &one, size_t r) {
            return rank < 0 || rank == static_cast<int64_t>(r) ? one.bind(host, bytes, rank) : Status::good();
        });
    }

    Status embed(const void *table, int format, const int32_t *ids, int64_t R, int64_t E, float *y, int64_t ldy) override {
        return each([&](CudaDevice &rank, size_t r) { return rank.embed(table, format, ids, R, E, at(y, r), ldy); });
    }
    Status rms_norm(const float *x, int64_t ldx, const float *w, float *y, int64_t ldy, int64_t R, int64_t E, float eps,
                    float out_scale) override {
        return each([&](CudaDevice &rank, size_t r) {
            return rank.rms_norm(at(x, r), ldx, w, at(y, r), ldy, R, E, eps, out_scale);
        });
    }
    Status linear(t5k::LinearJob *jobs, int n) override;
    Status linear_joined(t5k::LinearJob *jobs, int n) override;
    Status add_shards(const float *const *parts, int n, int64_t ld, float *y, int64_t ldy, int64_t R, int64_t N) override;
    Status store_kv(const StoreJob *jobs, int n) override;
    Status attend(const t5k::AttendJob *jobs, int n) override;

    bool runs_ahead() const override { return true; }
    Status bind_rows(const std::vector<t5k::StepRow> &rows, const std::vector<int32_t> &eos) override {
        return each([&](CudaDevice &rank, size_t) { return rank.bind_rows(rows, eos); });
    }
    Status begin_step(const StepShape &shape, bool *issues) override;
    Status choose(t5k::LinearJob *head, int n, float *logits, int64_t ld, int64_t V) override;
    Status end_step() override;
    Status take(t5k::Chosen *chosen) override { return first().take(chosen); }
    Status beam_candidates(int first_row, int n, const float *scores, int wanted, t5k::BeamCandidate *out) override {
        return first().beam_candidates(first_row, n, scores, wanted, out);
    }

    // Of what every rank has, the first one's; of shards, the owner's.
    Status read(void *host, const void *memory, int64_t bytes) override {
        const size_t r = owner(memory);
        ranks_[r]->enter();
        return ranks_[r]->read(host, at(memory, r), bytes);
    }
    Status read_numbers(float *host, const float *memory, int64_t n) override {
        const size_t r = owner(memory);
        ranks_[r]->enter();
        return ranks_[r]->read_numbers(host, at(memory, r), n);
    }
    Status copy(void *to, const void *from, int64_t bytes) override {
        const Block *block = find(to);
        const size_t only = owner(to);
        return each([&](CudaDevice &rank, size_t r) {
            return block && block->is_cut && r != only ? Status::good() : rank.copy(at(to, r), at(from, r), bytes);
        });
    }

   private:
    explicit CudaGroup(const Driver &driver) : driver_(driver) {}

    using Phase = CudaDevice::Phase;

    struct Block {
        int64_t bytes = 0, part = 0;  // part: of one rank
        bool is_cut = false;
        std::vector<void *> at;       // per rank
    };

    static uintptr_t number(const void *p) { return reinterpret_cast<uintptr_t>(p); }
    int64_t count() const { return static_cast<int64_t>(ranks_.size()); }
    CudaDevice &first() {
        ranks_[0]->enter();
        return *ranks_[0];
    }
    bool is_rewriting() const { return ranks_[0]->phase_ == Phase::refresh; }

    Status start(const void *image, int activations, int ranks);
    Status meet();

    // `work` on every rank, its context current; the first failure, with the GPU's name.
    template <class F>
    Status each(F work) {
        for (size_t r = 0; r < ranks_.size(); ++r) {
            ranks_[r]->enter();
            Status status = work(*ranks_[r], r);
            if (!status.ok()) return status.message = "GPU " + std::to_string(r) + ": " + status.message, status;
        }
        enter();
        return Status::good();
    }

    // Waits for all GPUs.
    void quiet() {
        for (const auto &rank : ranks_)
            if (rank->stream_) rank->enter(), driver_.stream_synchronize(rank->stream_);
        if (!ranks_.empty()) enter();
    }

    Status take(int64_t bytes, int64_t part, bool is_cut, void **out) {
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

    const Block *find(const void *logical) const {
        auto it = blocks_.upper_bound(number(logical));
        if (it == blocks_.begin()) return nullptr;
        --it;
        return number(logical) < it->first + static_cast<uintptr_t>(it->second.bytes) ? &it->second : nullptr;
    }
    int64_t offset(const void *logical) const {
        return static_cast<int64_t>(number(logical) - std::prev(blocks_.upper_bound(number(logical)))->first);
    }
    size_t owner(const void *logical) const {
        const Block *block = find(logical);
        return block && block->is_cut ? static_cast<size_t>(offset(logical) / block->part) : 0;
    }
    // Where rank r has it. Null stays null; what is not ours stays as it is, and no GPU has it.
    template <class T>
    T *at(T *logical, size_t r) const {
        const Block *block = logical ? find(logical) : nullptr;
        if (!block) return logical;
        const int64_t from = block->is_cut ? static_cast<int64_t>(r) * block->part : 0;
        return reinterpret_cast<T *>(number(block->at[r]) + static_cast<uintptr_t>(offset(logical) - from));
    }

    // ---- order between GPUs (cuda_group_ops.h) ----

    Status mark(std::vector<CUevent> &events, size_t r) {
        ranks_[r]->enter();
        return ranks_[r]->check(driver_.event_record(events[r], ranks_[r]->stream_), "cuEventRecord");
    }
    Status wait_for(std::vector<CUevent> &events, size_t waits, size_t r) {
        ranks_[waits]->enter();
        return ranks_[waits]->check(driver_.stream_wait(ranks_[waits]->stream_, events[r], 0), "cuStreamWaitEvent");
    }
    Status wait_for_all(std::vector<CUevent> &events);
    Status gather();
    Status scatter();
    Status join_maxima(t5k::LinearJob *head, int n, int64_t *panels);
    Status send(CUdeviceptr to, size_t to_rank, CUdeviceptr from, size_t from_rank, int64_t bytes, size_t on);

    const Driver driver_;
    std::vector<std::unique_ptr<CudaDevice>> ranks_;
    std::vector<CUevent> ready_, read_, turn_;  // per rank: its part is there; it has read all parts; where its stream stands
    bool are_peers_ = false;
    std::map<uintptr_t, Block> blocks_;  // by logical address
    uintptr_t next_ = uintptr_t{1} << 60;
    std::set<const void *> reduced_;  // parts that others may still be reading
};

}  // namespace t5k::cuda
