// elementwise: add, multiply by a number, soft cap, activations, gated or not. Inputs and outputs may be the same memory.
#include "elementwise.h"

#include "family_kernels.h"
#include "softplus.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

template <class F>
inline void each_vector(std::int64_t cols, F body) {
  std::int64_t i = 0;
  for (; i + kWidth <= cols; i += kWidth) body(i, static_cast<std::int64_t>(kWidth));
  if (i < cols) body(i, cols - i);
}

inline Vec silu(Vec x) { return div(x, add(all(1.0f), exp(sub(zeros(), x)))); }

// 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) = x / (1 + e^-2u): no cancellation for negative x.
inline Vec gelu_tanh(Vec x) {
  const Vec cubed = mul(mul(x, x), x);
  const Vec u = mul(all(0.797884560802865f), fma(all(0.044715f), cubed, x));
  return div(x, add(all(1.0f), exp(mul(all(-2.0f), u))));
}

inline Vec gelu(Vec x) {
  float lane[kWidth];
  store(lane, x);
  for (float& v : lane) v = static_cast<float>(0.5 * v * std::erfc(-v * 0.70710678118654752));
  return load(lane);
}

inline Vec relu(Vec x) { return max(zeros(), x); }

// Calls f with the function of a vector that `activation` names.
template <class F>
inline void with_activation(Activation activation, F f) {
  switch (activation) {
    case Activation::silu:
      return f([](Vec x) { return silu(x); });
    case Activation::gelu:
      return f([](Vec x) { return gelu(x); });
    case Activation::gelu_tanh:
      return f([](Vec x) { return gelu_tanh(x); });
    case Activation::quick_gelu:
      return f([](Vec x) { return div(x, add(all(1.0f), exp(mul(all(-1.702f), x)))); });
    case Activation::relu:
      return f([](Vec x) { return relu(x); });
    case Activation::relu2:
      return f([](Vec x) { return mul(relu(x), relu(x)); });
    case Activation::sigmoid:
      return f([](Vec x) { return sigmoid(x); });
    case Activation::clamped_swiglu:
    case Activation::capped_silu_7:
    case Activation::capped_silu_16:
    case Activation::silu_of_capped_10:
      return;  // of two inputs: clamped_rows, capped_rows
    case Activation::tanh:
      return f([](Vec x) { return tanh(x); });
    case Activation::identity:
      return f([](Vec x) { return x; });
  }
}

template <class F>
inline void gate_rows(const float* gate, std::int64_t ldg, const float* up, std::int64_t ldu, float* y,
                      std::int64_t ldy, std::int64_t rows, std::int64_t cols, F activation) {
  for (std::int64_t r = 0; r < rows; r++)
    each_vector(cols, [&](std::int64_t i, std::int64_t n) {
      const Vec g = load_n(gate + r * ldg + i, n), u = load_n(up + r * ldu + i, n);
      store_n(y + r * ldy + i, mul(activation(g), u), n);
    });
}

// gpt-oss: with gate at most 7 and up in -7..7, gate sigmoid(1.702 gate) (up + 1).
void clamped_rows(const float* gate, std::int64_t ldg, const float* up, std::int64_t ldu, float* y, std::int64_t ldy,
                  std::int64_t rows, std::int64_t cols) {
  const Vec limit = all(7.0f), low = all(-7.0f), slope = all(-1.702f), one = all(1.0f);
  for (std::int64_t r = 0; r < rows; r++)
    each_vector(cols, [&](std::int64_t i, std::int64_t n) {
      const Vec g = min(limit, load_n(gate + r * ldg + i, n));
      const Vec u = max(low, min(limit, load_n(up + r * ldu + i, n)));
      store_n(y + r * ldy + i, mul(div(g, add(one, exp(mul(slope, g)))), add(u, one)), n);
    });
}

// Step 3.7: silu(gate), at most `cap`, times up in -cap..cap.
void capped_rows(float cap, const float* gate, std::int64_t ldg, const float* up, std::int64_t ldu, float* y,
                 std::int64_t ldy, std::int64_t rows, std::int64_t cols) {
  const Vec limit = all(cap), low = all(-cap);
  for (std::int64_t r = 0; r < rows; r++)
    each_vector(cols, [&](std::int64_t i, std::int64_t n) {
      const Vec g = min(limit, silu(load_n(gate + r * ldg + i, n)));
      store_n(y + r * ldy + i, mul(g, max(low, min(limit, load_n(up + r * ldu + i, n)))), n);
    });
}

// DeepSeek V4: silu of gate, which is at most 10, times up in -10..10.
void capped_gate_rows(const float* gate, std::int64_t ldg, const float* up, std::int64_t ldu, float* y,
                      std::int64_t ldy, std::int64_t rows, std::int64_t cols) {
  const Vec limit = all(10.0f), low = all(-10.0f);
  for (std::int64_t r = 0; r < rows; r++)
    each_vector(cols, [&](std::int64_t i, std::int64_t n) {
      const Vec g = silu(min(limit, load_n(gate + r * ldg + i, n)));
      store_n(y + r * ldy + i, mul(g, max(low, min(limit, load_n(up + r * ldu + i, n)))), n);
    });
}

