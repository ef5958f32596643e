// sample: the memory of one row's sampling, and scans of the vocabulary by spans of tokens.
#pragma once

#include <cmath>
#include <cstring>

#include "sample_select.h"
#include "simd.h"

namespace ridgeline::RIDGELINE_ISA {
constexpr std::int64_t kSpan = 64;  // tokens of which the largest score is remembered

struct Scratch {
  float* scores;          // [vocab]
  float* span_tops;       // [vocab / kSpan]
  float* span_scratch;    // as span_tops
  Candidate* candidates;  // [vocab]
  std::int32_t* lengths;  // [context]
};

inline std::int64_t num_spans(std::int64_t vocab) { return (vocab + kSpan - 1) / kSpan; }

inline Scratch scratch_of(std::int64_t vocab, std::byte* memory) {
  const std::int64_t padded = num_spans(vocab) * kSpan;
  Scratch out;
  out.scores = reinterpret_cast<float*>(memory);
  out.span_tops = out.scores + padded;
  out.span_scratch = out.span_tops + num_spans(vocab);
  out.candidates = reinterpret_cast<Candidate*>(out.span_scratch + num_spans(vocab));
  out.lengths = reinterpret_cast<std::int32_t*>(out.candidates + padded);
  return out;
}

// Below any float but -infinity: as a bound it lets through all tokens that can come.
constexpr float kLowest = -3.40282347e38f, kLargest = 3.40282347e38f;

// ---- scans of the vocabulary

inline Vec load_or_hidden(const float* p, std::int64_t n) {
  if (n >= kWidth) return load(p);
  float lane[kWidth];
  store(lane, all(-INFINITY));
  for (std::int64_t i = 0; i < n; i++) lane[i] = p[i];
  return load(lane);
}

// Fills span_tops; the largest of all. False at a NaN or +infinity.
inline bool scan_tops(const float* x, std::int64_t vocab, float* span_tops, float& top) {
  Vec overall = all(-INFINITY);
  Vec strange = zeros();  // NaN or infinite once any value is
  for (std::int64_t s = 0; s < num_spans(vocab); s++) {
    Vec tops = all(-INFINITY);
    for (std::int64_t i = s * kSpan; i < (s + 1) * kSpan && i < vocab; i += kWidth) {
      const Vec v = load_or_hidden(x + i, vocab - i);
      tops = max(v, tops);
      // -infinity is a mask and is let through.
      strange = fma(max(all(-1.0f), v), zeros(), strange);
    }
    span_tops[s] = largest(tops);
    overall = max(overall, tops);
  }
  top = largest(overall);
  return bits(equal(strange, zeros())) == 0xffffu;
}

// Why scan_tops refused: NaN before +infinity.
inline SampleFault fault_of(const float* x, std::int64_t vocab) {
  for (std::int64_t i = 0; i < vocab; i++)
    if (std::isnan(x[i])) return SampleFault::not_a_number;
  return SampleFault::infinite;
}

// Tokens with score >= bound, in order of id.
inline std::int64_t gather(const float* x, std::int64_t vocab, const float* span_tops, float bound, Candidate* out) {
  std::int64_t count = 0;
  for (std::int64_t s = 0; s < num_spans(vocab); s++) {
    if (!(span_tops[s] >= bound)) continue;
    for (std::int64_t i = s * kSpan; i < (s + 1) * kSpan && i < vocab; i++)
      if (x[i] >= bound) out[count++] = {x[i], static_cast<std::int32_t>(i)};
  }
  return count;
}

// Candidates with score >= cut, the first k of the order among them.
inline std::int64_t gather_first(const float* x, std::int64_t vocab, const Scratch& scratch, std::int64_t k,
                                 float cut) {
  const std::int64_t spans = num_spans(vocab);
  float bound = cut;
  if (k <= spans) {
    std::memcpy(scratch.span_scratch, scratch.span_tops, static_cast<std::size_t>(spans) * sizeof(float));
    // k spans reach at least this far up, each with a token.
    const float reached = kth_largest(scratch.span_scratch, spans, k);
    if (reached > bound) bound = reached;
  }
  return gather(x, vocab, scratch.span_tops, bound, scratch.candidates);
}

inline std::int32_t argmax(const float* x, std::int64_t vocab, const float* span_tops, float top) {
  for (std::int64_t s = 0; s < num_spans(vocab); s++) {
    if (span_tops[s] != top) continue;
    for (std::int64_t i = s * kSpan; i < (s + 1) * kSpan && i < vocab; i++)
      if (x[i] == top) return static_cast<std::int32_t>(i);
  }
  return 0;
}

// sum of e^(x - top) over the vocabulary: 16 lanes in float32 within a span, spans in float64.
inline double sum_exp(const float* x, std::int64_t vocab, float top) {
  double total = 0;
  for (std::int64_t s = 0; s < num_spans(vocab); s++) {
    Vec sums = zeros();
    for (std::int64_t i = s * kSpan; i < (s + 1) * kSpan && i < vocab; i += kWidth)
      sums = add(sums, exp(sub(load_or_hidden(x + i, vocab - i), all(top))));
    total += sum(sums);
  }
  return total;
}

// Over tokens with score >= cut: the sum of w = e^(x - top), that of w (x - top), and how many they are.
struct Masses {
  double weight = 0, weighted = 0;
  std::int64_t count = 0;
};

inline Masses masses(const float* x, std::int64_t vocab, const float* span_tops, float top, float cut) {
  Masses out;
  // Where e^(x - top) is zero, x - top may be anything down to -infinity, and must not make it a NaN.
  const Vec least = all(cut), far = all(-200.0f);
  for (std::int64_t s = 0; s < num_spans(vocab); s++) {
    if (!(span_tops[s] >= cut)) continue;
    Vec sums = zeros(), weighted = zeros();
    for (std::int64_t i = s * kSpan; i < (s + 1) * kSpan && i < vocab; i += kWidth) {
      const Vec v = load_or_hidden(x + i, vocab - i);
      const Mask out_of_it = less(v, least);
      const Vec below = sub(v, all(top));
      const Vec w = select(out_of_it, zeros(), exp(below));
      sums = add(sums, w);
      weighted = add(weighted, mul(w, max(far, below)));
      out.count += kWidth - __builtin_popcount(bits(out_of_it));
    }
    out.weight += sum(sums);
    out.weighted += sum(weighted);
  }
  return out;
}

}  // namespace ridgeline::RIDGELINE_ISA
