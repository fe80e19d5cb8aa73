// The T5 forward passes, written once over the op interface (device/device.h).
#pragma once

#include <memory>
#include <vector>

#include "device/device.h"
#include "model/weights.h"

namespace t5k {

// Device memory that grows and is released with its owner.
class Buffer {
   public:
    Buffer() = default;
    ~Buffer() { reset(); }
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;

    // Room for `numbers` of `size` bytes each; zeroed whenever it grows. shards: ranks that use an equal part each (device.h);
    // 1: all use all.
    Status reserve(Device &device, int64_t numbers, int64_t size = 4, int64_t shards = 1);
    void reset();
    float *data() const { return data_; }
    float *at(int64_t number) const { return advanced(data_, number, size_); }

   private:
    Device *device_ = nullptr;
    float *data_ = nullptr;
    int64_t bytes_ = 0, size_ = 4;
};

// Row stride of an activation buffer: room for the zero padding that packed formats read, and an odd number of cache
// lines, so that the rows of a column do not share a few cache sets.
inline int64_t stride_of(int64_t width) { return round_up(width, 32) + 16; }

// Activations of one pass over R rows. Every buffer is [ranks][R][stride]; the residual is not cut. Residual and partial
// are fp32, the others stored numbers of the device.
struct Activations {
    Buffer residual, normed, wide, mixed, hidden, partial;
    int64_t rows = 0;
    bool is_tiled = false;  // its products take many rows at a time, however many there are today
};

// Keys and values of all decoder layers: [rank][layer][head][...] of ops/attention.h, capacity positions.
struct LayerCache {
    Buffer k, v;
    int64_t capacity = 0, size = 4;

    HeadCache at(const t5k_config &c, int64_t layer, int64_t rank) const;
    Status reserve(Device &device, const t5k_config &c, int64_t positions);
};

// One decoder row of a step.
struct Row {
    int32_t token;
    int64_t position;   // of `token`; the step appends its key and value there
    LayerCache *self;   // this row's own
    LayerCache *cross;  // the request's, shared by its beams
    int64_t source;     // valid positions of cross
};

struct Sequence {
    const int32_t *ids;
    int64_t length;
};

class Model {
   public:
    Model(const t5k_config &config, std::unique_ptr<Device> device);

    Status bind(const t5k_tensor *tensors, int32_t count);
    const t5k_config &config() const { return config_; }
    Device &device() { return *device_; }

    // Makes room for passes of this size; the only place that allocates.
    Status reserve_encoder(int64_t rows, int64_t longest, int sequences);
    Status reserve_decoder(int64_t rows);

    // Final-normed rows of all sequences, end to end, padding removed: [sum of lengths, E] at *out, stride *ld.
    Status encode(const Sequence *sequences, int n, const float **out, int64_t *ld);

    // Fills cross[i] (reserved by the caller) from the rows of the last encode().
    Status fill_cross(const Sequence *sequences, int n, LayerCache *const *cross);

    // One decode step up to the final norm.
    Status decode(const Row *rows, int n);

    // Issues one step of a device that runs ahead (device/steps.h): decode and choose. rows: as many as the shape says.
    Status step(const Row *rows, const StepShape &shape);

    // Over the rows of the last decode(): all logits [n, stride] at *out, or only each row's best.
    Status logits(int n, const float **out, int64_t *ld);
    Status best(int n, Best *out);

   private:
    Status attention_in(Activations &a, const float *norm, const Sharded &w, int64_t R);
    Status project(Activations &a, const Sharded &w, const Buffer &x, int64_t width, int64_t R, float out_scale = 1.0f);
    Status linear(const Activations &a, size_t n);
    Status feed_forward(Activations &a, const LayerWeights &layer, int64_t R);
    Status encoder_layer(const LayerWeights &layer, const Sequence *sequences, int n, int64_t R);
    Status decoder_layer(const LayerWeights &layer, int64_t index, const Row *rows, int n);
    void head_jobs(const Sharded &w, int n, float *out, int64_t ld);
    void column_jobs(const Sharded &w, const float *x, int64_t ldx, float *y, int64_t ldy, int64_t R, Epilogue epilogue);
    Status reserve_rows(Activations &a, int64_t rows);

    int64_t ranks() const { return config_.ranks; }
    int64_t inner() const { return int64_t{config_.heads} / config_.ranks * config_.d_kv; }
    int64_t hidden() const { return config_.d_ff / config_.ranks; }

    t5k_config config_;
    std::unique_ptr<Device> device_;
    Weights weights_;
    Activations encoder_, decoder_;
    LayerCache scratch_cache_;  // the encoder's keys and values, one layer at a time
    Buffer logits_;
    std::vector<LinearJob> jobs_, fine_jobs_;
    std::vector<AttendJob> attends_;
    std::vector<StoreJob> stores_;
    std::vector<const float *> parts_;
    std::vector<int32_t> ids_;
    int64_t encoded_rows_ = 0;
    Storage storage_;
};

}  // namespace t5k
