// The arithmetic of a screen (screen.h).
#include "screen.h"

#include <cmath>
#include <cstring>

#include "family_kernels.h"
#include "linear_layout.h"
#include "simd.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

constexpr int kCodes = 16;  // codes stand for -16 to 15

struct Half {
  std::uint16_t bits;
  float value;
};
// Nothing beyond the largest float16: a scale that is too small is only far off, and that is known of it.
Half to_half(float x) {
  constexpr float kLargest = 65504.0f;
  std::uint16_t lanes[kWidth];
  float back[kWidth];
  store_half(lanes, all(x > kLargest ? kLargest : x < -kLargest ? -kLargest : x));
  store(back, load_half(lanes));
  return {lanes[0], back[0]};
}

constexpr int kVecs = kScreenGroup / kWidth;

// Codes for a scale, and the scale that fits them best; 0 if there is none.
float fit(const Vec (&w)[kVecs], float scale, Vec (&codes)[kVecs]) {
  const Vec inverse = all(1.0f / scale), least = all(-kCodes), most = all(kCodes - 1);
  Vec products = zeros(), squares = zeros();
  for (int i = 0; i < kVecs; i++) {
    codes[i] = max(least, min(most, round_even(mul(w[i], inverse))));
    products = fma(w[i], codes[i], products);
    squares = fma(codes[i], codes[i], squares);
  }
  const float square = sum(squares);
  return square > 0 ? sum(products) / square : 0.0f;
}

// 32 weights of a channel: their scale, which is NaN where they are not finite, and codes.
Half screen_group(const float* x, Vec (&codes)[kVecs]) {
  Vec w[kVecs], high = all(-INFINITY), low = all(-INFINITY), strange = zeros();
  for (int i = 0; i < kVecs; i++) {
    w[i] = load(x + i * kWidth);
    high = max(w[i], high);
    low = max(sub(zeros(), w[i]), low);
    strange = fma(w[i], zeros(), strange);
    codes[i] = zeros();
  }
  if (bits(equal(strange, zeros())) != 0xffffu) return to_half(NAN);
  const float highest = largest(high), lowest = largest(low);
  // The largest magnitude has the code that has no opposite.
  Half scale = to_half((highest > lowest ? -highest : lowest) / kCodes);
  if (scale.value == 0) return scale;
  const float better = fit(w, scale.value, codes);
  if (better != 0) scale = to_half(better);
  if (scale.value != 0) fit(w, scale.value, codes);
  return scale;
}

// Of a vector whose squares are `squares`: what it has of each direction, and the length of the rest, with room for the
// rounding of both.
float without(Vec squares, const Vec (&along)[kDirections], float (&shares)[kDirections]) {
  const float whole = sum(squares);
  float rest = whole;
  for (int j = 0; j < kDirections; j++) {
    shares[j] = sum(along[j]);
    rest -= shares[j] * shares[j];
  }
  return std::sqrt((rest > 0 ? rest : 0.0f) + 1e-4f * whole);
}

#ifdef RIDGELINE_ISA_avx2
// Numbers of a FineBlock lie as each four's first, third, second, fourth.
void decode_fine(const FineBlock& block, float* out) {
  constexpr int kPlace[4] = {0, 2, 1, 3};
  for (int i = 0; i < kBlock; i++)
    out[i / 4 * 4 + kPlace[i % 4]] = block.scale[i / 32] * static_cast<float>(block.q[i]);
}
#else
void decode_fine(const FineBlock& block, float* out) {
  for (int i = 0; i < kBlock; i++)
    out[i] = block.terms[0].scale[i / 32] * static_cast<float>(block.terms[0].q[i]) +
             block.terms[1].scale[i / 32] * static_cast<float>(block.terms[1].q[i]);
}
#endif

}  // namespace

void screen_row(const float* w, std::int64_t k, std::byte* out) {
  auto* block = reinterpret_cast<std::uint8_t*>(out);
  for (std::int64_t at = 0; at < k; at += kScreenGroup, block += kScreenGroupBytes) {
    Vec codes[kVecs];
    const Half scale = screen_group(w + at, codes);
    float numbers[kScreenGroup];
    for (int i = 0; i < kVecs; i++) store(numbers + i * kWidth, add(codes[i], all(kCodes)));
    std::uint32_t fifth = 0;
    std::uint8_t code[kScreenGroup];
    for (int i = 0; i < kScreenGroup; i++) {
      code[i] = static_cast<std::uint8_t>(static_cast<int>(numbers[i]));
      fifth |= static_cast<std::uint32_t>(code[i] >> 4) << i;
    }
    std::memcpy(block, &scale.bits, 2);
    std::memcpy(block + 2, &fifth, 4);
    for (int i = 0; i < kCodes; i++)
      block[6 + i] = static_cast<std::uint8_t>((code[i] & 15) | (code[i + kCodes] & 15) << 4);
  }
}

