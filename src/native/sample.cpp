// sample: one row's logits become a token. In this order: repetition penalty, temperature, top-k, top-p, min-p, then
// the largest of logit / temperature + Gumbel noise. Temperature 0 is the argmax. Ties go to the lowest id everywhere.
//
// The noise of a token is -log(-log(u)), u = (x + 0.5) 2^-32, x the first word of Philox 4x32-10 (Salmon et al. 2011)
// under counter (position lo, position hi, token id, 0) and key (seed lo, seed hi); position is the index in the row
// that the token will have. One thread samples a row, so the result knows nothing of threads.
//
// Speed: the filters are one cut in the order (score down, id up), found by selection among a few candidates and never
// by sorting the vocabulary; noise is computed only for tokens that could still win.
#include "sample.h"

#include "family_kernels.h"
#include "simd.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

constexpr std::int64_t kSpan = 64;  // tokens of which the largest score is remembered

struct Scratch {
  float* scores;          // [vocab]
  float* span_tops;       // [vocab / kSpan]
  float* span_scratch;    // as span_tops
  Candidate* candidates;  // [vocab]
  std::uint32_t* seen;    // [vocab] bits; all zero between calls
};

std::int64_t num_spans(std::int64_t vocab) { return (vocab + kSpan - 1) / kSpan; }

Scratch scratch_of(std::int64_t vocab, std::byte* memory) {
  const std::int64_t padded = num_spans(vocab) * kSpan;
  Scratch out;
  out.scores = reinterpret_cast<float*>(memory);
  out.span_tops = out.scores + padded;
  out.span_scratch = out.span_tops + num_spans(vocab);
  out.candidates = reinterpret_cast<Candidate*>(out.span_scratch + num_spans(vocab));
  out.seen = reinterpret_cast<std::uint32_t*>(out.candidates + padded);
  return out;
}

// Whether a comes before b: higher score, or the same and a lower id.
inline bool before(const Candidate& a, const Candidate& b) {
  return a.score > b.score || (a.score == b.score && a.id < b.id);
}

// ---- selection (written out, so that no template of the standard library is compiled for an instruction set)

void sift_down(Candidate* heap, std::int64_t root, std::int64_t count) {
  for (std::int64_t child; (child = 2 * root + 1) < count; root = child) {
    if (child + 1 < count && before(heap[child], heap[child + 1])) child++;
    if (!before(heap[root], heap[child])) return;
    const Candidate moved = heap[root];
    heap[root] = heap[child];
    heap[child] = moved;
  }
}

// Sorts by `before`: heapsort, since its worst case is its usual one. The heap's root is the last in the order.
void sort_candidates(Candidate* c, std::int64_t count) {
  for (std::int64_t i = count / 2; i-- > 0;) sift_down(c, i, count);
  for (std::int64_t end = count - 1; end > 0; end--) {
    const Candidate last = c[0];
    c[0] = c[end];
    c[end] = last;
    sift_down(c, 0, end);
  }
}

// Moves those before the pivot (a member's value) to the front; how many they are. The pivot comes right after them.
std::int64_t partition(Candidate* c, std::int64_t count) {
  const std::int64_t middle = count / 2;
  Candidate pivot = c[middle];
  c[middle] = c[count - 1];
  c[count - 1] = pivot;
  std::int64_t front = 0;
  for (std::int64_t i = 0; i < count - 1; i++)
    if (before(c[i], pivot)) {
      const Candidate moved = c[i];
      c[i] = c[front];
      c[front++] = moved;
    }
  c[count - 1] = c[front];
  c[front] = pivot;
  return front;
}

// Puts the first k of the order in front, in no order among themselves.
void select_first(Candidate* c, std::int64_t count, std::int64_t k) {
  while (count > 1 && k > 0 && k < count) {
    const std::int64_t front = partition(c, count);
    if (k <= front) {
      count = front;
    } else {
      c += front + 1;
      count -= front + 1;
      k -= front + 1;
    }
  }
}

