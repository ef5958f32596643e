#include "roofs.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <stdexcept>

namespace ridgeline {
namespace {

constexpr std::size_t kUnit = kReadUnit;
// A shorter round would measure the clock and the start of the threads.
constexpr std::size_t kLeastRoundBytes = 16 << 20;
constexpr int kBarriersPerRound = 1000;
constexpr std::int64_t kArithmeticSteps = 200000;

using Clock = std::chrono::steady_clock;

void keep(std::uint64_t word) { asm volatile("" : : "r"(word)); }

// Seconds that `work(thread)` takes on all threads together, from all being there to all being done.
template <class Work>
double seconds_of(ThreadPool& pool, Work work) {
  Clock::time_point begin, end;
  pool.run([&](int thread) {
    pool.barrier(thread);
    if (thread == 0) begin = Clock::now();
    work(thread);
    pool.barrier(thread);
    if (thread == 0) end = Clock::now();
  });
  return std::max(std::chrono::duration<double>(end - begin).count(), 1e-9);
}

// Bytes [begin, end) of the areas laid end to end, `passes` times.
std::uint64_t read_range(const Areas& areas, std::size_t begin, std::size_t end, std::size_t passes, ReadBytes read) {
  if (areas.size() == 1) return read(areas[0].data() + begin, end - begin, passes);
  std::uint64_t words = 0;
  for (std::size_t pass = 0; pass < passes; pass++) {
    std::size_t area_begin = 0;
    for (const auto& area : areas) {
      const std::size_t first = std::max(begin, area_begin), last = std::min(end, area_begin + area.size());
      if (first < last) words ^= read(area.data() + (first - area_begin), (last - first) / kUnit * kUnit, 1);
      area_begin += area.size();
    }
  }
  return words;
}

}  // namespace

ReadRates measure_read_bandwidth(const Kernels& kernels, const Areas& areas, ThreadPool& pool, int rounds) {
  std::size_t total = 0;
  for (const auto& area : areas) total += area.size();
  const std::size_t threads = static_cast<std::size_t>(pool.size());
  const std::size_t share = total / threads / kUnit * kUnit;
  if (share == 0) throw std::invalid_argument("there is too little to read");
  const std::size_t passes = std::max<std::size_t>(1, kLeastRoundBytes / (share * threads));
  const auto gigabytes_per_second = [&](ReadBytes read) {
    const double seconds = seconds_of(pool, [&](int thread) {
      const std::size_t begin = share * static_cast<std::size_t>(thread);
      keep(read_range(areas, begin, begin + share, passes, read));
    });
    return static_cast<double>(share * threads * passes) / seconds * 1e-9;
  };
  gigabytes_per_second(kernels.read_forward);
  ReadRates out;
  for (int round = 0; round < rounds; round++) {
    const double forward = gigabytes_per_second(kernels.read_forward);
    out.emplace_back(std::max(forward, gigabytes_per_second(kernels.read_quarters)), forward);
  }
  return out;
}

std::vector<double> measure_barrier(ThreadPool& pool, int rounds) {
  std::vector<double> out;
  for (int round = -1; round < rounds; round++) {
    const double seconds = seconds_of(pool, [&](int thread) {
      for (int i = 0; i < kBarriersPerRound; i++) pool.barrier(thread);
    });
    if (round >= 0) out.push_back(seconds / (kBarriersPerRound + 1) * 1e9);
  }
  return out;
}

std::vector<double> measure_arithmetic(const Kernels& kernels, ActivationKind kind, ThreadPool& pool, int rounds) {
  std::vector<double> out;
  std::atomic<std::int64_t> operations{0};
  for (int round = -1; round < rounds; round++) {
    const double seconds = seconds_of(pool, [&](int) { operations = kernels.spin_arithmetic(kind, kArithmeticSteps); });
    if (round >= 0) out.push_back(static_cast<double>(operations) * pool.size() / seconds * 1e-9);
  }
  return out;
}

void RoofMeter::reserve(std::size_t bytes) {
  if (memory_.size() >= bytes) return;
  memory_ = Memory();
  memory_ = Memory(bytes);
  // Untouched pages would all be the one page of zeros. Each thread touches its share, as it will read it.
  pool_.run([&](int thread) {
    const std::size_t begin = bytes / pool_.size() * thread;
    const std::size_t end = thread + 1 == pool_.size() ? bytes : bytes / pool_.size() * (thread + 1);
    std::memset(memory_.data() + begin, 1, end - begin);
  });
}

ReadRates RoofMeter::read(std::size_t bytes, int rounds) {
  reserve(bytes);
  return measure_read_bandwidth(kernels_, {{memory_.data(), bytes}}, pool_, rounds);
}

std::vector<double> RoofMeter::copy(std::size_t bytes, int rounds) {
  reserve(bytes);
  const std::size_t threads = static_cast<std::size_t>(pool_.size());
  const std::size_t share = bytes / 2 / threads / kUnit * kUnit;
  if (share == 0) throw std::invalid_argument("there is too little to copy");
  const std::size_t passes = std::max<std::size_t>(1, kLeastRoundBytes / (2 * share * threads));
  std::byte* const to = memory_.data() + share * threads;
  std::vector<double> out;
  for (int round = -1; round < rounds; round++) {
    const double seconds = seconds_of(pool_, [&](int thread) {
      const std::size_t begin = share * static_cast<std::size_t>(thread);
      for (std::size_t pass = 0; pass < passes; pass++) kernels_.copy_forward(to + begin, memory_.data() + begin, share);
    });
    if (round >= 0) out.push_back(static_cast<double>(2 * share * threads * passes) / seconds * 1e-9);
  }
  return out;
}

}  // namespace ridgeline
