// sample: one row's logits become a token, and how likely a token was. docs/sampling.md has the meaning: bias, penalties
// and bans (sample_adjust.cpp), temperature, filters (sample_filters.cpp), then the largest of logit / temperature +
// Gumbel noise (sample_noise.h). Temperature 0 is the argmax. Ties go to the lowest id everywhere.
//
// One thread samples a row, so the result knows nothing of threads. Noise is computed only for tokens that could still
// win.
#include "sample.h"

#include "sample_noise.h"
#include "sample_parts.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

// The best of the tokens so far.
struct Best {
  float score;
  std::int32_t id;

  void offer(float candidate, std::int32_t candidate_id) {
    if (candidate > score || (candidate == score && candidate_id < id)) {
      score = candidate;
      id = candidate_id;
    }
  }
};

// Gumbel-max over every token with score >= cut, when no list of candidates was made. Whether one can win is asked of a span
// by its largest score and its strips' words, then of a strip, then of its tokens.
std::int32_t sample_all(const SamplingArgs& args, const float* x, std::int64_t vocab, const float* span_tops, float top,
                        float cut, std::uint64_t position) {
  static_assert(kSpan % kLuckyIds == 0);
  constexpr std::int64_t kStrips = kSpan / kLuckyIds;
  Noise noise(args.seed, position);
  const std::int32_t likeliest = argmax(x, vocab, span_tops, top);
  Best best = {noise.strip(likeliest / kLuckyIds).noisy(top, likeliest % kLuckyIds), likeliest};
  const std::int64_t spans = num_spans(vocab);
  float span_reach[kWidth];
  for (std::int64_t s = 0; s < spans; s++) {
    if (s % kWidth == 0) store(span_reach, most_time(load_or_hidden(span_tops + s, spans - s), best.score));
    const float most = span_reach[s % kWidth];
    if (!(span_tops[s] >= cut) || most < kLeastRest / kLuckyIds) continue;
    for (std::int64_t strip = s * kStrips; strip < (s + 1) * kStrips; strip++) {
      if (!(rest_of(noise.luck(strip)) / kLuckyIds < most)) continue;
      const StripNoise tokens = noise.strip(strip);
      const float* scores = x + strip * kLuckyIds;
      const std::int64_t count = vocab - strip * kLuckyIds < kLuckyIds ? vocab - strip * kLuckyIds : kLuckyIds;
      for (std::int64_t i = 0; i < count; i += kWidth) {
        std::uint32_t open = tokens.open(load_or_hidden(scores + i, count - i), i, count - i, best.score);
        for (; open; open &= open - 1) {
          const std::int64_t j = i + __builtin_ctz(open);
          if (scores[j] >= cut) best.offer(tokens.noisy(scores[j], j), static_cast<std::int32_t>(strip * kLuckyIds + j));
        }
      }
    }
  }
  return best.id;
}

std::int32_t sample_candidates(const SamplingArgs& args, const Candidate* c, std::int64_t count,
                               std::uint64_t position) {
  Noise noise(args.seed, position);
  Best best = {-INFINITY, INT32_MAX};
  for (std::int64_t i = 0; i < count; i++) {
    const std::int64_t strip = c[i].id / kLuckyIds;
    const std::uint32_t luck = philox_word(args.seed, position, static_cast<std::uint32_t>(strip), kLuck);
    const double most = std::exp(static_cast<double>(c[i].score) - static_cast<double>(best.score) + 1e-3);
    if (static_cast<double>(rest_of(luck)) / kLuckyIds > most) continue;
    best.offer(noise.strip(strip).noisy(c[i].score, c[i].id % kLuckyIds), c[i].id);
  }
  return best.id;
}

// -infinity stays.
void divide(const float* x, std::int64_t vocab, float by, float* out) {
  const Vec divisor = all(by), hidden = all(-INFINITY);
  for (std::int64_t i = 0; i < vocab; i += kWidth) {
    const Vec score = load_n(x + i, vocab - i);
    store_n(out + i, select(equal(score, hidden), hidden, tempered(score, divisor)), vocab - i);
  }
}

