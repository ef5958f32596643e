// Linear and GatedLinear: packed weights times a value's rows, parted over threads by rows and output channels.
#pragma once

#include <string>
#include <vector>

#include "operators.h"

namespace ridgeline {

// One weight of a linear; its outputs are columns [column, column + matrix.n).
struct LinearPart {
  PackedMatrix matrix;
  ActivationKind kind;
  const float* bias;
  std::int64_t column;
};

// Asks memory for the first weights of a run of strips that begins here, which kernels of `rows` rows do not ask for.
void ask_for_weights(const std::byte* first, std::int64_t rows);

// A value that linears multiply. Where it does not lie as activations already, they are made here, for a pass and a
// barrier.
class LinearInput {
 public:
  LinearInput(View x, const std::vector<LinearPart>& parts);
  const View& view() const { return x_; }
  // Bytes of a row in the shared activations.
  std::size_t shared_bytes(const Kernels& kernels) const;
  // Called by all threads before `at`.
  void prepare(const StepContext& context, Worker& worker) const;
  // Makes activations of rows [begin, end): what `prepare` has done for all.
  void quantize(const StepContext& context, std::int64_t begin, std::int64_t end) const;
  // Activations of `kind` from this row on.
  const std::byte* at(const StepContext& context, ActivationKind kind, std::int64_t row) const;

 private:
  View x_;
  std::vector<ActivationKind> kinds_;
};

// The matrix from a strip on; its packed strips lie one after another.
PackedMatrix from_strip(const Kernels& kernels, const PackedMatrix& matrix, std::int64_t strip);

class Linear final : public Operator {
 public:
  Linear(std::string name, View x, View y, std::vector<LinearPart> parts);
  void run(const StepContext& context, Worker& worker) override;
  void ask_ahead(const StepContext& context, int thread, int num_threads) const override;
  bool has_weights() const override { return true; }
  std::size_t scratch_bytes(const Kernels& kernels) const override { return kernels.linear_scratch_bytes(); }
  std::size_t shared_activation_bytes(const Kernels& kernels) const override { return x_.shared_bytes(kernels); }

 private:
  void multiply(const StepContext& context, Worker& worker, std::int64_t strip_begin, std::int64_t strip_end,
                std::int64_t row_begin, std::int64_t row_end) const;

  // Of a row of activations, of the widest kind.
  std::int64_t row_bytes(const Kernels& kernels) const;

  LinearInput x_;
  View y_;
  std::vector<LinearPart> parts_;
  std::int64_t num_strips_ = 0;
};

// activation(gate) * up, where gate and up are the two halves of a linear's output channels, in one part each or both in
// one. The halves never lie in memory: a thread computes a few channels of both for some rows in its own cache, and
// what it makes of them goes to y as float32 or as activations.
class GatedLinear final : public Operator {
 public:
  GatedLinear(std::string name, View x, View y, std::vector<LinearPart> parts, Activation activation);
  void run(const StepContext& context, Worker& worker) override;
  void ask_ahead(const StepContext& context, int thread, int num_threads) const override;
  bool has_weights() const override { return true; }
  std::size_t scratch_bytes(const Kernels& kernels) const override;
  std::size_t shared_activation_bytes(const Kernels& kernels) const override { return x_.shared_bytes(kernels); }

 private:
  void item(const StepContext& context, Worker& worker, std::int64_t row_begin, std::int64_t row_end,
            std::int64_t channel_begin, std::int64_t channel_end) const;
  std::int64_t half(const StepContext& context, Worker& worker, const LinearPart& part, std::int64_t first,
                    std::int64_t count, std::int64_t row_begin, std::int64_t rows, float* out, std::int64_t ldo) const;

  LinearInput x_;
  View y_;
  std::vector<LinearPart> parts_;
  Activation activation_;
};

}  // namespace ridgeline
