// softplus and sigmoid, for the gates of recurrences.
#pragma once

#include "simd.h"

namespace ridgeline::RIDGELINE_ISA {

// log(1 + e^x) = max(x, 0) + log(1 + z), z = e^-|x|, within 4 ulp; log(1 + z) = 2 artanh(s), s = z / (2 + z) <= 1/3, by
// its series up to s^17 (remainder 3e-10).
static inline Vec softplus(Vec x) {
  const Vec z = exp(sub(zeros(), absolute(x)));
  const Vec s = div(z, add(all(2.0f), z)), square = mul(s, s);
  Vec p = all(1.0f / 17);
  p = fma(p, square, all(1.0f / 15));
  p = fma(p, square, all(1.0f / 13));
  p = fma(p, square, all(1.0f / 11));
  p = fma(p, square, all(1.0f / 9));
  p = fma(p, square, all(1.0f / 7));
  p = fma(p, square, all(1.0f / 5));
  p = fma(p, square, all(1.0f / 3));
  p = fma(p, square, all(1.0f));
  return fma(add(s, s), p, max(zeros(), x));
}

static inline Vec sigmoid(Vec x) { return div(all(1.0f), add(all(1.0f), exp(sub(zeros(), x)))); }

}  // namespace ridgeline::RIDGELINE_ISA
