// What this machine can do at most, measured: the limits that figures are printed beside.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace ridgeline {

// GB/s (10^9 bytes) at which `threads` threads together read `areas`, each its own contiguous share, one figure a round;
// every round reads everything once.
std::vector<double> measure_read_bandwidth(const std::vector<std::span<const std::byte>>& areas, int threads, int rounds);

// The same of `bytes` of fresh memory in huge pages. Throws std::bad_alloc.
std::vector<double> measure_read_bandwidth(std::size_t bytes, int threads, int rounds);

}  // namespace ridgeline
