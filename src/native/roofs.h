// What this machine can do at most, measured: the limits that figures are printed beside.
#pragma once

#include <cstddef>
#include <vector>

namespace ridgeline {

// GB/s (10^9 bytes) at which `threads` threads together read `bytes` of memory in huge pages, each its own contiguous
// share, one figure a round; every round reads everything once. Throws std::bad_alloc.
std::vector<double> measure_read_bandwidth(std::size_t bytes, int threads, int rounds);

}  // namespace ridgeline