// The k-th largest of `values`, which it reorders.
float kth_largest(float* values, std::int64_t count, std::int64_t k) {
  std::int64_t low = 0, high = count - 1;
  const std::int64_t target = k - 1;
  while (low < high) {
    const float pivot = values[low + (high - low) / 2];
    std::int64_t i = low, j = high;
    while (i <= j) {
      while (values[i] > pivot) i++;
      while (values[j] < pivot) j--;
      if (i <= j) {
        const float moved = values[i];
        values[i++] = values[j];
        values[j--] = moved;
      }
    }
    if (target <= j) {
      high = j;
    } else if (target >= i) {
      low = i;
    } else {
      break;
    }
  }
  return values[target];
}

// ---- scans of the vocabulary

inline Vec load_or_hidden(const float* p, std::int64_t n) {
  if (n >= kWidth) return load(p);
  float lane[kWidth];
  store(lane, all(-INFINITY));
  for (std::int64_t i = 0; i < n; i++) lane[i] = p[i];
  return load(lane);
}

// Fills span_tops; the largest of all. False at a NaN or +infinity.
bool scan_tops(const float* x, std::int64_t vocab, float* span_tops, float& top) {
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

void find_fault(const float* x, std::int64_t vocab, SampleResult& result) {
  for (std::int64_t i = 0; i < vocab; i++)
    if (!(x[i] < INFINITY)) {
      result.fault = std::isnan(x[i]) ? SampleFault::not_a_number : SampleFault::infinite;
      result.fault_id = static_cast<std::int32_t>(i);
      return;
    }
}

// Tokens with score >= bound, in order of id.
std::int64_t gather(const float* x, std::int64_t vocab, const float* span_tops, float bound, Candidate* out) {
  std::int64_t count = 0;
  for (std::int64_t s = 0; s < num_spans(vocab); s++) {
    if (!(span_tops[s] >= bound)) continue;
    for (std::int64_t i = s * kSpan; i < (s + 1) * kSpan && i < vocab; i++)
      if (x[i] >= bound) out[count++] = {x[i], static_cast<std::int32_t>(i)};
  }
  return count;
}

// Candidates among which the first k of the order are.
std::int64_t gather_first(const float* x, std::int64_t vocab, const Scratch& scratch, std::int64_t k) {
  const std::int64_t spans = num_spans(vocab);
  float bound = -INFINITY;
  if (k <= spans) {
    std::memcpy(scratch.span_scratch, scratch.span_tops, static_cast<std::size_t>(spans) * sizeof(float));
    // k spans reach at least this far up, each with a token.
    bound = kth_largest(scratch.span_scratch, spans, k);
  }
  return gather(x, vocab, scratch.span_tops, bound, scratch.candidates);
}

std::int32_t argmax(const float* x, std::int64_t vocab, const float* span_tops, float top) {
  for (std::int64_t s = 0; s < num_spans(vocab); s++) {
    if (span_tops[s] != top) continue;
    for (std::int64_t i = s * kSpan; i < (s + 1) * kSpan && i < vocab; i++)
      if (x[i] == top) return static_cast<std::int32_t>(i);
  }
  return 0;
}

// sum of e^(x - top) over the vocabulary: 16 lanes in float32 within a span, spans in float64.
double sum_exp(const float* x, std::int64_t vocab, float top) {
  double total = 0;
  for (std::int64_t s = 0; s < num_spans(vocab); s++) {
    Vec sums = zeros();
    for (std::int64_t i = s * kSpan; i < (s + 1) * kSpan && i < vocab; i += kWidth)
      sums = add(sums, exp(sub(load_or_hidden(x + i, vocab - i), all(top))));
    total += sum(sums);
  }
  return total;
}

// ---- noise

constexpr std::uint32_t kFactor0 = 0xD2511F53u, kFactor1 = 0xCD9E8D57u, kStep0 = 0x9E3779B9u, kStep1 = 0xBB67AE85u;
constexpr int kRounds = 10;

std::uint32_t philox_word(std::uint64_t seed, std::uint64_t position, std::uint32_t id) {
  std::uint32_t c0 = static_cast<std::uint32_t>(position), c1 = static_cast<std::uint32_t>(position >> 32), c2 = id,
                c3 = 0;
  std::uint32_t k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < kRounds; round++) {
    const std::uint64_t p0 = static_cast<std::uint64_t>(kFactor0) * c0, p1 = static_cast<std::uint64_t>(kFactor1) * c2;
    c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<std::uint32_t>(p1);
    c3 = static_cast<std::uint32_t>(p0);
    k0 += kStep0;
    k1 += kStep1;
  }
  return c0;
}

