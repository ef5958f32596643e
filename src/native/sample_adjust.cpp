// sample: what a request says of single tokens, done to the logits before any temperature: bias, penalties, bans.
//
// A logit of -infinity, a token that cannot come, stays; everything else is held within float32's range. Each touches
// only the tokens that it speaks of.
#include <cmath>

#include "penalties.h"
#include "sample_parts.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

// The row's tokens from the last to the first.
struct Backwards {
  const std::int32_t* end;
  std::int64_t size;
  std::int32_t operator[](std::int64_t i) const { return end[-1 - i]; }
};

// The Z array (Gusfield 1997): for each start, how many tokens from there on are those of the beginning.
void repeats(const Backwards& r, std::int32_t* lengths) {
  if (r.size > 0) lengths[0] = static_cast<std::int32_t>(r.size);
  std::int64_t left = 0, right = 0;
  for (std::int64_t start = 1; start < r.size; start++) {
    std::int64_t length = 0;
    if (start < right) length = lengths[start - left] < right - start ? lengths[start - left] : right - start;
    while (start + length < r.size && r[length] == r[start + length]) length++;
    lengths[start] = static_cast<std::int32_t>(length);
    if (start + length > right) {
      left = start;
      right = start + length;
    }
  }
}

bool holds(const Span<std::int32_t>& rising, std::int32_t id) {
  std::int64_t low = 0, high = rising.size;
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (rising.data[middle] < id) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < rising.size && rising.data[low] == id;
}

// Once for each token of [tokens, tokens + count): do(id, how often it is there). marks: [vocab], undefined before.
template <typename Do>
void for_each_distinct(const std::int32_t* tokens, std::int64_t count, std::int64_t vocab, std::int32_t* marks,
                       Do&& act) {
  for (std::int64_t i = 0; i < count; i++)
    if (tokens[i] < vocab) marks[tokens[i]] = 0;
  for (std::int64_t i = 0; i < count; i++)
    if (tokens[i] < vocab) marks[tokens[i]]++;
  for (std::int64_t i = 0; i < count; i++) {
    if (tokens[i] >= vocab || marks[tokens[i]] == 0) continue;
    act(tokens[i], marks[tokens[i]]);
    marks[tokens[i]] = 0;
  }
}

// DRY (p-e-w 2024): a token that would lengthen a repetition of n tokens loses multiplier * base^(n - allowed).
void dry(const SamplingArgs& args, Backwards r, float* x, std::int64_t vocab, std::int32_t* marks,
         std::int32_t* lengths) {
  if (args.dry_last_n >= 0 && args.dry_last_n < r.size) r.size = args.dry_last_n;
  std::int64_t longest = 0;
  while (longest < r.size && !holds(args.breakers, r[longest])) longest++;
  if (longest < args.dry_allowed_length) return;
  repeats(r, lengths);
  const auto length_at = [&](std::int64_t start) { return lengths[start] < longest ? lengths[start] : longest; };
  for (int pass = 0; pass < 3; pass++)
    for (std::int64_t start = 1; start < r.size; start++) {
      const std::int64_t length = length_at(start);
      const std::int32_t id = r[start - 1];
      if (length < args.dry_allowed_length || id >= vocab) continue;
      if (pass == 0) {
        marks[id] = 0;
      } else if (pass == 1) {
        if (length > marks[id]) marks[id] = static_cast<std::int32_t>(length);
      } else if (marks[id] > 0) {
        // By repeated multiplication, not by pow, so that every backend has the same float64.
        double loss = args.dry_multiplier;
        for (std::int64_t n = args.dry_allowed_length; n < marks[id] && loss < kLargest && args.dry_base > 1; n++) {
          loss *= args.dry_base;
          if (loss > kLargest) loss = kLargest;
        }
        change(x[id], x[id] - static_cast<float>(loss));
        marks[id] = 0;
      }
    }
}

// Tokens that would end an n-gram that the row has already (Paulus et al. 2017).
void ban_ngrams(std::int32_t n, const Backwards& r, float* x, std::int64_t vocab, std::int32_t* lengths) {
  if (n == 1) {
    for (std::int64_t i = 0; i < r.size; i++)
      if (r[i] < vocab) x[r[i]] = -INFINITY;
    return;
  }
  if (r.size < n) return;
  repeats(r, lengths);
  for (std::int64_t start = 1; start < r.size; start++)
    if (lengths[start] >= n - 1 && r[start - 1] < vocab) x[r[start - 1]] = -INFINITY;
}

