// Route and Experts: which experts a token goes to, and gated units of which each token has its own few.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "operators_linear.h"

namespace ridgeline {

enum class RouteScores { softmax, sigmoid, sqrt_softplus };

// x [rows, width] -> slots [rows, 2 top_k]: numbers of experts, best first, then their weights. The router is float32
// whatever its file stores: an expert chosen by rounding would be another answer.
class Route final : public Operator {
 public:
  struct Spec {
    View x, slots;
    PackedMatrix router;  // f32
    const float* bias;        // of the logits, or null
    const float* correction;  // of what experts are chosen by, or null
    std::int64_t top_k;
    RouteScores scores;
    bool normalize;
    float scale;
    std::int64_t num_groups, top_groups, group_best;
    const float* gain = nullptr;  // of each expert's weight at the end, or null
    double jitter = -1;           // below 0: not sparse
    std::vector<std::int32_t> table{};  // of each token id, the experts that it has; empty: they are chosen
  };
  Route(std::string name, const Spec& spec, const Kernels& kernels);
  void run(const StepContext& context, Worker& worker) override;
  std::size_t scratch_bytes(const Kernels& kernels) const override;
  std::size_t shared_activation_bytes(const Kernels& kernels) const override { return x_.shared_bytes(kernels); }
  std::size_t shared_bytes(const Kernels&, std::int64_t max_rows) const override;

 private:
  // given: the experts that the token has, or null.
  void choose(const float* logits, const std::int32_t* given, float* slots, std::byte* scratch) const;
  void choose_sparse(const float* logits, float* slots, std::byte* scratch) const;

  Spec spec_;
  LinearInput x_;
};

// The unit of one expert, gated or without a gate. Biases may be null.
struct Expert {
  PackedMatrix gate, up, down;
  const float *gate_bias, *up_bias, *down_bias;
};

// A step's tokens are sorted by expert, each expert multiplies its rows together, and a token adds what its experts give
// in the order of its slots: so no bit depends on who else is in the step. Only experts that a token needs are read.
class Experts final : public Operator {
 public:
  struct Spec {
    View x, slots, y;
    std::int64_t hidden, top_k;
    std::int64_t first_expert;  // of `experts`; slots of others add nothing
    std::vector<Expert> experts;
    Activation activation;
    bool weigh_input, gated;
    std::int64_t max_rows;
  };
  Experts(std::string name, Spec spec, const Kernels& kernels);
  void run(const StepContext& context, Worker& worker) override;
  std::size_t scratch_bytes(const Kernels& kernels) const override;
  std::size_t shared_bytes(const Kernels& kernels, std::int64_t max_rows) const override;
  // Of the last step: the experts of each row's slots, [rows, top_k].
  std::span<const std::int32_t> chosen() const { return {chosen_.data(), num_chosen_}; }
  std::int64_t top_k() const { return spec_.top_k; }

 private:
  struct Places;

  std::size_t tile_bytes(const Kernels& kernels) const;
  void sort(const StepContext& context, Places& places) const;
  void give_rows(const StepContext& context, Worker& worker, const Places& places);
  void multiply_hidden(const StepContext& context, Worker& worker, const Places& places) const;
  void multiply_down(const StepContext& context, Worker& worker, const Places& places) const;
  void add_up(const StepContext& context, Worker& worker, const Places& places) const;

  Spec spec_;
  ActivationKind in_[2], mid_;  // what gate and up, and what down multiply
  std::vector<std::int32_t> chosen_;  // of the most rows
  std::size_t num_chosen_ = 0;
};

// Experts that compute nothing: a row of x times what its slots of the experts from `first` on weigh together.
class ZeroExperts final : public Operator {
 public:
  ZeroExperts(std::string name, View x, View slots, View y, std::int64_t top_k, std::int64_t first);
  void run(const StepContext& context, Worker& worker) override;

 private:
  View x_, slots_, y_;
  std::int64_t top_k_, first_;
};

}  // namespace ridgeline
