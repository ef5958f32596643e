// delta_rule: linear attention whose state is corrected; 16 value channels in lanes, a tile of the state in the first
// cache level, keys and queries of a few tokens made ready for all tiles.
#include <algorithm>

#include "family_kernels.h"
#include "softplus.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

constexpr std::int64_t kBlock = 8;  // tokens made ready together
constexpr float kNormEps = 1e-6f;

// Divided by its length, times `scale`; the sum of squares in one chain of vectors.
void unit(const float* x, std::int64_t n, float scale, float* out) {
  Vec squares = zeros();
  for (std::int64_t i = 0; i < n; i += kWidth) {
    const Vec v = load_n(x + i, n - i);
    squares = fma(v, v, squares);
  }
  const Vec factor = all(scale / std::sqrt(sum(squares) + kNormEps));
  for (std::int64_t i = 0; i < n; i += kWidth) store_n(out + i, mul(load_n(x + i, n - i), factor), n - i);
}

// Of one token, each [key_dim]: the query, the key, the decay, and the decayed key.
struct Ready {
  float *query, *key, *decay, *faded;
  float beta;
};

void make_ready(const DeltaArgs& args, std::int64_t token, Ready& out) {
  const std::int64_t n = args.key_dim;
  unit(args.q + token * args.ldq, n, 1.0f / std::sqrt(static_cast<float>(n)), out.query);
  unit(args.k + token * args.ldk, n, 1.0f, out.key);
  const Vec a = all(args.a);
  const float* g = args.g + token * args.ldg;
  for (std::int64_t i = 0; i < n; i += kWidth) {
    const Vec raw = args.by_channel ? add(load_n(g + i, n - i), load_n(args.dt_bias + i, n - i))
                                    : add(all(*g), all(*args.dt_bias));
    const Vec log_decay =
        args.floor != 0 ? mul(all(args.floor), sigmoid(mul(sub(zeros(), a), raw))) : mul(a, softplus(raw));
    const Vec decay = exp(log_decay);
    store_n(out.decay + i, decay, n - i);
    store_n(out.faded + i, mul(decay, load_n(out.key + i, n - i)), n - i);
  }
  float lane[kWidth];
  store(lane, sigmoid(all(args.beta[token * args.ldbeta])));
  out.beta = lane[0];
}

// s = decay s + key delta^T and its product with the query, where delta = beta (v - s^T faded).
Vec update(const Ready& now, std::int64_t key_dim, Vec value, float* tile) {
  Vec known[4] = {zeros(), zeros(), zeros(), zeros()}, read[4] = {zeros(), zeros(), zeros(), zeros()};
  std::int64_t i = 0;
  for (; i + 4 <= key_dim; i += 4)
    for (int j = 0; j < 4; j++) known[j] = fma(load(tile + (i + j) * kLanes), all(now.faded[i + j]), known[j]);
  for (int j = 0; i < key_dim; i++, j++) known[j] = fma(load(tile + i * kLanes), all(now.faded[i]), known[j]);
  const Vec was = add(add(known[0], known[1]), add(known[2], known[3]));
  const Vec delta = mul(sub(value, was), all(now.beta));
  const auto write = [&](std::int64_t at, int j) {
    const Vec s = fma(load(tile + at * kLanes), all(now.decay[at]), mul(delta, all(now.key[at])));
    store(tile + at * kLanes, s);
    read[j] = fma(s, all(now.query[at]), read[j]);
  };
  for (i = 0; i + 4 <= key_dim; i += 4)
    for (int j = 0; j < 4; j++) write(i + j, j);
  for (int j = 0; i < key_dim; i++, j++) write(i, j);
  return add(add(read[0], read[1]), add(read[2], read[3]));
}

std::int64_t padded(std::int64_t n) { return (n + kWidth - 1) / kWidth * kWidth; }

}  // namespace

std::size_t delta_scratch_bytes(std::int64_t key_dim) {
  return static_cast<std::size_t>(kBlock * 4 * padded(key_dim)) * sizeof(float);
}

void delta_rule(const DeltaArgs& args, std::int64_t count, float* state, std::byte* scratch) {
  const std::int64_t width = padded(args.key_dim);
  float* memory = reinterpret_cast<float*>(scratch);
  Ready ready[kBlock];
  for (std::int64_t i = 0; i < kBlock; i++) {
    float* own = memory + 4 * i * width;
    ready[i] = {own, own + width, own + 2 * width, own + 3 * width, 0.0f};
  }
  for (std::int64_t begin = 0; begin < count; begin += kBlock) {
    const std::int64_t tokens = std::min(kBlock, count - begin);
    for (std::int64_t t = 0; t < tokens; t++) make_ready(args, begin + t, ready[t]);
    for (std::int64_t first = 0; first < args.value_dim; first += kLanes) {
      const std::int64_t n = args.value_dim - first;
      for (std::int64_t t = 0; t < tokens; t++) {
        const Vec value = load_n(args.v + (begin + t) * args.ldv + first, n);
        store_n(args.y + (begin + t) * args.ldy + first,
                update(ready[t], args.key_dim, value, state + first * args.key_dim), n);
      }
    }
  }
}

}  // namespace ridgeline::RIDGELINE_ISA