void ban_words(const SamplingArgs& args, const std::int32_t* tokens, std::int64_t num_tokens, float* x) {
  std::int64_t begin = 0;
  for (std::int64_t w = 0; w < args.bad_ends.size; w++) {
    const std::int64_t length = args.bad_ends.data[w] - begin;
    const std::int32_t* word = args.bad_tokens.data + begin;
    begin += length;
    std::int64_t same = 0;
    while (same < length - 1 && length - 1 <= num_tokens && tokens[num_tokens - (length - 1) + same] == word[same])
      same++;
    if (same == length - 1) x[word[length - 1]] = -INFINITY;
  }
}

void keep_allowed(const Span<std::int32_t>& allowed, float* x, std::int64_t vocab, Candidate* kept) {
  for (std::int64_t i = 0; i < allowed.size; i++) kept[i] = {x[allowed.data[i]], allowed.data[i]};
  for (std::int64_t i = 0; i < vocab; i++) x[i] = -INFINITY;
  for (std::int64_t i = 0; i < allowed.size; i++) x[kept[i].id] = kept[i].score;
}

void keep_masked(const Span<std::uint32_t>& mask, float* x, std::int64_t vocab) {
  for (std::int64_t w = 0; w < mask.size; w++) {
    if (mask.data[w] == 0xffffffffu) continue;
    const std::int64_t begin = 32 * w, end = begin + 32 < vocab ? begin + 32 : vocab;
    for (std::int64_t i = begin; i < end; i++)
      if (!(mask.data[w] >> (i - begin) & 1u)) x[i] = -INFINITY;
  }
}

bool awaits_minimum(const SamplingArgs& args, std::int64_t num_tokens) {
  return num_tokens - args.num_prompt < args.min_tokens && args.stop_ids.size > 0;
}

}  // namespace

bool adjusts(const SamplingArgs& args, std::int64_t num_tokens) {
  return args.repetition_penalty != 1 || args.frequency_penalty != 0 || args.presence_penalty != 0 ||
         args.dry_multiplier != 0 || args.no_repeat_ngram != 0 || args.bias_ids.size != 0 || args.bad_ends.size != 0 ||
         args.limits_allowed || args.mask.size != 0 || awaits_minimum(args, num_tokens);
}

void adjust(const SamplingArgs& args, const std::int32_t* tokens, std::int64_t num_tokens, float* x,
            std::int64_t vocab, const Scratch& scratch) {
  auto* marks = reinterpret_cast<std::int32_t*>(scratch.candidates);
  for (std::int64_t i = 0; i < args.bias_ids.size; i++) {
    float& biased = x[args.bias_ids.data[i]];
    change(biased, biased + args.bias_amounts.data[i]);
  }
  const bool sees_all = args.penalty_last_n < 0 || args.penalty_last_n > num_tokens;
  const std::int64_t first = sees_all ? 0 : num_tokens - args.penalty_last_n;
  const std::int64_t first_answer = first > args.num_prompt ? first : args.num_prompt;
  if (args.repetition_penalty != 1)
    for_each_distinct(tokens + first, num_tokens - first, vocab, marks, [&](std::int32_t id, std::int32_t) {
      penalize_repeated(x[id], args.repetition_penalty);
    });
  if ((args.frequency_penalty != 0 || args.presence_penalty != 0) && num_tokens > first_answer)
    for_each_distinct(tokens + first_answer, num_tokens - first_answer, vocab, marks,
                      [&](std::int32_t id, std::int32_t times) {
                        penalize_counted(x[id], args.frequency_penalty, args.presence_penalty, times);
                      });
  const Backwards row = {tokens + num_tokens, num_tokens};
  if (args.dry_multiplier != 0 && args.dry_last_n != 0) dry(args, row, x, vocab, marks, scratch.lengths);
  if (args.no_repeat_ngram != 0) ban_ngrams(args.no_repeat_ngram, row, x, vocab, scratch.lengths);
  ban_words(args, tokens, num_tokens, x);
  if (awaits_minimum(args, num_tokens))
    for (std::int64_t i = 0; i < args.stop_ids.size; i++) x[args.stop_ids.data[i]] = -INFINITY;
  if (args.limits_allowed) keep_allowed(args.allowed, x, vocab, scratch.candidates);
  keep_masked(args.mask, x, vocab);
}

}  // namespace ridgeline::RIDGELINE_ISA
