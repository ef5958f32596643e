#include "roofs.h"

#include <sys/mman.h>

#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <new>
#include <thread>

namespace ridgeline {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kLine = 64;
// Far enough ahead to cover memory latency, near enough to stay in L2; see docs/log.md.
constexpr std::size_t kPrefetchBytes = 16 << 10;

class HugePages {
 public:
  explicit HugePages(std::size_t bytes) : bytes_((bytes + kHugePage - 1) / kHugePage * kHugePage) {
    data_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data_ == MAP_FAILED) throw std::bad_alloc();
    madvise(data_, bytes_, MADV_HUGEPAGE);
  }
  ~HugePages() { munmap(data_, bytes_); }
  HugePages(const HugePages&) = delete;
  HugePages& operator=(const HugePages&) = delete;
  std::byte* data() const { return static_cast<std::byte*>(data_); }

 private:
  void* data_;
  std::size_t bytes_;
};

// XOR of all words, eight independent chains, so that nothing but the loads takes time.
__attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
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

std::vector<double> measure_read_bandwidth(std::size_t bytes, int threads, int rounds) {
  const std::size_t share = (bytes / threads + kLine - 1) / kLine * kLine;
  HugePages memory(share * threads);
  using Clock = std::chrono::steady_clock;
  std::vector<double> gigabytes_per_second;
  Clock::time_point start;
  int round = -1;  // one round to touch and warm, not counted
  auto on_arrival = [&]() noexcept {
    const Clock::time_point now = Clock::now();
    if (round > 0) {
      const double seconds = std::chrono::duration<double>(now - start).count();
      gigabytes_per_second.push_back(static_cast<double>(share) * threads / seconds * 1e-9);
    }
    ++round;
    start = now;
  };
  gigabytes_per_second.reserve(rounds + 1);
  std::barrier barrier(threads, on_arrival);
  std::uint64_t sink = 0;
  auto work = [&](int index) {
    std::byte* mine = memory.data() + share * index;
    std::memset(mine, index + 1, share);
    std::uint64_t total = 0;
    for (int i = 0; i < rounds + 2; ++i) {
      barrier.arrive_and_wait();
      total ^= read_all(mine, share);
    }
    barrier.arrive_and_wait();
    __atomic_fetch_xor(&sink, total, __ATOMIC_RELAXED);
  };
  std::vector<std::jthread> pool;
  for (int index = 1; index < threads; ++index) pool.emplace_back(work, index);
  work(0);
  pool.clear();
  asm volatile("" : : "r"(sink));
  return gigabytes_per_second;
}

}  // namespace ridgeline
