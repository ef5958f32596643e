// norm: what the program needs of the family.
#pragma once

#include <cstdint>

namespace ridgeline {

// Normalises each of `groups` slices of `width` channels of a row. weight has the offset added already; bias only for
// layer norm, and may be null there.
struct NormArgs {
  bool layer;
  float eps;
  std::int64_t groups;
  std::int64_t width;
  const float* weight;
  const float* bias;
};

}  // namespace ridgeline
