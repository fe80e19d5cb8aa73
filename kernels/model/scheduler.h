// Slots: requests join and leave at token boundaries. Static and dynamic batching are admission policies over it.
//
// A step encodes the requests that found a free slot, then runs one decode step over every running row. Memory is
// taken when a request is admitted and kept with its slot; between admissions nothing is allocated on the device.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "model/beams.h"
#include "model/model.h"

namespace t5k {

class Scheduler {
   public:
    explicit Scheduler(std::unique_ptr<Model> model);

    Status submit(const int32_t *ids, int32_t count, const t5k_params &params, int64_t *handle);
    Status cancel(int64_t handle);
    Status step(int32_t max_steps);
    const std::vector<t5k_event> &events() const { return events_; }
    int32_t waiting() const { return static_cast<int32_t>(waiting_.size()); }
    int32_t running() const;
    Status encode(const int32_t *ids, const int32_t *lengths, int32_t sequences, float *out);
    Status score(const int32_t *ids, int32_t count, const int32_t *target, int32_t targets, float *out);
    Model &model() { return *model_; }

   private:
    struct Request {
        int64_t handle = 0;
        Params params;
        Ids source;
        Ids ids;  // start id, then generated ids (one beam)
        std::unique_ptr<Beams> beams;
        bool is_cancelled = false;
        int32_t looks = 0;  // steps for which the scores are looked at before the argmax alone is tried again
    };
    struct Slot {
        std::unique_ptr<Request> request;
        LayerCache cross;
        std::vector<std::unique_ptr<LayerCache>> rows;
    };

    Status check_source(const int32_t *ids, int32_t count) const;
    void drop_cancelled();
    Status admit();
    Status admit_group(const std::vector<Slot *> &group);
    Status prepare_slot(Slot &slot);
    Status decode_once();
    Status decode_ahead();
    bool has_ended() const;  // some request, among this step's events
    bool needs_binding() const;
    Status bind();
    Status issue();
    bool has_more() const;
    Status collect();
    Status advance_beams(Slot &slot, int first);
    Status choose(const std::vector<Slot *> &active);
    Status choose_greedy(const std::vector<Slot *> &active);
    Status choose_one(Slot &slot, const float *logits, double logsum);
    Status choose_beams(Slot &slot, const float *logits, int64_t ld, const double *logsum);
    Status inherit(Slot &slot, int64_t positions);
    Status copy_cache(LayerCache &to, const LayerCache &from, int64_t positions);
    void emit(Slot &slot, int32_t token, float logprob);
    void emit_hypotheses(Slot &slot);

    std::unique_ptr<Model> model_;
    std::vector<std::unique_ptr<Slot>> slots_;
    std::deque<std::unique_ptr<Request>> waiting_;
    std::vector<t5k_event> events_;
    std::vector<Row> rows_;
    std::vector<Best> best_;
    std::vector<double> logsums_;
    std::vector<float> scores_, scratch_;
    int64_t next_handle_ = 1;

    // Devices that run ahead: the rows they go on with. A beam's rows follow each other.
    struct BoundRow {
        Slot *slot = nullptr;  // null: padding
        int64_t handle = 0;
    };
    std::vector<BoundRow> bound_;
    std::vector<Chosen> chosen_;
    bool has_beams_ = false;
    int in_flight_ = 0;  // steps issued and not yet collected
    LayerCache idle_;    // what padding rows name
};

}  // namespace t5k
