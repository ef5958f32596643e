// What a screen lets through of a row that draws with noise (screen.h, sample_noise.h): a channel's noise is known before
// its logit is, so it is in the bound, and as few channels may win as of a row that takes its largest.
#include "family_kernels.h"
#include "sample_noise.h"
#include "simd.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

// Which lanes of scores may be `best` or more with the noise of words, by lane; what is no number may.
std::uint32_t open_lanes(Vec score, std::int64_t n, const std::uint32_t* words, float best) {
  float rest[kWidth];
  for (int j = 0; j < kWidth; j++) rest[j] = rest_of(words[j]);
  const std::uint32_t closed = bits(less(most_rest(score, best), load(rest)));
  return ~closed & (n < kWidth ? (1u << n) - 1 : 0xffffu);
}

// What has more than `best` of `score` with the noise of words, of lanes [0, n): the largest, from channel `first` on.
void offer(Vec score, std::int64_t first, std::int64_t n, const std::uint32_t* words, Candidate& best) {
  std::uint32_t open = open_lanes(score, n, words, best.score);
  if (open == 0) return;
  float lane[kWidth];
  store(lane, score);
  for (; open; open &= open - 1) {
    const int j = __builtin_ctz(open);
    const float one = noisy(lane[j], words[j]);
    if (!(one <= best.score)) best = {one, static_cast<std::int32_t>(first + j)};
  }
}

// The words of a channel's block.
struct BlockWords {
  std::int64_t first = -1;
  std::uint32_t words[kBlockIds];

  const std::uint32_t* of(std::int64_t channel, const ScreenDraw& draw) {
    const std::int64_t block = channel / kBlockIds * kBlockIds;
    if (block != first) philox_words(draw.seed, draw.position, static_cast<std::uint32_t>(block), words);
    first = block;
    return words + (channel - block);
  }
};

}  // namespace

Candidate screen_best(const float* y, std::int64_t begin, std::int64_t end, const ScreenDraw& draw) {
  BlockWords noise;
  Candidate best{draw.best, -1};
  for (std::int64_t c = begin; c < end; c += kWidth)
    offer(tempered(load_n(y + c, end - c), all(draw.temperature)), c, end - c, noise.of(c, draw), best);
  return best;
}

void screen_drawn(float* y, std::int64_t n, const float* apart, const StripNorms* strips, const RowNorms& row,
                  const ScreenDraw& draw, std::int64_t begin, std::int64_t end, const float* reach, float* keys) {
  static_assert(kBlockIds % kStripChannels == 0 && kStripChannels % kWidth == 0);
  BlockWords noise;
  const Vec size = all(row.size), temperature = all(draw.temperature);
  for (std::int64_t strip = begin; strip < end; strip++) {
    keys[strip] = -INFINITY;
    if (reach[strip] == -INFINITY) continue;
    const std::int64_t first = strip * kStripChannels, last = first + kStripChannels < n ? first + kStripChannels : n;
    Candidate most{std::nextafter(draw.best, -INFINITY), -1};
    if (!(reach[strip] / draw.temperature + kMostNoise < draw.best)) {
      const Vec further = all(beyond(strips[strip], row));
      for (std::int64_t c = first; c < last; c += kWidth) {
        const Vec score = add(fma(load_n(apart + c, last - c), size, load_n(y + c, last - c)), further);
        offer(tempered(score, temperature), c, last - c, noise.of(c, draw), most);
      }
    }
    if (most.id >= 0) {
      keys[strip] = most.score;
      continue;
    }
    for (std::int64_t c = first; c < last; c += kWidth)
      store_n(y + c, add(load_n(y + c, last - c), all(-INFINITY)), last - c);
  }
}

}  // namespace ridgeline::RIDGELINE_ISA
