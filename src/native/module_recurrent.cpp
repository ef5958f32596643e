// The Python module: operators whose rows carry a state from token to token.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <vector>

#include "module.h"
#include "program.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ridgeline {
namespace {

using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Pairs = nb::ndarray<const std::int32_t, nb::shape<-1, 2>, nb::c_contig, nb::device::cpu>;

// Values of tokens, as floats.
void check_values(const Program& program, const std::vector<View>& views, std::size_t count) {
  require(views.size() == count, "a recurrence takes and gives other values");
  for (const View& view : views) {
    program.check_view(view);
    require(!view.kind && !view.sampled, "a recurrence takes and gives floats of all tokens");
  }
}

const float* keep(Program& program, const Floats& array, std::int64_t count, const char* message) {
  require(static_cast<std::int64_t>(array.size()) == count, message);
  return program.keep(array.data(), count);
}

void add_causal_conv(Program& program, const std::string& name, const View& x, const View& y, std::int64_t taps,
                     bool silu, const Floats& weight, const std::optional<Floats>& bias) {
  check_values(program, {x, y}, 2);
  require(x.width == y.width && taps >= 2 && taps <= kMaxTaps, "a convolution has 2 to 32 taps and keeps its width");
  const std::int64_t lanes = tiles_of(x.width) * kLanes;
  ConvArgs args{};
  args.channels = x.width;
  args.taps = taps;
  args.silu = silu;
  args.weight = keep(program, weight, lanes * taps, "a convolution's weights are not its tiles");
  if (bias) args.bias = keep(program, *bias, lanes, "a convolution's bias is not its tiles");
  program.add(std::make_unique<CausalConv>(name, x, y, program.add_state(lanes * (taps - 1)), args));
}

void add_compress(Program& program, const std::string& name, const View& x, const View& scores, const View& y,
                  std::int64_t every, bool overlaps, const Floats& bias) {
  check_values(program, {x, scores, y}, 3);
  require(x.width == scores.width && x.width == y.width * (overlaps ? 2 : 1) && every >= 1,
          "an entry is not as wide as its tokens' keys");
  CompressArgs args{};
  args.channels = y.width;
  args.every = every;
  args.overlaps = overlaps;
  args.bias = keep(program, bias, every * x.width, "an entry's scores have a bias for each of its tokens");
  const StatePlace place = program.add_state(tiles_of(y.width) * kLanes * args.numbers());
  program.add(std::make_unique<Compress>(name, x, scores, y, place, args));
}

void add_selective_scan(Program& program, const std::string& name, const std::vector<View>& values, const Floats& a,
                        const Floats& d) {
  check_values(program, values, 5);
  const View &x = values[0], &dt = values[1], &b = values[2], &c = values[3], &y = values[4];
  require(x.width == dt.width && x.width == y.width && b.width == c.width, "a selective scan's values differ in width");
  const std::int64_t lanes = tiles_of(x.width) * kLanes;
  SelectiveScan::Spec spec{x, dt, b, c, y, {}, nullptr, nullptr};
  spec.a = keep(program, a, lanes * b.width, "a selective scan's a is not its tiles");
  spec.d = keep(program, d, lanes, "a selective scan's d is not its tiles");
  spec.place = program.add_state(lanes * b.width);
  program.add(std::make_unique<SelectiveScan>(name, spec));
}

void add_ssd_scan(Program& program, const std::string& name, const std::vector<View>& values, std::int64_t groups,
                  const Floats& a, const Floats& d, const Floats& dt_bias, float dt_low, float dt_high) {
  check_values(program, values, 5);
  const View &x = values[0], &b = values[1], &c = values[2], &dt = values[3], &y = values[4];
  const std::int64_t heads = dt.width;
  require(groups > 0 && heads % groups == 0 && x.width % heads == 0 && x.width == y.width && b.width == c.width &&
              b.width % groups == 0,
          "a scan's heads, groups and values do not agree");
  SsdScan::Spec spec{x, b, c, dt, y, {}, heads, groups, nullptr, nullptr, nullptr, dt_low, dt_high};
  spec.a = keep(program, a, heads, "a scan has one a a head");
  spec.d = keep(program, d, heads, "a scan has one d a head");
  spec.dt_bias = keep(program, dt_bias, heads, "a scan has one dt bias a head");
  spec.place = program.add_state(heads * tiles_of(x.width / heads) * kLanes * (b.width / groups));
  program.add(std::make_unique<SsdScan>(name, spec));
}

void add_decay_attention(Program& program, const std::string& name, const std::vector<View>& values, const Floats& a) {
  check_values(program, values, 4);
  const View &q = values[0], &k = values[1], &v = values[2], &y = values[3];
  const auto heads = static_cast<std::int64_t>(a.size());
  require(heads > 0 && q.width == k.width && k.width % heads == 0 && v.width == y.width && v.width % heads == 0,
          "decaying attention's heads and values do not agree");
  DecayAttention::Spec spec{q, k, v, y, {}, heads, nullptr};
  spec.a = program.keep(a.data(), heads);
  spec.place = program.add_state(heads * tiles_of(v.width / heads) * kLanes * (k.width / heads));
  program.add(std::make_unique<DecayAttention>(name, spec));
}

void add_delta_rule(Program& program, const std::string& name, const std::vector<View>& values, std::int64_t key_heads,
                    bool by_channel, bool tiled, const Floats& a, const Floats& dt_bias, float floor) {
  check_values(program, values, 6);
  const View &q = values[0], &k = values[1], &v = values[2], &g = values[3], &beta = values[4], &y = values[5];
  const std::int64_t heads = beta.width;
  require(key_heads > 0 && heads % key_heads == 0 && k.width % key_heads == 0 && q.width == k.width &&
              v.width % heads == 0 && v.width == y.width,
          "a delta rule's heads and values do not agree");
  const std::int64_t key_dim = k.width / key_heads, decays = by_channel ? heads * key_dim : heads;
  require(g.width == decays && (!by_channel || key_heads == heads), "a delta rule's decays do not fit its heads");
  DeltaRule::Spec spec{q, k, v, g, beta, y, {}, key_heads, heads, by_channel, tiled, floor, nullptr, nullptr};
  spec.a = keep(program, a, heads, "a delta rule has one a a head");
  spec.dt_bias = keep(program, dt_bias, decays, "a delta rule has one dt bias a decay");
  spec.place = program.add_state(heads * tiles_of(v.width / heads) * kLanes * key_dim);
  program.add(std::make_unique<DeltaRule>(name, spec));
}

void add_rg_lru(Program& program, const std::string& name, const std::vector<View>& values, const Floats& rate) {
  check_values(program, values, 4);
  const View &x = values[0], &r = values[1], &i = values[2], &y = values[3];
  require(x.width == r.width && x.width == i.width && x.width == y.width, "a recurrent unit's values differ in width");
  const std::int64_t lanes = tiles_of(x.width) * kLanes;
  RgLru::Spec spec{x, r, i, y, {}, nullptr};
  spec.rate = keep(program, rate, lanes, "a recurrent unit's rates are not its tiles");
  spec.place = program.add_state(lanes);
  program.add(std::make_unique<RgLru>(name, spec));
}

void add_token_shift(Program& program, const std::string& name, const View& x, const std::vector<View>& outputs,
                     const std::vector<Floats>& weights) {
  require(!outputs.empty() && outputs.size() == weights.size() && outputs.size() <= kMaxShifts,
          "a token is shifted into 1 to 8 values");
  check_values(program, outputs, outputs.size());
  check_values(program, {x}, 1);
  const std::int64_t lanes = tiles_of(x.width) * kLanes;
  ShiftArgs args{};
  args.channels = x.width;
  args.count = static_cast<int>(outputs.size());
  for (std::size_t j = 0; j < outputs.size(); j++) {
    require(outputs[j].width == x.width, "a shifted value has another width");
    args.weight[j] = keep(program, weights[j], lanes, "a shift's weights are not its tiles");
  }
  program.add(std::make_unique<TokenShift>(name, x, outputs, program.add_state(lanes), args));
}

void add_wkv7(Program& program, const std::string& name, const std::vector<View>& values, std::int64_t heads,
              const Floats& direction, const Floats& change, const Floats& bonus) {
  check_values(program, values, 7);
  const std::int64_t width = values[0].width;
  for (const View& view : values) require(view.width == width, "time mixing's values differ in width");
  require(heads > 0 && width % heads == 0, "time mixing's channels do not part into its heads");
  Wkv7::Spec spec{values[0], values[1], values[2], values[3], values[4], values[5], values[6], {}, heads,
                  nullptr,   nullptr,   nullptr};
  const char* message = "time mixing has one number a channel";
  spec.direction = keep(program, direction, width, message);
  spec.change = keep(program, change, width, message);
  spec.bonus = keep(program, bonus, width, message);
  const std::int64_t head_dim = width / heads;
  spec.place = program.add_state(heads * tiles_of(head_dim) * head_dim * kLanes);
  program.add(std::make_unique<Wkv7>(name, spec));
}

void add_split_groups(Program& program, const std::string& name, const View& x, const std::vector<View>& outputs,
                      std::int64_t groups) {
  std::int64_t width = 0;
  for (const View& view : outputs) {
    program.check_view(view);
    require(!view.kind && view.sampled == x.sampled && groups > 0 && view.width % groups == 0,
            "a value's groups do not part");
    width += view.width;
  }
  program.check_view(x);
  require(!x.kind && width == x.width, "groups do not fill their value");
  program.add(std::make_unique<SplitGroups>(name, x, outputs, groups));
}

void add_join(Program& program, const std::string& name, const View& a, const View& b, const View& y) {
  for (const View& view : {a, b, y}) {
    program.check_view(view);
    require(!view.kind && view.sampled == y.sampled, "joined values differ in rows, or are not floats");
  }
  require(a.width + b.width == y.width, "what is joined is not as wide as its parts");
  program.add(std::make_unique<Join>(name, a, b, y));
}

void copy_slots(Program& program, const Pairs& pairs) {
  program.copy_slots(pairs.data(), static_cast<std::int64_t>(pairs.shape(0)));
}

}  // namespace

