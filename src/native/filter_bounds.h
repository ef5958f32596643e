// filter_bounds: whether what has won with its noise passes its row's filters for certain, by some of the logits.
//
// Those are all that are above the winner's own, and whichever else are known.
#pragma once

#include <array>
#include <cstdint>

#include "sample.h"
#include "screen.h"

namespace ridgeline {

// Of a row whose filters are top_k, of so many tokens at most, or min_p alone, the tokens that they may leave are those from a
// logit on that a few others tell. Others ask for the mass of all.
bool leaves_few(const Wanted& wanted);
// That logit. known: of leaves_few's, top_k's logit of the order, or the largest that is known; what sampling rounds is
// allowed for.
float least_left(const Wanted& wanted, float known);

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
