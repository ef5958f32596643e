// sample: temperature by entropy, and the filters that say which tokens may be drawn: top-n-sigma, top-k, typical, top-p,
// min-p, XTC, mirostat 2, in this order. docs/sampling.md has the meaning of each.
//
// What is left is first a cut in the scores and becomes a list of candidates where a filter needs an order. Lists are
// found by selection among few and never by sorting the vocabulary.
#include <cmath>

#include "sample_noise.h"
#include "sample_parts.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

constexpr double kLn2 = 0.6931471805599453;

// The smallest float that is not below.
float not_below(double bound) {
  if (bound < kLowest) return kLowest;
  if (bound > kLargest) return INFINITY;
  const float cut = static_cast<float>(bound);
  return static_cast<double>(cut) < bound ? std::nextafter(cut, INFINITY) : cut;
}

// The sum of e^(score - top) over candidates; their scores are x[id] if there is an x.
double mass(const Candidate* c, std::int64_t count, float top, const float* x = nullptr) {
  double total = 0;
  for (std::int64_t i = 0; i < count; i += kWidth) {
    float lane[kWidth];
    for (std::int64_t j = 0; j < kWidth; j++)
      lane[j] = i + j >= count ? -INFINITY : x ? x[c[i + j].id] : c[i + j].score;
    store(lane, exp(sub(load(lane), all(top))));
    for (float p : lane) total += p;
  }
  return total;
}

// Keeps the shortest prefix of the order whose mass reaches `target`; its length. Splits as quickselect does, and goes
// on in the part that holds the cut.
std::int64_t keep_mass(Candidate* c, std::int64_t count, float top, double target, const float* x = nullptr) {
  std::int64_t kept = 0;
  while (count > 32) {
    const std::int64_t front = partition(c + kept, count);
    const double upper = mass(c + kept, front, top, x);
    if (upper >= target) {
      count = front;
      continue;
    }
    const double pivot = mass(c + kept + front, 1, top, x);
    kept += front + 1;
    count -= front + 1;
    target -= upper + pivot;
    if (target <= 0) return kept;
  }
  sort_candidates(c + kept, count);
  for (std::int64_t i = 0; i < count; i++) {
    if (target <= 0) return kept;
    target -= mass(c + kept, 1, top, x);
    kept++;
  }
  return kept;
}

double mass_left(const Left& left) {
  if (left.is_listed) return mass(left.scratch.candidates, left.count, left.top);
  if (left.cut == kLowest) return sum_exp(left.x, left.vocab, left.top);
  return masses(left.x, left.vocab, left.scratch.span_tops, left.top, left.cut).weight;
}

// Candidates with a score of at least `bound` stay.
void keep_from(Left& left, float bound) {
  if (!left.is_listed) {
    if (bound > left.cut) left.cut = bound;
    return;
  }
  Candidate* c = left.scratch.candidates;
  std::int64_t kept = 0;
  for (std::int64_t i = 0; i < left.count; i++)
    if (c[i].score >= bound) c[kept++] = c[i];
  left.count = kept;
}

void list_all(Left& left, float bound) {
  left.count = gather(left.x, left.vocab, left.scratch.span_tops, bound, left.scratch.candidates);
  left.is_listed = true;
}

// Tang et al. 2024: within n standard deviations of the largest. Sums in float64, in eight lanes.
void top_n_sigma(float n, Left& left) {
  const auto over_all = [&](auto&& term) {
    double lane[8] = {};
    std::int64_t i = 0;
    for (; i + 8 <= left.vocab; i += 8)
      for (int j = 0; j < 8; j++) lane[j] += left.x[i + j] >= kLowest ? term(left.x[i + j]) : 0.0;
    for (; i < left.vocab; i++) lane[0] += left.x[i] >= kLowest ? term(left.x[i]) : 0.0;
    return ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
  };
  const double count = over_all([](float) { return 1.0; });
  const double mean = over_all([](float v) { return static_cast<double>(v); }) / count;
  const double variance = over_all([=](float v) { return (v - mean) * (v - mean); }) / count;
  keep_from(left, not_below(left.top - n * std::sqrt(variance)));
}

