// norm: what the program needs of the family.
#pragma once

#include <cstdint>

namespace ridgeline {

// Normalises each of `groups` slices of `width` channels of a row. weight has the offset added already; bias only for
// layer norm, and may be null there. by_group: each slice has weights of its own, one after another.
struct NormArgs {
  bool layer;
  float eps;
  std::int64_t groups;
  std::int64_t width;
  const float* weight;
  const float* bias;
  bool by_group = false;

  // Of one slice.
  NormArgs slice(std::int64_t group) const {
    NormArgs out = *this;
    if (by_group) {
      out.weight += group * width;
      if (bias) out.bias += group * width;
    }
    return out;
  }
};

}  // namespace ridgeline
