// The 16 channels of a strip in plain arrays: what the vector versions mean.
#pragma once

#include <cstdint>
#include <cstring>

#include "linear_layout.h"

namespace ridgeline::RIDGELINE_ISA {

struct Floats { float v[kLanes]; };
struct Sums { std::int32_t v[kLanes]; };
struct Line { std::uint8_t v[kLineBytes]; };  // 4 codes a channel, as bytes q * 2^(8-bits) + 128
struct Quad { std::int16_t v[4]; };

template <class F>
static inline Floats each(F f) {
  Floats out;
  for (int c = 0; c < kLanes; c++) out.v[c] = f(c);
  return out;
}
static inline Floats load(const float* p) {
  return each([&](int c) { return p[c]; });
}
static inline void store(float* p, const Floats& a) { std::memcpy(p, a.v, sizeof a.v); }
static inline Floats load_channels(const float* p, std::int64_t count) {
  return each([&](int c) { return c < count ? p[c] : 0.0f; });
}
static inline void store_channels(float* p, const Floats& a, std::int64_t count) {
  for (int c = 0; c < kLanes && c < count; c++) p[c] = a.v[c];
}
static inline Floats zeros() {
  return each([](int) { return 0.0f; });
}
static inline Floats all(float x) {
  return each([&](int) { return x; });
}
static inline Floats mul(const Floats& a, const Floats& b) {
  return each([&](int c) { return a.v[c] * b.v[c]; });
}
// Rounded twice: a fused multiply-add is a library call on the oldest machines.
static inline Floats fma(const Floats& a, const Floats& b, const Floats& acc) {
  return each([&](int c) { return a.v[c] * b.v[c] + acc.v[c]; });
}
static inline void accumulate(const Floats& a, const Floats& b, Floats& acc) { acc = fma(a, b, acc); }
static inline float from_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
static inline float widen_half(std::uint16_t half) {
  const std::uint32_t magnitude = (half & 0x7fffu) << 13, sign = (half & 0x8000u) << 16;
  // The exponents' biases differ by 112; the multiplication makes subnormals right, too.
  const float finite = from_bits(magnitude) * 0x1p112f;
  std::uint32_t bits;
  std::memcpy(&bits, &finite, 4);
  if ((half & 0x7c00u) == 0x7c00u) bits = magnitude | 0x7f800000u;
  return from_bits(bits | sign);
}
static inline Floats load_halves(const std::uint8_t* p) {
  std::uint16_t halves[kLanes];
  std::memcpy(halves, p, sizeof halves);
  return each([&](int c) { return widen_half(halves[c]); });
}
// Of a line of two int16 a channel, those of the first group, which stand second, or of the second.
static inline Floats words_of_pair(const std::uint8_t* line, int group) {
  std::int16_t words[2 * kLanes];
  std::memcpy(words, line, sizeof words);
  return each([&](int c) { return static_cast<float>(words[2 * c + 1 - group]); });
}
static inline Floats load_bfloats(const std::uint16_t* p) {
  return each([&](int c) { return from_bits(static_cast<std::uint32_t>(p[c]) << 16); });
}
static inline void prefetch_near(const std::uint8_t*) {}
static inline void prefetch_far(const std::uint8_t*) {}
static inline void prefetch_channels(const float*) {}

static inline void keep_loads_here() {}

static inline Line load_line(const std::uint8_t* p) {
  Line out;
  std::memcpy(out.v, p, sizeof out.v);
  return out;
}
static inline void store_line(std::uint8_t* p, const Line& a) { std::memcpy(p, a.v, sizeof a.v); }

static inline Line byte_line(const std::uint8_t* codes, int step) {
  return load_line(codes + step * kLineBytes);
}
static inline Line nibble_line(const std::uint8_t* codes, int step) {
  Line out = load_line(codes + step / 2 * kLineBytes);
  for (std::uint8_t& x : out.v) x = static_cast<std::uint8_t>((step % 2 ? x : x << 4) & 0xf0);
  return out;
}
// Numbers of a table of 16 by four-bit codes.
static inline Line table_line(const std::uint8_t* codes, const std::uint8_t* table, int step) {
  Line out = nibble_line(codes, step);
  for (std::uint8_t& x : out.v) x = table[x >> 4];
  return out;
}
static inline Line five_bit_line(const std::uint8_t* codes, const std::uint8_t* fifths, int step) {
  Line out = nibble_line(codes, step);
  const std::uint8_t* fifth = fifths + step * 8;
  for (int i = 0; i < kLineBytes; i++) {
    out.v[i] = static_cast<std::uint8_t>(out.v[i] >> 1 | (fifth[i / 8] >> i % 8 & 1) << 7);
  }
  return out;
}
static inline Line six_bit_line(const std::uint8_t* codes, const std::uint8_t* uppers, int step) {
  Line out = nibble_line(codes, step);
  const std::uint8_t* upper = uppers + step / 4 * kLineBytes;
  const int shift = step % 4 * 2;
  for (int i = 0; i < kLineBytes; i++) {
    out.v[i] = static_cast<std::uint8_t>(out.v[i] >> 2 | (upper[i] >> shift & 3) << 6);
  }
  return out;
}

static inline Quad load_quad(const std::int8_t* q) { return {{q[0], q[1], q[2], q[3]}}; }
// begin, then dots, then finish: the float of sum(q * 2^(8-bits) * activation), exactly.
template <int Bits>
static inline Sums begin(std::int32_t start) {
  Sums out;
  for (std::int32_t& x : out.v) x = start;
  return out;
}
template <int Bits>
static inline Sums dot(const Sums& sums, const Line& codes, const Quad& a) {
  Sums out;
  for (int c = 0; c < kLanes; c++) {
    const std::uint8_t* w = codes.v + c * 4;
    out.v[c] = sums.v[c] + w[0] * a.v[0] + w[1] * a.v[1] + w[2] * a.v[2] + w[3] * a.v[3];
  }
  return out;
}
// Sums of first terms in steps of second ones.
static inline Sums in_second_terms(const Sums& sums) {
  Sums out;
  for (int i = 0; i < kLanes; i++) out.v[i] = sums.v[i] * kFirstTermSteps;
  return out;
}
static inline Sums plus(const Sums& a, const Sums& b) {
  Sums out;
  for (int i = 0; i < kLanes; i++) out.v[i] = a.v[i] + b.v[i];
  return out;
}
template <int Bits>
static inline Floats finish(const Sums& sums) {
  return each([&](int c) { return static_cast<float>(sums.v[c]); });
}

// acc + w0 * x0 + w1 * x1: each channel's two bfloat16 lie side by side, and x's are the same for all.
static inline Floats add_pairs(const Floats& acc, const std::uint8_t* pairs,
                                const std::uint16_t* x) {
  std::uint32_t both[kLanes];
  std::memcpy(both, pairs, sizeof both);
  const float s0 = from_bits(static_cast<std::uint32_t>(x[0]) << 16);
  const float s1 = from_bits(static_cast<std::uint32_t>(x[1]) << 16);
  return each([&](int c) {
    const float m0 = from_bits(both[c] << 16), m1 = from_bits(both[c] & 0xffff0000u);
    return acc.v[c] + m0 * s0 + m1 * s1;
  });
}

}  // namespace ridgeline::RIDGELINE_ISA
