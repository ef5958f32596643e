// Time in ticks: of the time stamp counter where there is one, read in some 20 cycles.
#pragma once

#include <chrono>
#include <cstdint>

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

namespace ridgeline {

inline std::uint64_t ticks_now() {
#if defined(__x86_64__)
  return __rdtsc();
#else
  return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
#endif
}

// As both clocks have gone since the module was loaded.
double nanoseconds_per_tick();

}  // namespace ridgeline
