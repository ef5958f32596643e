// What a row's tokens so far take from their logits: of all logits (sample_adjust.cpp), and of a strip that a head has read.
#pragma once

#include <cmath>
#include <cstdint>

namespace ridgeline {

// 1, 0 and 0 take nothing. tokens: that repetition looks at; the others look at those behind num_prompt of them.
struct Penalties {
  float repetition = 1.0f, frequency = 0.0f, presence = 0.0f;
  const std::int32_t* tokens = nullptr;
  std::int64_t num_tokens = 0, num_prompt = 0;

  bool is_none() const { return (repetition == 1 && frequency == 0 && presence == 0) || num_tokens == 0; }
  // Whether no logit is more for them.
  bool only_lower() const { return repetition >= 1 && frequency >= 0 && presence >= 0; }
};

// -infinity, a token that cannot come, stays; everything else is held within float32's range.
static inline void change(float& x, float value) {
  constexpr float kMost = 3.40282347e38f;
  if (x == -INFINITY) return;
  x = value > kMost ? kMost : value < -kMost ? -kMost : value;
}

// Positive logits divided, others multiplied (Keskar et al. 2019).
static inline void penalize_repeated(float& x, float penalty) { change(x, x > 0 ? x / penalty : x * penalty); }

static inline void penalize_counted(float& x, float frequency, float presence, std::int32_t times) {
  const float frequent = frequency * static_cast<float>(times);
  change(x, x - frequent - presence);
}

// Logits x of tokens [first, first + kIds), of which there are `count`.
template <int kIds>
static inline void penalize(const Penalties& of, std::int64_t first, std::int64_t count, float* x) {
  std::int32_t prompt[kIds] = {}, answer[kIds] = {};
  for (std::int64_t i = 0; i < of.num_tokens; i++) {
    const std::int64_t place = of.tokens[i] - first;
    if (place >= 0 && place < count) (i < of.num_prompt ? prompt : answer)[place]++;
  }
  for (std::int64_t i = 0; i < count; i++) {
    if (prompt[i] + answer[i] > 0 && of.repetition != 1) penalize_repeated(x[i], of.repetition);
    if (answer[i] > 0 && (of.frequency != 0 || of.presence != 0))
      penalize_counted(x[i], of.frequency, of.presence, answer[i]);
  }
}

}  // namespace ridgeline
