// screen: a coarse copy of the weights that make logits, for rows whose token depends on few of them.
//
// The copy says of every channel what its logit is, and how far it can be off: no further than
//   |sum_k (w - c) x| + |sum_k w (x' - x)|  <=  |(w - c) sqrt(u)| |x / sqrt(u)| + |w sqrt(v)| |(x' - x) / sqrt(v)|
// (Cauchy and Schwarz), where c is the copy, x what it multiplies, x' what the weights themselves do, and u and v any
// positive numbers: the closer they are to the usual magnitudes of x and of x' - x, the tighter the bound. Channels that may
// still be what a row wants (Wanted) are computed as ever, from the weights themselves: the token is the same, bit for bit,
// and most weights are not read.
#pragma once

#include <cstddef>
#include <cstdint>

#include "linear.h"
#include "penalties.h"

namespace ridgeline {

// What the copy is stored in: 5 bits a weight and a float16 for 32. With 4 the bound lets through too many channels of a
// small model (docs/log.md).
inline constexpr char kScreenFormat[] = "Q5_0";
inline constexpr std::int64_t kScreenGroup = 32;
inline constexpr std::size_t kScreenGroupBytes = 22;

constexpr std::size_t screen_row_bytes(std::int64_t k) {
  return static_cast<std::size_t>(k / kScreenGroup) * kScreenGroupBytes;
}

// And of x / sqrt(u) so many directions that it usually has most of: what the copy is off by along these is known of every
// channel, so it is added to y, and only the rest of x / sqrt(u) is in the bound.
inline constexpr int kDirections = 2;

// Bounds are this much wider than the norms say: for sums in float32.
inline constexpr float kBoundMargin = 1.002f;

// What is usual of activations: u and v [k]; the directions, divided by sqrt(u), and times sqrt(u), [kDirections, k].
struct ScreenUsual {
  float *size, *residue, *along, *weights;
};

// Of a channel: what a row's sizes are multiplied by, |(w - c) sqrt(u)| without its directions, |w sqrt(u)|, |w sqrt(v)|;
// and what the copy is off by along directions.
struct ChannelNorms {
  float apart, whole, whole_residue, along[kDirections];
};

// Of a row: |x / sqrt(u)| without its directions, and with them, |(x' - x) / sqrt(v)|, how much of each direction it has; and
// where they count, |x's second terms / sqrt(v)| and |x / sqrt(u)|.
struct RowNorms {
  float size, whole, residue, along[kDirections], copy_rest = 0, rest = 0;
};

// Of a strip, the most of its channels: |w sqrt(v)|; what kernels may round, a small part of |w sqrt(u)|: of all of x; and, where
// weights have first digits or bytes f and others (linear_amx_layout.h), |(c - f) sqrt(v)| of the copy, of which the others do
// not meet x's second terms, and |(w - f) sqrt(u)| of the weights.
struct StripNorms {
  float residue, rounding, copy_rest, rest;
};
inline constexpr std::int64_t kStripFloats = sizeof(StripNorms) / sizeof(float);

// How far a logit of the strip may be off beside what its own norms say.
static inline float beyond(const StripNorms& strip, const RowNorms& row) {
  return strip.residue * row.residue + strip.rounding * row.whole + strip.copy_rest * row.copy_rest + strip.rest * row.rest;
}

// What a row's token depends on: all logits, the largest, or what is largest of logit / temperature + noise
// (sample_noise.h) and must then pass filters, of which 0, 1 and 0 are none.
struct Wanted {
  enum class Kind : std::uint8_t { all, largest, drawn };
  Kind kind = Kind::largest;
  float temperature = 0.0f;
  std::uint64_t seed = 0, position = 0;
  std::int32_t top_k = 0;
  float top_p = 1.0f, min_p = 0.0f;
  const std::int32_t* forbidden = nullptr;  // channels that are not to come
  std::int64_t num_forbidden = 0;
  Penalties penalties{};  // which only lower

  // Whether logits of some channels are less than the weights say.
  bool is_lowered() const { return num_forbidden > 0 || !penalties.is_none(); }
  bool is_filtered() const { return kind == Kind::drawn && (top_k > 0 || top_p < 1 || min_p > 0); }
};

// A row's noise, and the score that a channel must have with it; lowered: of each strip, whether some of its logits are less
// than the weights say; or null.
struct ScreenDraw {
  float temperature;
  std::uint64_t seed, position;
  float best;
  const std::uint8_t* lowered;
};

// Where weights are read from that are not packed.
struct RawRows {
  const char* format;
  const std::byte* data;
  std::size_t row_bytes;

  const std::byte* row(std::int64_t index) const { return data + static_cast<std::size_t>(index) * row_bytes; }
};

}  // namespace ridgeline
