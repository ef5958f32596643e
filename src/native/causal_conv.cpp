// causal_conv: a short depthwise convolution; 16 channels in lanes, their last inputs in registers.
#include "family_kernels.h"
#include "softplus.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

// The bias first, then taps from the oldest to the newest. kTaps 0: args.taps of them.
template <int kTaps>
void conv_tile(const ConvArgs& args, std::int64_t tile, std::int64_t count, float* state) {
  const std::int64_t taps = kTaps > 0 ? kTaps : args.taps, first = tile * kLanes, n = args.channels - first;
  const float* weight = args.weight + tile * taps * kLanes;
  Vec w[kTaps > 0 ? kTaps : kMaxTaps], last[kTaps > 0 ? kTaps : kMaxTaps];
  for (std::int64_t j = 0; j < taps; j++) w[j] = load(weight + j * kLanes);
  for (std::int64_t j = 0; j + 1 < taps; j++) last[j] = load(state + j * kLanes);
  const Vec bias = args.bias ? load(args.bias + first) : zeros();
  for (std::int64_t t = 0; t < count; t++) {
    last[taps - 1] = load_n(args.x + t * args.ldx + first, n);
    Vec sum = bias;
    for (std::int64_t j = 0; j < taps; j++) sum = fma(w[j], last[j], sum);
    for (std::int64_t j = 0; j + 1 < taps; j++) last[j] = last[j + 1];
    if (args.silu) sum = mul(sum, sigmoid(sum));
    store_n(args.y + t * args.ldy + first, sum, n);
  }
  for (std::int64_t j = 0; j + 1 < taps; j++) store(state + j * kLanes, last[j]);
}

}  // namespace

void causal_conv(const ConvArgs& args, std::int64_t tile_begin, std::int64_t tile_end, std::int64_t count,
                 float* state) {
  for (std::int64_t tile = tile_begin; tile < tile_end; tile++, state += (args.taps - 1) * kLanes) switch (args.taps) {
      case 3:
        conv_tile<3>(args, tile, count, state);
        break;
      case 4:
        conv_tile<4>(args, tile, count, state);
        break;
      default:
        conv_tile<0>(args, tile, count, state);
    }
}

}  // namespace ridgeline::RIDGELINE_ISA
