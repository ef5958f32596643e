// Attention over latents (MLA): what is cached of a token is one small vector, of which all heads' keys and values are
// made. They never are: a head's query is taken to the latents instead, and what it finds there from the latents.
#pragma once

#include <string>
#include <vector>

#include "operators_attention.h"
#include "operators_linear.h"

namespace ridgeline {

// A latent [rank] and a turned key, side by side, to the key tile of a cache that has no other.
class LatentWrite final : public Operator {
 public:
  LatentWrite(std::string name, View latent, View turned, KvPlace place);
  void run(const StepContext& context, Worker& worker) override;
  std::size_t scratch_bytes(const Kernels&) const override;

 private:
  View latent_, turned_;
  KvPlace place_;
};

class LatentAttention final : public Operator {
 public:
  struct Spec {
    View q, turned, out;  // of all heads: [nope], [rope] and [value] channels each
    KvPlace place;
    std::int64_t num_heads;
    float scale;
    std::vector<PackedMatrix> absorb;  // of each head [rank, nope]
    std::vector<PackedMatrix> expand;  // of each head [value, rank]
  };
  LatentAttention(std::string name, Spec spec);
  void run(const StepContext& context, Worker& worker) override;
  std::size_t scratch_bytes(const Kernels& kernels) const override;
  std::size_t shared_bytes(const Kernels&, std::int64_t max_rows) const override;
  const Attention& over_latents() const { return over_latents_; }

 private:
  // x[:, head's columns] times the head's matrix, for all heads.
  void each_head(const StepContext& context, Worker& worker, const std::vector<PackedMatrix>& matrices, const float* x,
                 std::int64_t ldx, float* y, std::int64_t ldy, std::int64_t y_columns) const;

  Spec spec_;
  Attention over_latents_;
};

}  // namespace ridgeline