void top_k(std::int64_t k, Left& left) {
  if (k >= left.vocab) return;
  left.count = gather_first(left.x, left.vocab, left.scratch, k, left.cut);
  left.is_listed = true;
  if (left.count > k) {
    select_first(left.scratch.candidates, left.count, k);
    left.count = k;
  }
  // Of sums over a few it must not matter among how many others they were (Head::is_cut).
  if (k <= kMostKept) sort_candidates(left.scratch.candidates, left.count);
}

// Tokens with |x - centre| <= reach, their scores the negated distances.
std::int64_t gather_near(const Left& left, float centre, float reach) {
  const Vec middle = all(centre), beyond = all(reach), least = all(left.cut);
  Candidate* c = left.scratch.candidates;
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < left.vocab; i += kWidth) {
    const Vec v = load_or_hidden(left.x + i, left.vocab - i);
    float distance[kWidth];
    const Vec away = absolute(sub(v, middle));
    store(distance, away);
    std::uint32_t open = ~(bits(less(beyond, away)) | bits(less(v, least))) & 0xffffu;
    for (; open; open &= open - 1) {
      const int j = __builtin_ctz(open);
      c[count++] = {-distance[j], static_cast<std::int32_t>(i + j)};
    }
  }
  return count;
}

// Meister et al. 2022: the fewest tokens of at least this mass whose surprise is nearest the entropy.
void typical(float share, Left& left) {
  Candidate* c = left.scratch.candidates;
  Masses all_of = {};
  if (left.is_listed) {
    for (std::int64_t i = 0; i < left.count; i++) {
      const double w = mass(c + i, 1, left.top);
      all_of.weight += w;
      if (w > 0) all_of.weighted += w * (static_cast<double>(c[i].score) - left.top);
    }
  } else {
    all_of = masses(left.x, left.vocab, left.scratch.span_tops, left.top, left.cut);
  }
  // The score of a token whose surprise is the entropy: the mean of the scores.
  const float centre = static_cast<float>(left.top + all_of.weighted / all_of.weight);
  const double target = all_of.weight * share;
  if (left.is_listed) {
    for (std::int64_t i = 0; i < left.count; i++) c[i].score = -std::fabs(c[i].score - centre);
  } else {
    for (const float reach : {0.5f, 2.0f, 8.0f, 32.0f, INFINITY}) {
      left.count = gather_near(left, centre, reach);
      if (reach == INFINITY || mass(c, left.count, left.top, left.x) >= target) break;
    }
    left.is_listed = true;
  }
  left.count = keep_mass(c, left.count, left.top, target, left.x);
  left.top = -INFINITY;
  for (std::int64_t i = 0; i < left.count; i++) {
    c[i].score = left.x[c[i].id];
    if (c[i].score > left.top) left.top = c[i].score;
  }
}

void top_p(float share, Left& left) {
  const double target = mass_left(left) * share;
  Candidate* c = left.scratch.candidates;
  if (!left.is_listed)
    for (const float depth : {3.0f, 6.0f, 12.0f, 24.0f, INFINITY}) {
      const float bound = left.top - depth;
      list_all(left, bound > left.cut ? bound : left.cut);
      if (bound <= left.cut || mass(c, left.count, left.top) >= target) break;
    }
  left.count = keep_mass(c, left.count, left.top, target);
}

void min_p(float share, Left& left) {
  const float bound = not_below(static_cast<double>(left.top) + std::log(static_cast<double>(share)));
  keep_from(left, bound > left.top ? left.top : bound);
}

// A list of many is drawn from as scores: noise for a span of tokens costs little more than for one.
void scatter(Left& left) {
  const Candidate* c = left.scratch.candidates;
  for (std::int64_t i = 0; i < left.vocab; i++) left.scratch.scores[i] = -INFINITY;
  for (std::int64_t i = 0; i < left.count; i++) left.scratch.scores[c[i].id] = c[i].score;
  left.x = left.scratch.scores;
  left.cut = kLowest;
  left.is_listed = false;
  scan_tops(left.x, left.vocab, left.scratch.span_tops, left.top);
}

