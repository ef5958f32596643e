// The most that one core multiplies when nothing but arithmetic holds it back: what linear's speed is
// held against. Operands stay in registers; the chains are as many as hide the latency.
#include "linear_kernels.h"
#include "linear_lanes.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

// As many as hide the latency and stay in registers: of AVX2 a chain takes two of sixteen.
#if defined(RIDGELINE_ISA_avx512)
constexpr int kChains = 16;
#elif defined(RIDGELINE_ISA_avx2)
constexpr int kChains = 5;
#else
constexpr int kChains = 2;
#endif
// The integers that are multiplied the fastest: of AVX2 those whose products two instructions add.
constexpr int kBits = sizeof(Quad) == 32 ? 4 : 8;

// The value is anything that the compiler cannot know.
template <class T>
[[gnu::always_inline]] inline void forget(T& value) {
#if defined(RIDGELINE_EMULATED)
  __asm__ volatile("" : "+m"(value));
#elif defined(RIDGELINE_ISA_avx512)
  __asm__ volatile("" : "+v"(value));
#elif defined(RIDGELINE_ISA_avx2)
  if constexpr (sizeof(T) == 32) {
    __asm__ volatile("" : "+x"(value));
  } else {
    __asm__ volatile("" : "+x"(value.v[0]), "+x"(value.v[1]));
  }
#else
  __asm__ volatile("" : "+m"(value));
#endif
}

template <class Chain, class Step>
[[gnu::always_inline]] inline void spin(std::int64_t steps, Chain chain, Step step) {
  Chain chains[kChains];
#pragma GCC unroll 16
  for (Chain& each : chains) each = chain;
  for (std::int64_t i = 0; i < steps; i++) {
#pragma GCC unroll 16
    for (Chain& each : chains) {
      each = step(each);
      forget(each);
    }
  }
}

}  // namespace

std::int64_t spin_arithmetic(ActivationKind kind, std::int64_t steps) {
  alignas(64) std::uint8_t bytes[kLineBytes] = {};
#if defined(RIDGELINE_ISA_avx512)
  if (kind == ActivationKind::bf16) {
    const std::uint16_t pair[2] = {0x3f80, 0x3f80};
    spin(steps, zeros(), [&](Floats acc) { return add_pairs(acc, bytes, pair); });
    return steps * kChains * kLanes * 4;
  }
#else
  // Numbers of 16 bits are widened, once for many rows, and multiplied as others are.
  if (kind == ActivationKind::bf16) kind = ActivationKind::f32;
#endif
  if (kind == ActivationKind::f32) {
    const Floats one = all(1.0f);
    spin(steps, zeros(), [&](Floats acc) { return fma(one, one, acc); });
    return steps * kChains * kLanes * 2;
  }
  const std::int8_t q[4] = {1, 2, 3, 4};
  Line line = load_line(bytes);
  forget(line);
  Quad quad = load_quad(q);
  spin(steps, begin<kBits>(0), [&](Sums sums) {
    forget(quad);  // or products would be made once
    return dot<kBits>(sums, line, quad);
  });
  return steps * kChains * kLanes * 8;
}

}  // namespace ridgeline::RIDGELINE_ISA
