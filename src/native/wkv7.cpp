// wkv7: RWKV-7's time mixing; 16 value channels in lanes, a tile of the state in the first cache level, what a token does
// to all tiles made ready for a few tokens together.
#include <algorithm>
#include <cmath>

#include "family_kernels.h"
#include "row_sums.h"
#include "softplus.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

constexpr std::int64_t kBlock = 8;  // tokens made ready together
constexpr float kShortest = 1e-12f, kMostDecay = 0.60653065971263342f;  // e^-0.5

// Of one token, each [head_dim]: the decay, the key's direction, that times the rate, and the key that is written.
struct Ready {
  float *decay, *direction, *rated, *key;
  float own;
};

void make_ready(const WkvArgs& args, std::int64_t token, Ready& out) {
  const std::int64_t n = args.head_dim;
  const float *k = args.k + token * args.ldk, *w = args.w + token * args.ldw, *a = args.a + token * args.lda,
              *r = args.r + token * args.ldr;
  const float squares = sum_over(n, [&](std::int64_t i, std::int64_t m, Vec acc) {
    const Vec v = mul(load_part(k + i, m), load_part(args.direction + i, m));
    return fma(v, v, acc);
  });
  const Vec factor = all(1.0f / std::max(std::sqrt(squares), kShortest));
  for (std::int64_t i = 0; i < n; i += kWidth) {
    const std::int64_t m = n - i;
    const Vec key = load_part(k + i, m), rate = sigmoid(load_part(a + i, m));
    const Vec direction = mul(mul(key, load_part(args.direction + i, m)), factor);
    store_part(out.decay + i, exp(mul(all(-kMostDecay), sigmoid(load_part(w + i, m)))), m);
    store_part(out.direction + i, direction, m);
    store_part(out.rated + i, mul(rate, direction), m);
    store_part(out.key + i, mul(key, fma(sub(rate, all(1.0f)), load_part(args.change + i, m), all(1.0f))), m);
  }
  out.own = sum_over(n, [&](std::int64_t i, std::int64_t m, Vec acc) {
    return fma(mul(load_part(r + i, m), load_part(out.key + i, m)), load_part(args.bonus + i, m), acc);
  });
}

// Its product with the query, after the token. Sums over keys run in four chains, joined as (0 + 1) + (2 + 3).
Vec update(const Ready& now, const float* r, std::int64_t n, Vec value, float* tile) {
  Vec known[4] = {zeros(), zeros(), zeros(), zeros()}, read[4] = {zeros(), zeros(), zeros(), zeros()};
  for (std::int64_t i = 0; i < n; i++)
    known[i % 4] = fma(load(tile + i * kLanes), all(now.direction[i]), known[i % 4]);
  const Vec taken = sub(zeros(), add(add(known[0], known[1]), add(known[2], known[3])));
  for (std::int64_t i = 0; i < n; i++) {
    const Vec change = fma(taken, all(now.rated[i]), mul(value, all(now.key[i])));
    const Vec s = fma(load(tile + i * kLanes), all(now.decay[i]), change);
    store(tile + i * kLanes, s);
    read[i % 4] = fma(s, all(r[i]), read[i % 4]);
  }
  return add(add(read[0], read[1]), add(read[2], read[3]));
}

std::int64_t padded(std::int64_t n) { return (n + kWidth - 1) / kWidth * kWidth; }

}  // namespace

std::size_t wkv7_scratch_bytes(std::int64_t head_dim) {
  return static_cast<std::size_t>(kBlock * 4 * padded(head_dim)) * sizeof(float);
}

void wkv7(const WkvArgs& args, std::int64_t count, float* state, std::byte* scratch) {
  const std::int64_t n = args.head_dim, width = padded(n);
  float* memory = reinterpret_cast<float*>(scratch);
  Ready ready[kBlock];
  for (std::int64_t i = 0; i < kBlock; i++) {
    float* own = memory + 4 * i * width;
    ready[i] = {own, own + width, own + 2 * width, own + 3 * width, 0.0f};
  }
  for (std::int64_t begin = 0; begin < count; begin += kBlock) {
    const std::int64_t tokens = std::min(kBlock, count - begin);
    for (std::int64_t t = 0; t < tokens; t++) make_ready(args, begin + t, ready[t]);
    for (std::int64_t first = 0; first < n; first += kLanes) {
      const std::int64_t m = n - first;
      for (std::int64_t t = 0; t < tokens; t++) {
        const std::int64_t token = begin + t;
        const Vec value = load_n(args.v + token * args.ldv + first, m);
        store_n(args.own + token * args.ldo + first, mul(value, all(ready[t].own)), m);
        store_n(args.y + token * args.ldy + first,
                update(ready[t], args.r + token * args.ldr, n, value, state + first * n), m);
      }
    }
  }
}

}  // namespace ridgeline::RIDGELINE_ISA
