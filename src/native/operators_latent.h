// Attention over latents (MLA): what is cached of a token is one small vector, of which all heads' keys and values are
// made. They never are: a head's query is taken to the latents instead, and what it finds there from the latents.
#pragma once

#include <optional>
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
    std::optional<View> chosen{};      // positions [tokens, top_k] that a token looks at
  };
  LatentAttention(std::string name, Spec spec);
  void run(const StepContext& context, Worker& worker) override;
  std::size_t scratch_bytes(const Kernels& kernels) const override;
  std::size_t shared_bytes(const Kernels&, std::int64_t max_rows) const override;
  const Attention& over_latents() const { return over_latents_; }

 private:
  std::int64_t top_k() const { return spec_.chosen ? spec_.chosen->width : 0; }
  std::size_t gathered_bytes() const;
  bool selects(const StepContext& context) const;
  // Attention of each token to its own positions: to its row's cache where these are all, else to copies of them.
  // context: with the operator's own arena; chosen: in the step's.
  void attend_chosen(const StepContext& context, const float* chosen, Worker& worker) const;
  void gather(const StepContext& context, const StepRow& row, const float* chosen, std::byte* tiles) const;
  // x[:, head's columns] times the head's matrix, for all heads.
  void each_head(const StepContext& context, Worker& worker, const std::vector<PackedMatrix>& matrices, const float* x,
                 std::int64_t ldx, float* y, std::int64_t ldy, std::int64_t y_columns) const;

  Spec spec_;
  Attention over_latents_;
  std::vector<std::int32_t> in_order_;  // the block table of what is gathered
};

// Which tokens attention looks at: the best of a row's, by small heads over one key a token.
class SelectTokens final : public Operator {
 public:
  struct Spec {
    View q_turned, q, weights, out;
    KvPlace place;
    std::int64_t heads, max_context;
  };
  SelectTokens(std::string name, Spec spec);
  void run(const StepContext& context, Worker& worker) override;
  std::size_t scratch_bytes(const Kernels& kernels) const override;

 private:
  void select(const StepContext& context, const StepRow& row, std::int64_t token, std::byte* scratch) const;

  Spec spec_;
};

}  // namespace ridgeline
