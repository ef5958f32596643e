#include "filter_bounds.h"

#include <algorithm>
#include <cmath>
#include <functional>

namespace ridgeline {
namespace {

// A share of logits that dividing them by a temperature, or a filter's bound, may round away; what they may at most be, so
// that they are not held at the largest float then.
constexpr float kSlack = 1e-6f, kLeastSlack = 1e-30f, kMostLogit = 1e30f;

// Sums of e^x are within much less of what sampling finds; but x, a logit divided by a temperature, is rounded to a float, and
// e^x differs by what that is: two terms' roundings in the sum before the winner, and two in the whole.
constexpr double kMassSlack = 1e-4, kRounded = 0x1p-24, kRoundings = 8;

// What is so far below the winner adds nothing.
constexpr float kDepth = 16.0f;

float rounded_down(float logit) { return logit - kSlack * std::fabs(logit) - kLeastSlack; }

}  // namespace

bool leaves_few(const Wanted& wanted) {
  return wanted.top_k > 0 ? wanted.top_k <= kMostKept : wanted.top_p >= 1 && wanted.min_p > 0;
}

float least_left(const Wanted& wanted, float known) {
  if (wanted.top_k > 0) return rounded_down(known);
  const float depth = -wanted.temperature * std::log(std::min(wanted.min_p, 1.0f));
  return known - depth - kSlack * (2 * std::fabs(known) + 2 * depth) - kLeastSlack;
}

FilterBounds::FilterBounds(const Wanted& wanted, float winner)
    : wanted_(wanted), winner_(winner), least_(rounded_down(winner)), largest_(winner) {}

double FilterBounds::mass_of(float logit) const {
  return std::exp((static_cast<double>(logit) - winner_) / wanted_.temperature);
}

void FilterBounds::see(const float* begin, const float* end) {
  const float depth = winner_ - kDepth * wanted_.temperature;
  for (const float* logit = begin; logit < end; logit++) {
    if (!(*logit >= depth)) continue;
    largest_ = std::max(largest_, *logit);
    if (*logit >= least_) {
      num_before_++;
      mass_before_ += mass_of(*logit);
    } else if (wanted_.top_p < 1 && wanted_.top_k <= 0) {
      mass_after_ += mass_of(*logit);
    } else if (wanted_.top_p < 1 && num_after_ < static_cast<std::int64_t>(after_.size())) {
      after_[static_cast<std::size_t>(num_after_++)] = mass_of(*logit);
    }
  }
}

bool FilterBounds::pass() {
  if (num_before_ == 0 || !(std::fabs(largest_) < kMostLogit)) return false;
  if (wanted_.top_k > 0 && num_before_ > wanted_.top_k) return false;
  if (wanted_.min_p > 0) {
    const float depth = -wanted_.temperature * std::log(std::min(wanted_.min_p, 1.0f));
    const float slack = kSlack * (std::fabs(largest_) + std::fabs(winner_) + depth) + kLeastSlack;
    if (!(winner_ >= largest_ - depth + slack)) return false;
  }
  if (wanted_.top_p >= 1) return true;
  // Of no more tokens than top_k keeps: all that are kept have at least their mass.
  const std::int64_t room = std::min(num_after_, wanted_.top_k - num_before_);
  if (room > 0) {
    std::nth_element(after_.begin(), after_.begin() + room - 1, after_.begin() + num_after_, std::greater<>());
    for (std::int64_t i = 0; i < room; i++) mass_after_ += after_[static_cast<std::size_t>(i)];
  }
  const double farthest = std::max(std::fabs(largest_), std::fabs(winner_)) / wanted_.temperature + kDepth;
  const double slack = kMassSlack + kRoundings * kRounded * farthest;
  return mass_before_ - 1 < wanted_.top_p * (1 - slack) * (mass_before_ + mass_after_);
}

}  // namespace ridgeline
