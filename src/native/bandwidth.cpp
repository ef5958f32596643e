// Loops that do nothing but load, or load and store, in registers of the instruction set's own width: with wider ones the
// compiler keeps sums on the stack and measures that.
#include "bandwidth.h"

#include "family_kernels.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

#if defined(RIDGELINE_ISA_avx512)
constexpr std::size_t kVectorBytes = 64;
#elif defined(RIDGELINE_ISA_avx2)
constexpr std::size_t kVectorBytes = 32;
#else
constexpr std::size_t kVectorBytes = 16;
#endif
constexpr std::size_t kLine = 64, kPrefetchBytes = 8 << 10;
constexpr int kSums = 8;  // independent, so that nothing but the loads takes time
constexpr std::size_t kTurn = kSums * kVectorBytes;
static_assert(kReadUnit % kTurn == 0 && kTurn % kLine == 0);

using Vector = std::uint64_t __attribute__((vector_size(kVectorBytes)));

Vector load(const std::byte* p) { return *reinterpret_cast<const Vector*>(p); }

void ask_for_turn(const std::byte* p) {
  for (std::size_t line = 0; line < kTurn; line += kLine) __builtin_prefetch(p + kPrefetchBytes + line, 0, 3);
}

std::uint64_t folded(const Vector (&sums)[kSums]) {
  Vector total = {};
  for (const Vector& sum : sums) total ^= sum;
  std::uint64_t word = 0;
  for (std::size_t i = 0; i < kVectorBytes / 8; i++) word ^= total[i];
  return word;
}

}  // namespace

std::uint64_t read_forward(const std::byte* data, std::size_t bytes, std::size_t passes) {
  Vector sums[kSums] = {};
  for (; passes > 0; passes--) {
    for (std::size_t offset = 0; offset < bytes; offset += kTurn) {
      ask_for_turn(data + offset);
#pragma GCC unroll 8
      for (int i = 0; i < kSums; i++) sums[i] ^= load(data + offset + i * kVectorBytes);
    }
    asm volatile("" : : : "memory");  // what was read before may have changed
  }
  return folded(sums);
}

std::uint64_t read_quarters(const std::byte* data, std::size_t bytes, std::size_t passes) {
  const std::size_t quarter = bytes / 4 / kReadUnit * kReadUnit;
  Vector sums[kSums] = {};
  for (std::size_t pass = 0; pass < passes; pass++) {
    for (std::size_t offset = 0; offset < quarter; offset += 2 * kVectorBytes) {
#pragma GCC unroll 8
      for (int i = 0; i < kSums; i++) sums[i] ^= load(data + (i / 2) * quarter + offset + (i % 2) * kVectorBytes);
    }
    asm volatile("" : : : "memory");
  }
  return folded(sums) ^ read_forward(data + 4 * quarter, bytes - 4 * quarter, passes);
}

void copy_forward(std::byte* to, const std::byte* from, std::size_t bytes) {
  for (std::size_t offset = 0; offset < bytes; offset += kTurn) {
    ask_for_turn(from + offset);
#pragma GCC unroll 8
    for (int i = 0; i < kSums; i++) {
      *reinterpret_cast<Vector*>(to + offset + i * kVectorBytes) = load(from + offset + i * kVectorBytes);
    }
  }
}

}  // namespace ridgeline::RIDGELINE_ISA