// e^x - 1 - x of x below 0, within some ulp: by its series up to x^9 above -1/2, where the exponential would cancel.
inline Vec exp_tail(Vec x) {
  Vec p = all(1.0f / 362880);
  for (const float inverse : {40320.0f, 5040.0f, 720.0f, 120.0f, 24.0f, 6.0f, 2.0f}) p = fma(p, x, all(1.0f / inverse));
  return select(less(all(-0.5f), x), mul(mul(x, x), p), sub(sub(exp(x), all(1.0f)), x));
}

}  // namespace

void add_rows(const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float* y, std::int64_t ldy,
              std::int64_t rows, std::int64_t cols) {
  for (std::int64_t r = 0; r < rows; r++)
    each_vector(cols, [&](std::int64_t i, std::int64_t n) {
      store_n(y + r * ldy + i, add(load_n(a + r * lda + i, n), load_n(b + r * ldb + i, n)), n);
    });
}

void scale_rows(float factor, const float* x, std::int64_t ldx, float* y, std::int64_t ldy, std::int64_t rows,
                std::int64_t cols) {
  for (std::int64_t r = 0; r < rows; r++)
    each_vector(cols, [&](std::int64_t i, std::int64_t n) {
      store_n(y + r * ldy + i, mul(load_n(x + r * ldx + i, n), all(factor)), n);
    });
}

void weigh_rows(const float* x, std::int64_t ldx, const float* g, std::int64_t ldg, float* y, std::int64_t ldy,
                std::int64_t rows, std::int64_t cols) {
  for (std::int64_t r = 0; r < rows; r++) {
    const float weight = static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(g[r * ldg]))));
    each_vector(cols, [&](std::int64_t i, std::int64_t n) {
      store_n(y + r * ldy + i, mul(load_n(x + r * ldx + i, n), all(weight)), n);
    });
  }
}

void add_scaled(float weight, const float* x, float* y, std::int64_t cols) {
  each_vector(cols, [&](std::int64_t i, std::int64_t n) {
    store_n(y + i, add(load_n(y + i, n), mul(load_n(x + i, n), all(weight))), n);
  });
}

void softcap_rows(float cap, const float* x, std::int64_t ldx, float* y, std::int64_t ldy, std::int64_t rows,
                  std::int64_t cols) {
  for (std::int64_t r = 0; r < rows; r++)
    each_vector(cols, [&](std::int64_t i, std::int64_t n) {
      store_n(y + r * ldy + i, mul(all(cap), tanh(div(load_n(x + r * ldx + i, n), all(cap)))), n);
    });
}

void gated_rows(Activation activation, const float* gate, std::int64_t ldg, const float* up, std::int64_t ldu, float* y,
                std::int64_t ldy, std::int64_t rows, std::int64_t cols) {
  if (activation == Activation::clamped_swiglu) return clamped_rows(gate, ldg, up, ldu, y, ldy, rows, cols);
  if (activation == Activation::capped_silu_7) return capped_rows(7.0f, gate, ldg, up, ldu, y, ldy, rows, cols);
  if (activation == Activation::capped_silu_16) return capped_rows(16.0f, gate, ldg, up, ldu, y, ldy, rows, cols);
  if (activation == Activation::silu_of_capped_10) return capped_gate_rows(gate, ldg, up, ldu, y, ldy, rows, cols);
  with_activation(activation, [&](auto function) { gate_rows(gate, ldg, up, ldu, y, ldy, rows, cols, function); });
}

void activate_rows(Activation activation, const float* x, std::int64_t ldx, float* y, std::int64_t ldy,
                   std::int64_t rows, std::int64_t cols) {
  with_activation(activation, [&](auto function) {
    for (std::int64_t r = 0; r < rows; r++)
      each_vector(cols, [&](std::int64_t i, std::int64_t n) {
        store_n(y + r * ldy + i, function(load_n(x + r * ldx + i, n)), n);
      });
  });
}

void xielu_rows(float positive, float negative, const float* x, std::int64_t ldx, float* y, std::int64_t ldy,
                std::int64_t rows, std::int64_t cols) {
  const Vec half = all(0.5f), most = all(-1e-6f), up = all(positive), down = all(negative);
  for (std::int64_t r = 0; r < rows; r++)
    each_vector(cols, [&](std::int64_t i, std::int64_t n) {
      const Vec v = load_n(x + r * ldx + i, n), low = min(v, most);
      const Vec below = fma(down, add(exp_tail(low), sub(low, v)), mul(half, v));
      store_n(y + r * ldy + i, select(less(zeros(), v), mul(v, fma(up, v, half)), below), n);
    });
}

}  // namespace ridgeline::RIDGELINE_ISA
