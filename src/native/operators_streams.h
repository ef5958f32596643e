// Operators on several residual streams, and linears of groups of channels.
#pragma once

#include <string>
#include <vector>

#include "operators.h"

namespace ridgeline {

// A matrix for each group of channels.
class BlockLinear final : public Operator {
 public:
  struct Block {
    PackedMatrix matrix;
    const float* bias;
  };
  BlockLinear(std::string name, View x, View y, std::vector<Block> blocks);
  void run(const StepContext& context, Worker& worker) override;
  std::size_t scratch_bytes(const Kernels& kernels) const override;

 private:
  View x_, y_;
  std::vector<Block> blocks_;
};

class Mix final : public Operator {
 public:
  Mix(std::string name, std::vector<View> x, View numbers, std::vector<View> y, float offset);
  void run(const StepContext& context, Worker& worker) override;

 private:
  std::vector<View> x_, y_;
  View numbers_;
  float offset_;
};

// By what streams are mixed: see the graph's StreamWeights.
class StreamWeights final : public Operator {
 public:
  struct Spec {
    std::vector<View> x;
    View one, again;                      // again: not there if `last`
    std::vector<PackedMatrix> matrices;   // of each stream, f32
    const float *bias, *scales;
    std::int64_t iterations;
    float eps, floor;
    bool last;
  };
  StreamWeights(std::string name, Spec spec);
  void run(const StepContext& context, Worker& worker) override;
  std::size_t scratch_bytes(const Kernels& kernels) const override;

 private:
  void weigh(const float* y, float* one, float* again) const;

  Spec spec_;
};

class MatchSize final : public Operator {
 public:
  MatchSize(std::string name, View x, View like, View y, float floor);
  void run(const StepContext& context, Worker& worker) override;

 private:
  View x_, like_, y_;
  float floor_;
};

// A number for each column.
class ScaleColumns final : public Operator {
 public:
  ScaleColumns(std::string name, View x, View y, const float* factors);
  void run(const StepContext& context, Worker& worker) override;

 private:
  View x_, y_;
  const float* factors_;
};

class KeepLargest final : public Operator {
 public:
  KeepLargest(std::string name, View x, View y, float z);
  void run(const StepContext& context, Worker& worker) override;

 private:
  View x_, y_;
  float z_;
};

class Xielu final : public Operator {
 public:
  Xielu(std::string name, View x, View y, float positive, float negative);
  void run(const StepContext& context, Worker& worker) override;

 private:
  View x_, y_;
  float positive_, negative_;
};

}  // namespace ridgeline