// The token, and mirostat's mu after it.
std::int32_t choose(const SamplingArgs& args, std::int64_t position, Left& left, float& mu) {
  if (args.temperature == 0) return argmax(left.x, left.vocab, left.scratch.span_tops, left.top);
  const float temperature = args.dynatemp_range > 0 ? dynamic_temperature(args, left) : args.temperature;
  if (temperature == 0) return argmax(left.x, left.vocab, left.scratch.span_tops, left.top);
  if (temperature != 1) {
    divide(left.x, left.vocab, temperature, left.scratch.scores);
    left.x = left.scratch.scores;
    scan_tops(left.x, left.vocab, left.scratch.span_tops, left.top);
  }
  filter(args, position, left);
  const std::uint64_t place = static_cast<std::uint64_t>(position);
  const std::int32_t id =
      left.is_listed ? sample_candidates(args, left.scratch.candidates, left.count, place)
                     : sample_all(args, left.x, left.vocab, left.scratch.span_tops, left.top, left.cut, place);
  if (args.mirostat_tau > 0) mu = next_mu(args, left, left.x[id]);
  return id;
}

// The likeliest `wanted` tokens in order, with their log-probabilities.
void likeliest(const float* logits, std::int64_t vocab, const Scratch& scratch, std::int64_t wanted, double log_total,
               Candidate* out) {
  if (wanted == 0) return;
  const std::int64_t count = gather_first(logits, vocab, scratch, wanted, -INFINITY);
  select_first(scratch.candidates, count, wanted);
  sort_candidates(scratch.candidates, wanted);
  for (std::int64_t i = 0; i < wanted; i++)
    out[i] = {static_cast<float>(scratch.candidates[i].score - log_total), scratch.candidates[i].id};
}

// scan_tops of logits as the model gave them: fills span_tops and top, unless something is wrong with them.
SampleFault scan(const float* logits, std::int64_t vocab, const Scratch& scratch, float& top) {
  if (!scan_tops(logits, vocab, scratch.span_tops, top)) return fault_of(logits, vocab);
  return top == -INFINITY ? SampleFault::all_masked : SampleFault::none;
}

double log_sum(const float* logits, std::int64_t vocab, float top) {
  return static_cast<double>(top) + std::log(sum_exp(logits, vocab, top));
}

std::int64_t at_most(std::int64_t n, std::int64_t most) { return n < 0 ? 0 : n < most ? n : most; }

}  // namespace

std::size_t sample_scratch_bytes(std::int64_t vocab, std::int64_t max_context) {
  const std::size_t spans = static_cast<std::size_t>(num_spans(vocab));
  return spans * kSpan * (sizeof(float) + sizeof(Candidate)) + spans * 2 * sizeof(float) +
         static_cast<std::size_t>(max_context) * sizeof(std::int32_t);
}

void sample(const SamplingArgs& args, const float* logits, std::int64_t vocab, const std::int32_t* tokens,
            std::int64_t num_tokens, std::byte* memory, SampleResult& result) {
  const Scratch scratch = scratch_of(vocab, memory);
  Left left{logits, vocab, scratch, 0};
  result.mirostat_mu = args.mirostat_mu;
  result.fault = scan(logits, vocab, scratch, left.top);
  if (result.fault != SampleFault::none) return;
  if (args.is_constrained && args.mask.size == 0) {
    result.fault = SampleFault::no_mask;
    return;
  }
  double log_total = 0;
  if (args.num_logprobs >= 0) {
    log_total = log_sum(logits, vocab, left.top);
    const std::int64_t wanted = at_most(args.num_logprobs, vocab);
    likeliest(logits, vocab, scratch, wanted, log_total, result.top);
    result.num_top = static_cast<std::int32_t>(wanted);
  }
  if (adjusts(args, num_tokens)) {
    std::memcpy(scratch.scores, logits, static_cast<std::size_t>(vocab) * sizeof(float));
    adjust(args, tokens, num_tokens, scratch.scores, vocab, scratch);
    left.x = scratch.scores;
    scan_tops(left.x, vocab, scratch.span_tops, left.top);
    if (left.top == -INFINITY) {
      result.fault = SampleFault::nothing_left;
      return;
    }
  }
  // The row's length is the position of the token to come.
  result.token_id = choose(args, num_tokens, left, result.mirostat_mu);
  if (args.num_logprobs >= 0) result.logprob = static_cast<float>(logits[result.token_id] - log_total);
}

SampleFault score(const float* logits, std::int64_t vocab, std::int32_t token_id, std::int64_t num_top,
                  std::byte* memory, Candidate* out) {
  const Scratch scratch = scratch_of(vocab, memory);
  float top;
  const SampleFault fault = scan(logits, vocab, scratch, top);
  if (fault != SampleFault::none) return fault;
  const double log_total = log_sum(logits, vocab, top);
  out[0] = {token_id < vocab ? static_cast<float>(logits[token_id] - log_total) : -INFINITY, token_id};
  likeliest(logits, vocab, scratch, at_most(num_top, vocab), log_total, out + 1);
  return SampleFault::none;
}

}  // namespace ridgeline::RIDGELINE_ISA
