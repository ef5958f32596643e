// What this machine can do at most, measured: the limits that figures are printed beside.
#pragma once

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "kernels.h"
#include "memory.h"
#include "threads.h"

namespace ridgeline {

using Areas = std::vector<std::span<const std::byte>>;

// Of each round, GB/s (10^9 bytes) by the faster of two ways, which is the roof, and in one stream forward that asks
// ahead, which is how kernels read. Where hardware prefetches better than software, they are far from each other.
using ReadRates = std::vector<std::pair<double, double>>;

// The threads of `pool` together read `areas`, each its own contiguous share; everything is read once a round and way.
ReadRates measure_read_bandwidth(const Kernels& kernels, const Areas& areas, ThreadPool& pool, int rounds);

// 10^9 operations a second of all threads of `pool` together when nothing but arithmetic holds them back; one figure a
// round of a millisecond or less, after one to warm.
std::vector<double> measure_arithmetic(const Kernels& kernels, ActivationKind kind, ThreadPool& pool, int rounds);

// Nanoseconds from one barrier of `pool` to the next when nothing is done between them; one figure a round.
std::vector<double> measure_barrier(ThreadPool& pool, int rounds);

// Threads and memory of their own to measure with. Memory grows to the largest footprint asked for, in huge pages.
class RoofMeter {
 public:
  // Throws std::invalid_argument for an instruction set that the CPU lacks or fewer than 1 thread.
  RoofMeter(Isa isa, int threads) : kernels_(kernels_for(isa)), pool_(threads) {}

  // Each: one figure a round, after a round to warm. Footprints are of all threads together, at least 64 bytes a
  // thread; a footprint that a pass crosses in no time is crossed many times. Throws std::bad_alloc.
  ReadRates read(std::size_t bytes, int rounds);
  std::vector<double> copy(std::size_t bytes, int rounds);   // GB/s, read and written bytes added; half of `bytes` each
  std::vector<double> arithmetic(ActivationKind kind, int rounds) {
    return measure_arithmetic(kernels_, kind, pool_, rounds);
  }
  std::vector<double> barrier(int rounds) { return measure_barrier(pool_, rounds); }

 private:
  void reserve(std::size_t bytes);

  const Kernels& kernels_;
  ThreadPool pool_;
  Memory memory_;
};

}  // namespace ridgeline
