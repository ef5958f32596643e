// compress: entries of several tokens' keys; 16 channels in lanes, their unfinished softmaxes in registers.
#include "family_kernels.h"
#include "simd.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

// A softmax that goes on: its largest score, the sum of weights relative to that, and of what they weigh.
struct Sums {
  Vec most, weights, values;
};

inline Sums load_sums(const float* p) { return {load(p), load(p + kLanes), load(p + 2 * kLanes)}; }
inline void store_sums(float* p, const Sums& sums) {
  store(p, sums.most);
  store(p + kLanes, sums.weights);
  store(p + 2 * kLanes, sums.values);
}

inline void take(Sums& sums, bool is_first, Vec score, Vec x) {
  if (is_first) {
    sums = {score, all(1.0f), x};
    return;
  }
  const Vec change = sub(score, sums.most), factor = exp(sub(zeros(), absolute(change)));
  const Mask up = less(zeros(), change);
  sums.weights = select(up, fma(sums.weights, factor, all(1.0f)), add(sums.weights, factor));
  sums.values = select(up, fma(sums.values, factor, x), fma(factor, x, sums.values));
  sums.most = max(sums.most, score);
}

}  // namespace

void compress(const CompressArgs& args, std::int64_t tile_begin, std::int64_t tile_end, std::int64_t count,
              float* state) {
  const std::int64_t width = args.overlaps ? 2 * args.channels : args.channels;
  for (std::int64_t tile = tile_begin; tile < tile_end; tile++) {
    const std::int64_t first = tile * kLanes, n = args.channels - first, second = args.overlaps ? args.channels + first : first;
    Sums own = load_sums(state), before = own, ahead = own;
    if (args.overlaps) {
      ahead = load_sums(state + 3 * kLanes);
      before = load_sums(state + 6 * kLanes);
    }
    for (std::int64_t t = 0; t < count; t++) {
      const std::int64_t position = args.position + t, step = position % args.every;
      const float *x = args.x + t * args.ldx, *scores = args.scores + t * args.lds, *bias = args.bias + step * width;
      take(own, step == 0, add(load_n(scores + second, n), load_n(bias + second, n)), load_n(x + second, n));
      if (args.overlaps)
        take(ahead, step == 0, add(load_n(scores + first, n), load_n(bias + first, n)), load_n(x + first, n));
      Vec y = zeros();
      if (step == args.every - 1) {
        y = div(own.values, own.weights);
        if (args.overlaps && position >= args.every) {
          const Vec most = max(before.most, own.most);
          const Vec old = exp(sub(before.most, most)), now = exp(sub(own.most, most));
          y = div(fma(now, own.values, mul(old, before.values)), fma(now, own.weights, mul(old, before.weights)));
        }
        before = ahead;
      }
      store_n(args.y + t * args.ldy + first, y, n);
    }
    store_sums(state, own);
    if (args.overlaps) {
      store_sums(state + 3 * kLanes, ahead);
      store_sums(state + 6 * kLanes, before);
    }
    state += args.numbers() * kLanes;
  }
}

}  // namespace ridgeline::RIDGELINE_ISA
