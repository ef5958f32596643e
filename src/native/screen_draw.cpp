// What a screen lets through of a row that draws with noise (screen.h, sample_noise.h): a channel's noise is known before
// its logit is, so it is in the bound, and as few channels may win as of a row that takes its largest.
#include "family_kernels.h"
#include "sample_noise.h"
#include "simd.h"

namespace ridgeline::RIDGELINE_ISA {
static_assert(kLuckyIds == kStripChannels && kStripChannels % kWidth == 0);

Candidate screen_best(const float* y, std::int64_t strip, std::int64_t n, const ScreenDraw& draw) {
  Noise noise(draw.seed, draw.position);
  const StripNoise tokens = noise.strip(strip);
  const Vec temperature = all(draw.temperature), hidden = all(-INFINITY);
  Candidate best{draw.best, -1};
  for (std::int64_t c = 0; c < n; c += kWidth) {
    const Vec logits = load_or_hidden(y + c, n - c);
    const Vec scores = select(equal(logits, hidden), hidden, tempered(logits, temperature));
    std::uint32_t open = tokens.open(scores, c, n - c, best.score);
    float lane[kWidth];
    store(lane, scores);
    for (; open; open &= open - 1) {
      const int j = __builtin_ctz(open);
      const float one = tokens.noisy(lane[j], c + j);
      if (!(one <= best.score)) best = {one, static_cast<std::int32_t>(strip * kStripChannels + c + j)};
    }
  }
  return best;
}

float screen_drawn(const float* y, std::int64_t channels, const float* apart, const StripNorms* strips, const RowNorms& row,
                   const ScreenDraw& draw, std::int64_t first_strip, const float* reach, float* keys) {
  const std::int64_t count = (channels + kStripChannels - 1) / kStripChannels;
  const Vec temperature = all(draw.temperature), size = all(row.size);
  Noise noise(draw.seed, draw.position);
  float best = draw.best;
  const auto look = [&](std::int64_t s) {
    const StripNoise tokens = noise.strip(first_strip + s);
    const bool is_lowered = draw.lowered && draw.lowered[first_strip + s];
    const std::int64_t first = s * kStripChannels;
    const std::int64_t n = channels - first < kStripChannels ? channels - first : kStripChannels;
    const Vec further = all(beyond(strips[s], row));
    keys[s] = kLowest;
    for (std::int64_t c = 0; c < n; c += kWidth) {
      const Vec logits = load_n(y + first + c, n - c);
      const Vec off = apart ? fma(load_n(apart + first + c, n - c), size, further) : further;
      const Vec most = tempered(add(logits, off), temperature);
      std::uint32_t open = tokens.open(most, c, n - c, best);
      float highest[kWidth], lowest[kWidth];
      store(highest, most);
      store(lowest, tempered(sub(logits, off), temperature));
      for (; open; open &= open - 1) {
        const int j = __builtin_ctz(open);
        const float key = tokens.noisy(highest[j], c + j), least = tokens.noisy(lowest[j], c + j);
        if (!(key <= keys[s]) && !std::isnan(keys[s])) keys[s] = key;
        if (!is_lowered && least > best && highest[j] < kLargest) best = least;
      }
    }
  };
  std::int64_t likeliest = 0;
  for (std::int64_t s = 1; s < count; s++)
    if (reach[s] > reach[likeliest]) likeliest = s;
  look(likeliest);
  for (std::int64_t begin = 0, end; begin < count; begin = end) {
    end = (first_strip + begin) / kWidth * kWidth + kWidth - first_strip;
    if (end > count) end = count;
    const Vec scores = tempered(load_or_hidden(reach + begin, end - begin), temperature);
    const std::uint32_t closed = bits(less(most_time(scores, best), noise.least_times(first_strip + begin)));
    for (std::int64_t s = begin; s < end; s++) {
      if (s == likeliest) continue;
      if (closed >> (s - begin) & 1u) {
        keys[s] = kLowest;
      } else {
        look(s);
      }
    }
  }
  return best;
}

}  // namespace ridgeline::RIDGELINE_ISA
