// Sums over a row, in an order that depends on its width alone.
#pragma once

#include <cmath>

#include "simd.h"

namespace ridgeline::RIDGELINE_ISA {

// Four running sums over the vectors of a slice, joined as (0 + 1) + (2 + 3): the order depends on the width alone.
template <class F>
static inline float sum_over(std::int64_t width, F term) {
  Vec sums[4] = {zeros(), zeros(), zeros(), zeros()};
  std::int64_t i = 0;
  for (; i + 4 * kWidth <= width; i += 4 * kWidth)
    for (int j = 0; j < 4; j++) sums[j] = term(i + j * kWidth, kWidth, sums[j]);
  for (int j = 0; i < width; i += kWidth, j++) sums[j] = term(i, width - i, sums[j]);
  return sum(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
}

static inline Vec load_part(const float* p, std::int64_t n) { return n >= kWidth ? load(p) : load_n(p, n); }
static inline void store_part(float* p, Vec a, std::int64_t n) {
  if (n >= kWidth) {
    store(p, a);
  } else {
    store_n(p, a, n);
  }
}

// Lanes from n on are zero.
static inline Vec first_part(Vec a, std::int64_t n) {
  if (n >= kWidth) return a;
  float lane[kWidth];
  store(lane, a);
  return load_n(lane, n);
}

}  // namespace ridgeline::RIDGELINE_ISA
