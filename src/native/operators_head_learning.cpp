// What a head's screen learns of the rows that it sees (operators_head.h), and that as it is kept.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "operators_head.h"

namespace ridgeline {
namespace {

// What is usual is at least this share of the mean of all: what was nothing so far need not stay so.
constexpr float kLeastShare = 0.02f;

constexpr std::int64_t kSeenAtOnce = 2;

// Of power iteration. What is left of a vector without the directions before it, if it is a smaller share, is rounding: it may
// point anywhere, along those directions, too.
constexpr int kTurns = 24;
constexpr double kLeastLeft = 1e-6;

// What kernels round of scales (2^-11), and a little more; and where it is known what they multiply, of sums alone.
constexpr float kRounding = 1.5e-3f, kSumsRounding = 1e-4f;

}  // namespace

void Head::forget() {
  num_seen_ = learn_end_ = 0;
  for (float* each : {screen_.usual.size, screen_.usual.residue}) std::fill(each, each + part_.matrix.k, 0.0f);
  for (float* each : {screen_.usual.along, screen_.usual.weights}) std::fill(each, each + kDirections * part_.matrix.k, 0.0f);
}

// What is usual, until the last row of it a sum. Rows that are not finite say nothing.
void Head::watch(const StepContext& context, Worker& worker) {
  const std::int64_t k = part_.matrix.k, rows = context.rows(y_);
  x_.quantize(context, 0, rows);
  // Few of a step, whatever their number, and in turns: rows of one step are at the same place of their answers.
  for (std::int64_t i = 0; i < std::min(rows, kSeenAtOnce) && num_seen_ < screen_.learn_rows; i++) {
    const std::int64_t row = num_seen_ % rows;
    const auto [exact, screened] = decoded(context, worker, row, screen_.integers);
    float total = 0;
    for (std::int64_t i = 0; i < k; i++) total += std::fabs(screened[i]) + std::fabs(exact[i]);
    if (!std::isfinite(total)) return;
    for (std::int64_t i = 0; i < k; i++) {
      screen_.usual.size[i] += std::fabs(screened[i]);
      screen_.usual.residue[i] += std::fabs(exact[i] - screened[i]);
      screen_.seen[num_seen_ * k + i] = screened[i];
    }
    num_seen_++;
  }
  if (num_seen_ == screen_.learn_rows) settle();
}

// Means of what was seen, and its directions: the first ones that the rows vary along, and about zero, by power iteration.
void Head::settle() const {
  const std::int64_t k = part_.matrix.k;
  const ScreenUsual& usual = screen_.usual;
  for (float* each : {usual.size, usual.residue}) {
    float total = 0;
    for (std::int64_t i = 0; i < k; i++) total += each[i];
    const float least = total > 0 ? kLeastShare * total / static_cast<float>(k) : 1.0f;
    for (std::int64_t i = 0; i < k; i++) each[i] = (each[i] + least) / static_cast<float>(num_seen_);
  }
  std::vector<double> found, next(static_cast<std::size_t>(k));
  const auto length = [&] { return std::sqrt(std::inner_product(next.begin(), next.end(), next.begin(), 0.0)); };
  for (int direction = 0; direction < kDirections; direction++) {
    std::vector<double> now(static_cast<std::size_t>(k), 1.0);
    for (int turn = 0; turn < kTurns; turn++) {
      std::fill(next.begin(), next.end(), 0.0);
      for (std::int64_t row = 0; row < num_seen_; row++) {
        const float* x = screen_.seen + row * k;
        double share = 0;
        for (std::int64_t i = 0; i < k; i++) share += now[i] * x[i] / std::sqrt(usual.size[i]);
        for (std::int64_t i = 0; i < k; i++) next[i] += share * x[i] / std::sqrt(usual.size[i]);
      }
      const double whole = length();
      for (std::size_t before = 0; before < found.size(); before += next.size()) {
        const double share = std::inner_product(next.begin(), next.end(), found.begin() + before, 0.0);
        for (std::size_t i = 0; i < next.size(); i++) next[i] -= share * found[before + i];
      }
      const double size = length();
      // There is none, and what is left of them is zero.
      if (!(size > kLeastLeft * whole) || !(size > 0) || !std::isfinite(size)) return;
      for (std::size_t i = 0; i < next.size(); i++) now[i] = next[i] / size;
    }
    for (std::int64_t i = 0; i < k; i++) {
      const double root = std::sqrt(usual.size[i]);
      usual.along[direction * k + i] = static_cast<float>(now[i] / root);
      usual.weights[direction * k + i] = static_cast<float>(now[i] * root);
    }
    found.insert(found.end(), now.begin(), now.end());
  }
}

void Head::learn(const StepContext& context, Worker& worker, std::int64_t strip) const {
  const std::int64_t k = part_.matrix.k, first = strip * kStripChannels;
  const Kernels& kernels = context.kernels;
  float *w = floats_of(context, worker), *copy = w + k, *rest = copy + k;
  StripNorms most{0, 0, 0, 0};
  for (std::int64_t c = first; c < std::min(first + kStripChannels, part_.matrix.n); c++) {
    kernels.decode_row(screen_.weights.format, screen_.weights.row(c), k, w);
    const bool has_unpacked = kernels.unpack_channel(screen_.matrix, c, false, copy);
    if (!has_unpacked) {
      auto* row = reinterpret_cast<std::byte*>(rest);
      kernels.screen_row(w, k, row);
      kernels.decode_row(kScreenFormat, row, k, copy);
    }
    const bool is_common = kernels.unpack_channel(part_.matrix, c, false, w);
    const ChannelNorms norms = kernels.screen_channel(w, copy, screen_.usual, k);
    screen_.apart[c] = kBoundMargin * norms.apart;
    for (int j = 0; j < kDirections; j++) screen_.along[j * part_.matrix.n + c] = norms.along[j];
    most.residue = std::max(most.residue, kBoundMargin * norms.whole_residue);
    const float rounding = has_unpacked && is_common ? kSumsRounding : kRounding;
    most.rounding = std::max(most.rounding, rounding * norms.whole);
    // What is beyond the first digits or bytes.
    const auto norms_of_rest = [&](const PackedMatrix& matrix, const float* whole) {
      kernels.unpack_channel(matrix, c, true, rest);
      for (std::int64_t i = 0; i < k; i++) rest[i] = whole[i] - rest[i];
      return kernels.screen_channel(rest, rest, screen_.usual, k);
    };
    if (has_unpacked)
      most.copy_rest = std::max(most.copy_rest, kBoundMargin * norms_of_rest(screen_.matrix, copy).whole_residue);
    if (is_common) most.rest = std::max(most.rest, kBoundMargin * norms_of_rest(part_.matrix, w).whole);
  }
  screen_.strips[strip] = most;
}

// f(numbers, how many of them, whether they are lengths).
template <class F>
void Head::each_learned(F f) const {
  const auto k = static_cast<std::size_t>(part_.matrix.k), n = static_cast<std::size_t>(part_.matrix.n);
  f(screen_.usual.size, k, true);
  f(screen_.usual.residue, k, true);
  f(screen_.usual.along, kDirections * k, false);
  f(screen_.usual.weights, kDirections * k, false);
  f(screen_.apart, n, true);
  f(screen_.along, kDirections * n, false);
  f(reinterpret_cast<float*>(screen_.strips), kStripFloats * static_cast<std::size_t>(num_strips()), true);
}

std::size_t Head::num_learned() const {
  std::size_t total = 0;
  each_learned([&](const float*, std::size_t count, bool) { total += count; });
  return total;
}

void Head::tell_learned(float* out) const {
  each_learned([&](const float* numbers, std::size_t count, bool) { out = std::copy(numbers, numbers + count, out); });
}

bool Head::learn(const float* learned, std::size_t count) {
  if (count != num_learned()) return false;
  bool is_right = true;
  const float* from = learned;
  each_learned([&](const float*, std::size_t size, bool are_lengths) {
    for (const float* end = from + size; from < end; from++) is_right &= std::isfinite(*from) && !(are_lengths && *from < 0);
  });
  if (!is_right) return false;
  each_learned([&](float* numbers, std::size_t size, bool) {
    std::copy(learned, learned + size, numbers);
    learned += size;
  });
  num_seen_ = screen_.learn_rows;
  learn_end_ = num_strips();
  return true;
}

}  // namespace ridgeline
