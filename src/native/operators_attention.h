// The operators that touch the cache: what goes into it, and attention over it. As in operators.h, every thread calls
// run().
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kv_place.h"
#include "operators.h"

namespace ridgeline {

// cos and sin of every position, computed when first needed.
struct RopeTable {
  std::vector<double> frequencies;
  double magnitude;
  Memory memory;
  std::int64_t num_ready = 0;

  const float* data() const { return reinterpret_cast<const float*>(memory.data()); }
  void extend(std::int64_t num_positions);
};

// Channels of a head that can turn by several positions.
inline constexpr std::int64_t kMostTurnedByAxes = 1024;

// Rope, KvWrite and RopeKvWrite: heads of q are normalised and rotated into `q_out`, heads of k and v go to the cache.
class HeadsToCache final : public Operator {
 public:
  struct Spec {
    std::int64_t head_dim = 0;
    std::int64_t q_heads = 0;  // 0: no q
    View q, q_out;
    bool writes_kv = false;
    KvPlace place{};
    View k, v;
    const RopeTable* table = nullptr;  // none: not rotated
    bool interleaved = false;
    std::vector<std::int32_t> axes;  // of each pair; empty: a token has one position
    std::int64_t first = 0, every = 1;  // see the graph's Rope
    bool has_q_norm = false, has_k_norm = false;
    NormArgs q_norm{}, k_norm{};
  };
  HeadsToCache(std::string name, std::string type, Spec spec);
  void run(const StepContext& context, Worker& worker) override;
  std::size_t scratch_bytes(const Kernels&) const override;

 private:
  void turn_query(const StepContext& context, const Segment& segment, std::int64_t head) const;
  std::byte* tile(const StepContext& context, const Segment& segment, std::int64_t head) const;
  void write(const StepContext& context, Worker& worker, const Segment& segment, std::int64_t head) const;
  void prefetch(const StepContext& context, const Segment& segment, std::int64_t head) const;
  void turn(const StepContext& context, const NormArgs* norm, const float* x, std::int64_t ldx, float* y,
            std::int64_t ldy, const Segment& segment) const;
  void turn_by_axes(const StepContext& context, const RopeArgs& args, const float* x, std::int64_t ldx, float* y,
                    std::int64_t ldy, const Segment& segment) const;

  Spec spec_;
};

class Attention final : public Operator {
 public:
  struct Spec {
    View q, out;
    KvPlace place;
    std::int64_t num_heads;
    float scale, softcap;
    bool causal;
    std::int64_t ahead;
    const float* sinks = nullptr;  // of each head, or null
    bool chunked = false;
    bool whole_images = false;     // a token of an image sees all of the image
    bool parts = false;            // a token sees its part of its row, as the step tells it
  };
  Attention(std::string name, Spec spec);
  void run(const StepContext& context, Worker& worker) override;
  bool asks_for_next() const override { return true; }
  bool foretells() const override { return true; }
  void foretell(const StepContext& context, int thread, int num_threads, CacheReads& reads) const override;
  std::size_t scratch_bytes(const Kernels& kernels) const override;
  // Where outputs go, in a step whose values another operator places; by one thread, before a barrier.
  void place_output(const View& out) { spec_.out = out; }
  // Floats of `num_chunks` chunks of one token, all heads.
  std::int64_t partials_floats(std::int64_t num_chunks) const;
  const CacheAttention& attention_of(const Kernels& kernels) const {
    return kernels.cache_attention[static_cast<int>(spec_.place.format)];
  }
  // Heads that go over keys together, and how many such groups there are: those of a KV head, or where all share the
  // only one, as many as keep a kernel's tile full.
  std::int64_t num_groups() const;
  AttentionArgs args(const StepContext& context, const StepRow& row, std::int64_t kv_head) const;

 private:
  bool splits_context(const StepContext& context, int num_threads) const;
  void run_whole(const StepContext& context, Worker& worker) const;
  void run_decode(const StepContext& context, Worker& worker) const;
  void run_split(const StepContext& context, Worker& worker) const;

  Spec spec_;
};

}  // namespace ridgeline