// philox_word of kSpan successive ids; several vectors side by side, since a round is one long chain.
void philox_words(std::uint64_t seed, std::uint64_t position, std::uint32_t first_id, std::uint32_t* out) {
  constexpr int kVectors = kSpan / kWidth;
  Words c0[kVectors], c1[kVectors], c2[kVectors], c3[kVectors];
  for (int i = 0; i < kVectors; i++) {
    c0[i] = all_words(static_cast<std::uint32_t>(position));
    c1[i] = all_words(static_cast<std::uint32_t>(position >> 32));
    c2[i] = words_from(first_id + static_cast<std::uint32_t>(i * kWidth));
    c3[i] = all_words(0);
  }
  std::uint32_t k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < kRounds; round++) {
    for (int i = 0; i < kVectors; i++) {
      Words high0, low0, high1, low1;
      multiply(c0[i], kFactor0, high0, low0);
      multiply(c2[i], kFactor1, high1, low1);
      c0[i] = exclusive_or(exclusive_or(high1, c1[i]), all_words(k0));
      c2[i] = exclusive_or(exclusive_or(high0, c3[i]), all_words(k1));
      c1[i] = low1;
      c3[i] = low0;
    }
    k0 += kStep0;
    k1 += kStep1;
  }
  for (int i = 0; i < kVectors; i++) store(out + i * kWidth, c0[i]);
}

float noisy(float score, std::uint32_t word) {
  const double u = (static_cast<double>(word) + 0.5) * 0x1p-32;
  return score + static_cast<float>(-std::log(-std::log(u)));
}

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

// Gumbel-max over every token with score >= cut, when no list of candidates was made. A token can only win if
// -log(-log(u)) >= best - score, and then 1 - u <= e^(score - best): a test on the raw word, with room for rounding.
std::int32_t sample_all(const SamplingArgs& args, const float* x, std::int64_t vocab, const float* span_tops, float top,
                        float cut, std::uint64_t position) {
  const std::int32_t likeliest = argmax(x, vocab, span_tops, top);
  Best best = {noisy(top, philox_word(args.seed, position, static_cast<std::uint32_t>(likeliest))), likeliest};
  for (std::int64_t s = 0; s < num_spans(vocab); s++) {
    // No noise exceeds 22.9.
    if (!(span_tops[s] >= cut) || span_tops[s] + 23.0f < best.score) continue;
    std::uint32_t span_words[kSpan];
    philox_words(args.seed, position, static_cast<std::uint32_t>(s * kSpan), span_words);
    for (std::int64_t i = s * kSpan; i < (s + 1) * kSpan && i < vocab; i += kWidth) {
      const std::uint32_t* words = span_words + (i - s * kSpan);
      float rest[kWidth];  // 1 - u
      for (int j = 0; j < kWidth; j++) rest[j] = (static_cast<float>(~words[j]) + 0.5f) * 0x1p-32f;
      const Vec score = load_or_hidden(x + i, vocab - i);
      const Vec reach = exp(add(sub(score, all(best.score)), all(1e-3f)));
      std::uint32_t open = bits(less(load(rest), reach));
      for (; open; open &= open - 1) {
        const int j = __builtin_ctz(open);
        if (i + j < vocab && x[i + j] >= cut)
          best.offer(noisy(x[i + j], words[j]), static_cast<std::int32_t>(i + j));
      }
    }
  }
  return best.id;
}

