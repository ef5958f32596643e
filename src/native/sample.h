// sample: what the program needs of the family; docs/sampling.md has the meaning.
#pragma once

#include <cstdint>

namespace ridgeline {

template <typename T>
struct Span {
  const T* data = nullptr;
  std::int64_t size = 0;
};

// How a row's logits become a token. The defaults are off. What the spans point to is RowSampling's (rows.h).
struct SamplingArgs {
  float repetition_penalty = 1.0f, frequency_penalty = 0.0f, presence_penalty = 0.0f;
  float dry_multiplier = 0.0f, dry_base = 1.75f;
  std::int32_t dry_allowed_length = 2, dry_last_n = -1, penalty_last_n = -1;
  std::int32_t no_repeat_ngram = 0, min_tokens = 0;
  float temperature = 0.0f, dynatemp_range = 0.0f, dynatemp_exponent = 1.0f;
  float top_n_sigma = 0.0f;
  std::int32_t top_k = 0;
  float typical_p = 1.0f, top_p = 1.0f, min_p = 0.0f;
  float xtc_probability = 0.0f, xtc_threshold = 0.1f;
  float mirostat_tau = 0.0f, mirostat_eta = 0.1f, mirostat_mu = 0.0f;
  std::uint64_t seed = 0;
  std::int32_t num_prompt = 0;
  std::int32_t is_constrained = 0;  // a token comes only with a mask
  std::int32_t num_logprobs = -1, num_prompt_logprobs = -1;

  Span<std::int32_t> bias_ids;  // bias_amounts has as many
  Span<float> bias_amounts;
  Span<std::int32_t> breakers;    // rising
  Span<std::int32_t> bad_tokens;  // of all words, one after the other
  Span<std::int32_t> bad_ends;    // of each word, where it ends among them
  Span<std::int32_t> stop_ids;
  Span<std::int32_t> allowed;
  bool limits_allowed = false;
  Span<std::uint32_t> mask;  // a bit for each token that may come, the lowest first; empty: none was given
};

// The first tokens of the order are sorted if they are no more.
inline constexpr std::int64_t kMostKept = 256;

enum class SampleFault : std::int32_t { none, not_a_number, infinite, all_masked, nothing_left, no_embedding, no_mask };

struct Candidate {
  float score;
  std::int32_t id;
};

struct SampleResult {
  std::int32_t token_id = -1;
  float logprob = 0.0f;
  float mirostat_mu = 0.0f;
  SampleFault fault = SampleFault::none;
  std::int32_t num_top = 0;
  Candidate* top = nullptr;  // room for num_logprobs; scores are log-probabilities
};

}  // namespace ridgeline