// p-e-w 2024: by the row's coin, of the tokens with at least this share all but the least likely go.
void xtc(const SamplingArgs& args, std::int64_t position, Left& left) {
  const double coin = uniform_of(philox_word(args.seed, static_cast<std::uint64_t>(position), 0, kCoin));
  if (coin >= args.xtc_probability) return;
  const double wanted = mass_left(left) * args.xtc_threshold;
  Candidate* c = left.scratch.candidates;
  const bool was_listed = left.is_listed;
  std::int64_t enough = 0;
  if (was_listed) {
    // Those with enough to the front of the list.
    for (std::int64_t i = 0; i < left.count; i++)
      if (mass(c + i, 1, left.top) >= wanted) {
        const Candidate moved = c[i];
        c[i] = c[enough];
        c[enough++] = moved;
      }
  } else {
    const float bound = wanted > 0 ? not_below(left.top + std::log(wanted)) : kLowest;
    enough = gather(left.x, left.vocab, left.scratch.span_tops, bound > left.cut ? bound : left.cut, c);
  }
  if (enough < 2) return;
  std::int64_t last = 0;
  for (std::int64_t i = 1; i < enough; i++)
    if (before(c[last], c[i])) last = i;
  left.top = c[last].score;
  if (was_listed) {
    c[0] = c[last];
    for (std::int64_t i = enough; i < left.count; i++) c[i - enough + 1] = c[i];
    left.count -= enough - 1;
    return;
  }
  if (left.x != left.scratch.scores)
    std::memcpy(left.scratch.scores, left.x, static_cast<std::size_t>(left.vocab) * sizeof(float));
  left.x = left.scratch.scores;
  for (std::int64_t i = 0; i < enough; i++)
    if (i != last) left.scratch.scores[c[i].id] = -INFINITY;
  scan_tops(left.x, left.vocab, left.scratch.span_tops, left.top);
}

// Basu et al. 2021, version 2: tokens with a surprise of at most mu bits, the likeliest always.
void mirostat(float mu, Left& left) {
  const float bound = not_below(left.top + std::log(mass_left(left)) - static_cast<double>(mu) * kLn2);
  if (bound <= left.top) {
    keep_from(left, bound);
    return;
  }
  if (!left.is_listed) list_all(left, left.top);
  sort_candidates(left.scratch.candidates, left.count);
  left.count = 1;
}

}  // namespace

float dynamic_temperature(const SamplingArgs& args, const Left& left) {
  const Masses over = masses(left.x, left.vocab, left.scratch.span_tops, left.top, kLowest);
  const double entropy = std::log(over.weight) - over.weighted / over.weight;
  double share = over.count > 1 ? entropy / std::log(static_cast<double>(over.count)) : 0;
  share = share < 0 ? 0 : share > 1 ? 1 : share;
  const double base = args.temperature, range = args.dynatemp_range;
  const double low = base > range ? base - range : 0;
  return static_cast<float>(low + (base + range - low) * std::pow(share, static_cast<double>(args.dynatemp_exponent)));
}

void filter(const SamplingArgs& args, std::int64_t position, Left& left) {
  if (args.top_n_sigma > 0) top_n_sigma(args.top_n_sigma, left);
  if (args.top_k > 0) top_k(args.top_k, left);
  if (args.typical_p < 1) typical(args.typical_p, left);
  if (args.top_p < 1) top_p(args.top_p, left);
  if (args.min_p > 0) min_p(args.min_p, left);
  if (args.xtc_probability > 0) xtc(args, position, left);
  if (args.mirostat_tau > 0) mirostat(args.mirostat_mu, left);
  if (left.is_listed && left.count > left.vocab / 16 && left.count > 64) scatter(left);
}

float next_mu(const SamplingArgs& args, const Left& left, float z) {
  const double log_p = static_cast<double>(z) - left.top - std::log(mass_left(left));
  const double error = -log_p / kLn2 - args.mirostat_tau;
  return static_cast<float>(args.mirostat_mu - args.mirostat_eta * error);
}

}  // namespace ridgeline::RIDGELINE_ISA
