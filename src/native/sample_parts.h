// sample: its parts, between sample.cpp (the row), sample_adjust.cpp (single tokens) and sample_filters.cpp (cuts).
#pragma once

#include "sample_scan.h"

namespace ridgeline::RIDGELINE_ISA {

// Whether adjust() has anything to do for a row of so many tokens.
bool adjusts(const SamplingArgs& args, std::int64_t num_tokens);

// Biases, penalties and bans, done to x[vocab]. Uses scratch.candidates and scratch.lengths.
void adjust(const SamplingArgs& args, const std::int32_t* tokens, std::int64_t num_tokens, float* x,
            std::int64_t vocab, const Scratch& scratch);

// What may be drawn: either the tokens with x >= cut, or the first `count` of scratch.candidates.
struct Left {
  const float* x;  // [vocab], scratch.scores where a filter has taken tokens out of the middle
  std::int64_t vocab;
  Scratch scratch;  // span_tops are of x
  float top;        // the largest score of what is left
  float cut = kLowest;
  bool is_listed = false;
  std::int64_t count = 0;
};

// The temperature of a row by the entropy of its logits.
float dynamic_temperature(const SamplingArgs& args, const Left& left);

// Narrows `left`, each filter looking at what those before it left.
void filter(const SamplingArgs& args, std::int64_t position, Left& left);

// mirostat_mu after a token with the score z out of `left`.
float next_mu(const SamplingArgs& args, const Left& left, float z);

}  // namespace ridgeline::RIDGELINE_ISA
