// sample: what the program needs of the family; sample.cpp has the meaning.
#pragma once

#include <cstdint>

namespace ridgeline {

struct SamplingArgs {
  float repetition_penalty = 1.0f;
  float temperature = 0.0f;
  std::int32_t top_k = 0;
  float top_p = 1.0f;
  float min_p = 0.0f;
  std::uint64_t seed = 0;
  std::int32_t num_logprobs = -1;
};

enum class SampleFault : std::int32_t { none, not_a_number, infinite, all_masked };

struct Candidate {
  float score;
  std::int32_t id;
};

struct SampleResult {
  std::int32_t token_id = -1;
  float logprob = 0.0f;
  SampleFault fault = SampleFault::none;
  std::int32_t fault_id = -1;   // the first token whose logit is at fault
  std::int32_t num_top = 0;
  Candidate* top = nullptr;     // room for num_logprobs; scores are log-probabilities
};

}  // namespace ridgeline
