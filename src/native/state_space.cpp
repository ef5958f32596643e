// state_space: the recurrences of Mamba and Mamba 2; 16 channels in lanes, a tile of their state in the first cache level.
#include <algorithm>

#include "family_kernels.h"
#include "softplus.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

constexpr std::int64_t kBlock = 64;  // tokens whose decay is computed together

// Sums over the state run in four chains, by index modulo 4, joined as (0 + 1) + (2 + 3).
inline Vec joined(const Vec (&sums)[4]) { return add(add(sums[0], sums[1]), add(sums[2], sums[3])); }

}  // namespace

void selective_scan(const SelectiveArgs& args, std::int64_t tile_begin, std::int64_t tile_end, std::int64_t count,
                    float* state) {
  for (std::int64_t tile = tile_begin; tile < tile_end; tile++, state += args.size * kLanes) {
    const std::int64_t first = tile * kLanes, n = args.channels - first;
    const float* a = args.a + tile * args.size * kLanes;
    const Vec d = load(args.d + first);
    for (std::int64_t t = 0; t < count; t++) {
      const float *b = args.b + t * args.ldb, *c = args.c + t * args.ldc;
      const Vec x = load_n(args.x + t * args.ldx + first, n);
      const Vec dt = softplus(load_n(args.dt + t * args.ldt + first, n)), grown = mul(dt, x);
      Vec sums[4] = {zeros(), zeros(), zeros(), zeros()};
      for (std::int64_t i = 0; i < args.size; i++) {
        const Vec decay = exp(mul(dt, load(a + i * kLanes)));
        const Vec h = fma(decay, load(state + i * kLanes), mul(grown, all(b[i])));
        store(state + i * kLanes, h);
        sums[i % 4] = fma(h, all(c[i]), sums[i % 4]);
      }
      store_n(args.y + t * args.ldy + first, fma(d, x, joined(sums)), n);
    }
  }
}

void ssd_scan(const SsdArgs& args, std::int64_t count, float* state) {
  float step[kBlock], decay[kBlock];
  for (std::int64_t begin = 0; begin < count; begin += kBlock) {
    const std::int64_t tokens = std::min(kBlock, count - begin);
    if (!args.dt) {
      for (std::int64_t i = 0; i < tokens; i += kWidth) {
        store(step + i, all(1.0f));
        store(decay + i, exp(all(args.a)));
      }
    }
    for (std::int64_t i = 0; args.dt && i < tokens; i += kWidth) {
      float raw[kWidth] = {};
      for (std::int64_t j = 0; j < std::min<std::int64_t>(kWidth, tokens - i); j++)
        raw[j] = args.dt[(begin + i + j) * args.ldt];
      Vec dt = softplus(add(load(raw), all(args.dt_bias)));
      dt = min(all(args.dt_high), max(all(args.dt_low), dt));
      store(step + i, dt);
      store(decay + i, exp(mul(dt, all(args.a))));
    }
    for (std::int64_t p = 0; p < args.head_dim; p += kLanes) {
      float* tile = state + p * args.size;
      const std::int64_t n = args.head_dim - p;
      for (std::int64_t t = 0; t < tokens; t++) {
        const std::int64_t token = begin + t;
        const float *b = args.b + token * args.ldb, *c = args.c + token * args.ldc;
        const Vec x = load_n(args.x + token * args.ldx + p, n), grown = mul(x, all(step[t])), kept = all(decay[t]);
        Vec sums[4] = {zeros(), zeros(), zeros(), zeros()};
        const auto update = [&](std::int64_t i, int chain) {
          const Vec h = fma(kept, load(tile + i * kLanes), mul(grown, all(b[i])));
          store(tile + i * kLanes, h);
          sums[chain] = fma(h, all(c[i]), sums[chain]);
        };
        std::int64_t i = 0;
        for (; i + 4 <= args.size; i += 4)
          for (int chain = 0; chain < 4; chain++) update(i + chain, chain);
        for (int chain = 0; i < args.size; i++, chain++) update(i, chain);
        store_n(args.y + token * args.ldy + p, fma(x, all(args.d), joined(sums)), n);
      }
    }
  }
}

}  // namespace ridgeline::RIDGELINE_ISA