void bind_recurrent(nb::class_<Program>& program) {
  program
      .def("add_causal_conv", &add_causal_conv, "name"_a, "x"_a, "y"_a, "taps"_a, "silu"_a, "weight"_a,
           "bias"_a.none())
      .def("add_compress", &add_compress, "name"_a, "x"_a, "scores"_a, "y"_a, "every"_a, "overlaps"_a, "bias"_a)
      .def("add_selective_scan", &add_selective_scan, "name"_a, "values"_a, "a"_a, "d"_a)
      .def("add_ssd_scan", &add_ssd_scan, "name"_a, "values"_a, "groups"_a, "a"_a, "d"_a,
           "dt_bias"_a, "dt_low"_a, "dt_high"_a)
      .def("add_decay_attention", &add_decay_attention, "name"_a, "values"_a, "a"_a)
      .def("add_delta_rule", &add_delta_rule, "name"_a, "values"_a, "key_heads"_a,
           "by_channel"_a, "tiled"_a, "a"_a, "dt_bias"_a, "floor"_a = 0.0f)
      .def("add_split_groups", &add_split_groups, "name"_a, "x"_a, "outputs"_a, "groups"_a)
      .def("add_rg_lru", &add_rg_lru, "name"_a, "values"_a, "rate"_a)
      .def("add_token_shift", &add_token_shift, "name"_a, "x"_a, "outputs"_a, "weights"_a)
      .def("add_wkv7", &add_wkv7, "name"_a, "values"_a, "heads"_a, "direction"_a, "change"_a, "bonus"_a)
      .def("add_join", &add_join, "name"_a, "a"_a, "b"_a, "y"_a)
      .def("copy_slots", &copy_slots, "pairs"_a, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace ridgeline
