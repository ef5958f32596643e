// A convolution over the frames of whole rows. As in operators.h, every thread calls run().
#pragma once

#include <cstdint>
#include <string>

#include "operators.h"

namespace ridgeline {

// Tokens carry `frames` frames of `channels` side by side; out of every `stride` frames comes one, of matrix.n channels.
// The matrix is [channels out][taps][channels in], so that a frame's inputs are the frames around it, one after another.
class Conv1d final : public Operator {
 public:
  struct Spec {
    View x, y;
    PackedMatrix matrix;
    const float* bias;
    std::int64_t taps, frames, stride, channels;
  };
  Conv1d(std::string name, Spec spec);
  void run(const StepContext& context, Worker& worker) override;
  std::size_t scratch_bytes(const Kernels& kernels) const override;

 private:
  void gather(const StepContext& context, const StepRow& row, std::int64_t frame, float* out) const;

  Spec spec_;
};

}  // namespace ridgeline
