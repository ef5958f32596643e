// rg_lru and token_shift: recurrences whose state is one number a channel; 16 channels in lanes, their state in a register.
#include <cmath>

#include "family_kernels.h"
#include "softplus.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

// 1 - e^z for z <= 0, near 0 by its series up to z^9 (remainder 3e-10 of it).
inline Vec one_minus_exp(Vec z) {
  Vec p = all(1.0f);
  for (int n = 9; n >= 2; n--) p = fma(mul(z, all(1.0f / static_cast<float>(n))), p, all(1.0f));
  return select(less(z, all(-0.5f)), sub(all(1.0f), exp(z)), sub(zeros(), mul(z, p)));
}

inline Vec square_root(Vec x) {
  float lane[kWidth];
  store(lane, x);
  for (float& v : lane) v = std::sqrt(v);
  return load(lane);
}

}  // namespace

void rg_lru(const LruArgs& args, std::int64_t tile_begin, std::int64_t tile_end, std::int64_t count, float* state) {
  for (std::int64_t tile = tile_begin; tile < tile_end; tile++, state += kLanes) {
    const std::int64_t first = tile * kLanes, n = args.channels - first;
    const Vec rate = load(args.rate + first);
    Vec h = load(state);
    for (std::int64_t t = 0; t < count; t++) {
      const Vec gated = mul(sigmoid(load_n(args.i + t * args.ldi + first, n)), load_n(args.x + t * args.ldx + first, n));
      const Vec logarithm = mul(rate, sigmoid(load_n(args.r + t * args.ldr + first, n)));
      if (t == 0 && args.starts) {
        h = gated;
      } else {
        h = fma(exp(logarithm), h, mul(square_root(one_minus_exp(add(logarithm, logarithm))), gated));
      }
      store_n(args.y + t * args.ldy + first, h, n);
    }
    store(state, h);
  }
}

void token_shift(const ShiftArgs& args, std::int64_t tile_begin, std::int64_t tile_end, std::int64_t count,
                 float* state) {
  for (std::int64_t tile = tile_begin; tile < tile_end; tile++, state += kLanes) {
    const std::int64_t first = tile * kLanes, n = args.channels - first;
    Vec before = load(state);
    for (std::int64_t t = 0; t < count; t++) {
      const Vec x = load_n(args.x + t * args.ldx + first, n), change = sub(before, x);
      for (int j = 0; j < args.count; j++)
        store_n(args.y[j] + t * args.ldy[j] + first, fma(load(args.weight[j] + first), change, x), n);
      before = x;
    }
    store(state, before);
  }
}

}  // namespace ridgeline::RIDGELINE_ISA
