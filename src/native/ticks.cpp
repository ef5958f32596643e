#include "ticks.h"

namespace ridgeline {
namespace {

// Two readings of both clocks, one at load and one at each call, since who asks is older than this.
struct ClockPair {
  std::uint64_t ticks = ticks_now();
  std::chrono::steady_clock::time_point time = std::chrono::steady_clock::now();
};
const ClockPair kLoaded;

}  // namespace

double nanoseconds_per_tick() {
  const ClockPair now;
  const double elapsed = std::chrono::duration<double, std::nano>(now.time - kLoaded.time).count();
  return now.ticks > kLoaded.ticks ? elapsed / static_cast<double>(now.ticks - kLoaded.ticks) : 1.0;
}

}  // namespace ridgeline