ChannelNorms screen_channel(const float* w, const float* screen, const ScreenUsual& usual, std::int64_t k) {
  Vec apart = zeros(), whole = zeros(), residue = zeros(), along[kDirections];
  for (Vec& each : along) each = zeros();
  for (std::int64_t i = 0; i < k; i += kWidth) {
    const Vec v = load(w + i), u = load(usual.size + i), d = sub(v, load(screen + i)), square = mul(v, v);
    apart = fma(mul(d, d), u, apart);
    whole = fma(square, u, whole);
    residue = fma(square, load(usual.residue + i), residue);
    for (int j = 0; j < kDirections; j++) along[j] = fma(d, load(usual.weights + j * k + i), along[j]);
  }
  ChannelNorms out{0, std::sqrt(sum(whole)), std::sqrt(sum(residue)), {}};
  out.apart = without(apart, along, out.along);
  return out;
}

RowNorms screen_activations(const float* exact, const float* screened, const ScreenUsual& usual, std::int64_t k) {
  Vec size = zeros(), residue = zeros(), along[kDirections];
  for (Vec& each : along) each = zeros();
  for (std::int64_t i = 0; i < k; i += kWidth) {
    const Vec x = load(screened + i), d = sub(load(exact + i), x);
    size = add(size, div(mul(x, x), load(usual.size + i)));
    residue = add(residue, div(mul(d, d), load(usual.residue + i)));
    for (int j = 0; j < kDirections; j++) along[j] = fma(x, load(usual.along + j * k + i), along[j]);
  }
  RowNorms out{0, std::sqrt(sum(size)), std::sqrt(sum(residue)), {}, 0, 0};
  out.size = without(size, along, out.along);
  return out;
}

void terms_reach(const float* y, std::int64_t channels, const StripNorms* strips, const RowNorms& row, float* out) {
  for (std::int64_t first = 0; first < channels; first += kStripChannels, out++, strips++) {
    const std::int64_t end = first + kStripChannels < channels ? first + kStripChannels : channels;
    Vec most = all(-INFINITY), strange = zeros();
    std::int64_t c = first;
    for (; c + kWidth <= end; c += kWidth) {
      const Vec v = load(y + c);
      most = max(v, most);
      strange = fma(v, zeros(), strange);
    }
    float reach = largest(most), odd = sum(strange);
    for (; c < end; c++) {
      reach = y[c] > reach ? y[c] : reach;
      odd += y[c] * 0.0f;
    }
    *out = odd + reach + beyond(*strips, row);
  }
}

void screen_reach(float* y, std::int64_t channels, std::int64_t channel_stride, const float* apart, const float* along,
                  const StripNorms* strips, const RowNorms& row, float* out) {
  const Vec size = all(row.size);
  for (std::int64_t first = 0; first < channels; first += kStripChannels, out++, strips++) {
    Vec most = all(-INFINITY);
    std::int64_t c = first;
    for (; c + kWidth <= channels && c < first + kStripChannels; c += kWidth) {
      Vec v = load(y + c);
      for (int j = 0; j < kDirections; j++) v = fma(load(along + j * channel_stride + c), all(row.along[j]), v);
      store(y + c, v);
      most = max(fma(load(apart + c), size, v), most);
    }
    float reach = largest(most);
    for (; c < channels && c < first + kStripChannels; c++) {
      for (int j = 0; j < kDirections; j++) y[c] += along[j * channel_stride + c] * row.along[j];
      const float one = apart[c] * row.size + y[c];
      reach = one > reach ? one : reach;
    }
    *out = reach + beyond(*strips, row);
  }
}

void decode_activations(ActivationKind kind, const std::byte* row, std::int64_t k, float* out, float* rest) {
  if (rest) std::memset(rest, 0, static_cast<std::size_t>(k) * sizeof(float));
  if (kind == ActivationKind::f32) {
    std::memcpy(out, row, static_cast<std::size_t>(k) * sizeof(float));
    return;
  }
  if (kind == ActivationKind::bf16) {
    const auto* numbers = reinterpret_cast<const std::uint16_t*>(row);
    for (std::int64_t i = 0; i < k; i++) {
      const std::uint32_t bits = static_cast<std::uint32_t>(numbers[i]) << 16;
      std::memcpy(out + i, &bits, 4);
    }
    return;
  }
  for (std::int64_t b = 0; b < num_blocks(k); b++) {
    float block[kBlock];
    if (kind == ActivationKind::int8) {
      const auto& stored = reinterpret_cast<const ActivationBlock*>(row)[b];
      for (int i = 0; i < kBlock; i++) block[i] = stored.scale[i / 32] * static_cast<float>(stored.q[i]);
    } else {
      decode_fine(reinterpret_cast<const FineBlock*>(row)[b], block);
    }
    const std::int64_t count = k - b * kBlock < kBlock ? k - b * kBlock : kBlock;
    std::memcpy(out + b * kBlock, block, static_cast<std::size_t>(count) * sizeof(float));
  }
}

}  // namespace ridgeline::RIDGELINE_ISA