std::int32_t sample_candidates(const SamplingArgs& args, const Candidate* c, std::int64_t count,
                               std::uint64_t position) {
  Best best = {-INFINITY, INT32_MAX};
  for (std::int64_t i = 0; i < count; i++)
    best.offer(noisy(c[i].score, philox_word(args.seed, position, static_cast<std::uint32_t>(c[i].id))), c[i].id);
  return best.id;
}

// ---- filters

double mass(const Candidate* c, std::int64_t count, float top) {
  double total = 0;
  for (std::int64_t i = 0; i < count; i += kWidth) {
    float lane[kWidth];
    for (std::int64_t j = 0; j < kWidth; j++) lane[j] = i + j < count ? c[i + j].score : -INFINITY;
    store(lane, exp(sub(load(lane), all(top))));
    for (float p : lane) total += p;
  }
  return total;
}

// Keeps the shortest prefix of the order whose mass reaches `target`; its length. Splits as quickselect does, and goes
// on in the part that holds the cut.
std::int64_t keep_mass(Candidate* c, std::int64_t count, float top, double target) {
  std::int64_t kept = 0;
  while (count > 32) {
    const std::int64_t front = partition(c + kept, count);
    const double upper = mass(c + kept, front, top);
    if (upper >= target) {
      count = front;
      continue;
    }
    const double pivot = mass(c + kept + front, 1, top);
    kept += front + 1;
    count -= front + 1;
    target -= upper + pivot;
    if (target <= 0) return kept;
  }
  sort_candidates(c + kept, count);
  for (std::int64_t i = 0; i < count; i++) {
    if (target <= 0) return kept;
    target -= mass(c + kept, 1, top);
    kept++;
  }
  return kept;
}

// Candidates that hold `share` of the softmax's mass, cut exactly.
std::int64_t top_p_of_all(const float* x, std::int64_t vocab, const Scratch& scratch, float top, double share) {
  const double target = sum_exp(x, vocab, top) * share;
  for (const float depth : {3.0f, 6.0f, 12.0f, 24.0f, INFINITY}) {
    const std::int64_t count = gather(x, vocab, scratch.span_tops, top - depth, scratch.candidates);
    if (depth == INFINITY || mass(scratch.candidates, count, top) >= target)
      return keep_mass(scratch.candidates, count, top, target);
  }
  return 0;
}

// The lowest score that min_p lets through.
float min_p_cut(float min_p, float top) {
  if (min_p <= 0) return -INFINITY;
  const double bound = static_cast<double>(top) + std::log(static_cast<double>(min_p));
  float cut = static_cast<float>(bound);
  if (static_cast<double>(cut) < bound) cut = std::nextafter(cut, INFINITY);
  return cut > top ? top : cut;
}

// ---- the row

// Each token of the row once: positive scores divided, negative multiplied (Keskar et al. 2019).
void penalise(float penalty, const std::int32_t* tokens, std::int64_t num_tokens, float* scores, std::uint32_t* seen) {
  for (std::int64_t i = 0; i < num_tokens; i++) {
    const std::uint32_t bit = 1u << (tokens[i] % 32);
    std::uint32_t& word = seen[tokens[i] / 32];
    if (word & bit) continue;
    word |= bit;
    float& score = scores[tokens[i]];
    score = score > 0 ? score / penalty : score * penalty;
  }
  for (std::int64_t i = 0; i < num_tokens; i++) seen[tokens[i] / 32] = 0;
}

