// filter_bounds: whether what has won with its noise passes its row's filters for certain, by some of the logits.
//
// Those are all that are above the winner's own, and whichever else are known.
#pragma once

#include <array>
#include <cstdint>

#include "screen.h"

namespace ridgeline {

class FilterBounds {
 public:
  FilterBounds(const Wanted& wanted, float winner);
  void see(const float* begin, const float* end);
  // False: it may or it may not. What sampling rounds is allowed for.
  bool pass();

 private:
  double mass_of(float logit) const;

  const Wanted& wanted_;
  const float winner_, least_;  // from least_ on logits count as before the winner
  float largest_;
  std::int64_t num_before_ = 0;            // and the winner
  double mass_before_ = 0, mass_after_ = 0;  // of the winner's
  std::int64_t num_after_ = 0;
  std::array<double, 512> after_;  // masses, if only so many count
};

}  // namespace ridgeline
