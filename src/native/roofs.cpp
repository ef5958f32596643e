#include "roofs.h"

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <thread>

#include "memory.h"

namespace ridgeline {
namespace {

constexpr std::size_t kLine = 64;
// Far enough ahead to cover memory latency, near enough to stay in L2.
constexpr std::size_t kPrefetchBytes = 16 << 10;

// XOR of all words, eight independent chains, so that nothing but the loads takes time.
#if defined(__x86_64__)
__attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#endif
std::uint64_t read_all(const std::byte* data, std::size_t bytes) {
  std::uint64_t sums[32] = {};
  for (std::size_t offset = 0; offset + 4 * kLine <= bytes; offset += 4 * kLine) {
    for (int line = 0; line < 4; ++line) __builtin_prefetch(data + offset + kPrefetchBytes + line * kLine, 0, 2);
    std::uint64_t words[32];
    std::memcpy(words, data + offset, sizeof words);
    for (int i = 0; i < 32; ++i) sums[i] ^= words[i];
  }
  std::uint64_t total = 0;
  for (std::uint64_t sum : sums) total ^= sum;
  return total;
}

}  // namespace

std::vector<double> measure_read_bandwidth(const std::vector<std::span<const std::byte>>& areas, int threads, int rounds) {
  std::size_t total = 0;
  for (const auto& area : areas) total += area.size();
  const std::size_t share = total / static_cast<std::size_t>(threads) / kLine * kLine;
  using Clock = std::chrono::steady_clock;
  std::vector<double> gigabytes_per_second;
  Clock::time_point start;
  int round = -1;  // one round to warm, not counted
  auto on_arrival = [&]() noexcept {
    const Clock::time_point now = Clock::now();
    if (round > 0) {
      const double seconds = std::chrono::duration<double>(now - start).count();
      gigabytes_per_second.push_back(static_cast<double>(share) * threads / seconds * 1e-9);
    }
    ++round;
    start = now;
  };
  gigabytes_per_second.reserve(static_cast<std::size_t>(rounds) + 1);
  std::barrier barrier(threads, on_arrival);
  std::uint64_t sink = 0;
  auto work = [&](int index) {
    const std::size_t begin = share * static_cast<std::size_t>(index), end = begin + share;
    std::uint64_t words = 0;
    for (int i = 0; i < rounds + 2; ++i) {
      barrier.arrive_and_wait();
      std::size_t area_begin = 0;
      for (const auto& area : areas) {
        const std::size_t first = std::max(begin, area_begin), last = std::min(end, area_begin + area.size());
        if (first < last) words ^= read_all(area.data() + (first - area_begin), last - first);
        area_begin += area.size();
      }
    }
    barrier.arrive_and_wait();
    __atomic_fetch_xor(&sink, words, __ATOMIC_RELAXED);
  };
  std::vector<std::jthread> pool;
  for (int index = 1; index < threads; ++index) pool.emplace_back(work, index);
  work(0);
  pool.clear();
  asm volatile("" : : "r"(sink));
  return gigabytes_per_second;
}

std::vector<double> measure_read_bandwidth(std::size_t bytes, int threads, int rounds) {
  Memory memory(bytes);
  std::memset(memory.data(), 1, bytes);  // untouched pages would all be the one page of zeros
  return measure_read_bandwidth({{memory.data(), bytes}}, threads, rounds);
}

}  // namespace ridgeline
