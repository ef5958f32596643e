// A multiply-add whose sum stays where it is, for loops whose sums fill the registers of AVX2.
#pragma once

#include <immintrin.h>

#include "isa.h"

namespace ridgeline::RIDGELINE_ISA {

// In assembly: g++ lets sums change places with the factors, and spills some.
static inline __m256 accumulated(__m256 a, __m256 b, __m256 sum) {
  __asm__("vfmadd231ps %1, %2, %0" : "+x"(sum) : "x"(a), "x"(b));
  return sum;
}

}  // namespace ridgeline::RIDGELINE_ISA