std::int32_t choose(const SamplingArgs& args, std::int64_t vocab, const Scratch& scratch, const float* raw, float top,
                    const std::int32_t* tokens, std::int64_t num_tokens) {
  const float* scores = raw;
  if (args.repetition_penalty != 1.0f) {
    std::memcpy(scratch.scores, raw, static_cast<std::size_t>(vocab) * sizeof(float));
    penalise(args.repetition_penalty, tokens, num_tokens, scratch.scores, scratch.seen);
    scores = scratch.scores;
    scan_tops(scores, vocab, scratch.span_tops, top);
  }
  if (args.temperature > 0) {
    // Held at the largest and the lowest float where a low temperature would go beyond; -infinity stays.
    const Vec temperature = all(args.temperature), limit = all(3.40282347e38f), hidden = all(-INFINITY);
    for (std::int64_t i = 0; i < vocab; i += kWidth) {
      const Vec score = load_n(scores + i, vocab - i);
      const Vec held = max(sub(zeros(), limit), min(limit, div(score, temperature)));
      store_n(scratch.scores + i, select(equal(score, hidden), hidden, held), vocab - i);
    }
    scores = scratch.scores;
    scan_tops(scores, vocab, scratch.span_tops, top);
  }
  if (args.temperature == 0) return argmax(scores, vocab, scratch.span_tops, top);

  // The row's length is the position of the token to come.
  const std::uint64_t position = static_cast<std::uint64_t>(num_tokens);
  const float cut = min_p_cut(args.min_p, top);
  const bool some = args.top_k > 0 && args.top_k < vocab;
  std::int64_t count;
  if (some) {
    count = gather_first(scores, vocab, scratch, args.top_k);
    select_first(scratch.candidates, count, args.top_k);
    count = args.top_k;
    if (args.top_p < 1)
      count = keep_mass(scratch.candidates, count, top, mass(scratch.candidates, count, top) * args.top_p);
  } else if (args.top_p < 1) {
    count = top_p_of_all(scores, vocab, scratch, top, args.top_p);
  } else {
    return sample_all(args, scores, vocab, scratch.span_tops, top, cut, position);
  }
  std::int64_t kept = 0;
  for (std::int64_t i = 0; i < count; i++)
    if (scratch.candidates[i].score >= cut && scratch.candidates[i].score > -INFINITY)
      scratch.candidates[kept++] = scratch.candidates[i];
  if (kept == 0) return argmax(scores, vocab, scratch.span_tops, top);
  return sample_candidates(args, scratch.candidates, kept, position);
}

}  // namespace

std::size_t sample_scratch_bytes(std::int64_t vocab) {
  const std::int64_t padded = num_spans(vocab) * kSpan;
  return static_cast<std::size_t>(padded) * (sizeof(float) + sizeof(Candidate)) +
         static_cast<std::size_t>(num_spans(vocab)) * 2 * sizeof(float) + static_cast<std::size_t>(padded / 8) + 64;
}

void sample(const SamplingArgs& args, const float* logits, std::int64_t vocab, const std::int32_t* tokens,
            std::int64_t num_tokens, std::byte* memory, SampleResult& result) {
  const Scratch scratch = scratch_of(vocab, memory);
  std::memset(scratch.seen, 0, static_cast<std::size_t>(vocab / 32 + 1) * 4);
  float top;
  if (!scan_tops(logits, vocab, scratch.span_tops, top)) {
    find_fault(logits, vocab, result);
    return;
  }
  if (top == -INFINITY) {
    result.fault = SampleFault::all_masked;
    return;
  }
  double log_total = 0;
  if (args.num_logprobs >= 0) {
    log_total = static_cast<double>(top) + std::log(sum_exp(logits, vocab, top));
    const std::int64_t wanted = args.num_logprobs < vocab ? args.num_logprobs : vocab;
    if (wanted > 0) {
      const std::int64_t count = gather_first(logits, vocab, scratch, wanted);
      select_first(scratch.candidates, count, wanted);
      sort_candidates(scratch.candidates, wanted);
      for (std::int64_t i = 0; i < wanted; i++)
        result.top[i] = {static_cast<float>(scratch.candidates[i].score - log_total), scratch.candidates[i].id};
    }
    result.num_top = static_cast<std::int32_t>(wanted);
  }
  result.token_id = choose(args, vocab, scratch, logits, top, tokens, num_tokens);
  if (args.num_logprobs >= 0) result.logprob = static_cast<float>(logits[result.token_id] - log_total);
}

}  // namespace ridgeline::RIDGELINE_ISA
