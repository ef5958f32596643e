// streams: what the program needs of the kernels that work among residual streams.
#pragma once

#include <cstdint>

namespace ridgeline {

// y_i = sum over j of (numbers[i * inputs + j] + offset) x_j, of each row.
constexpr int kMaxStreams = 8;
struct MixArgs {
  int inputs, outputs;
  float offset;
  const float* x[kMaxStreams];
  std::int64_t ldx[kMaxStreams];
  const float* numbers;
  std::int64_t ldn;
  float* y[kMaxStreams];
  std::int64_t ldy[kMaxStreams];
};

}  // namespace ridgeline
