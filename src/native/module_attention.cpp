// The attention family: rotations, caches, what is written to them and attention over them; and, for tests, writes to a
// tile that the caller owns.
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <vector>

#include "kernels.h"
#include "module.h"
#include "operators_attention.h"
#include "program.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ridgeline {
namespace {

using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

std::size_t tile_bytes(const std::string& format, bool keys, std::int64_t channels) {
  const CacheFormat kept = cache_format_of(format);
  return keys ? key_tile_bytes(kept, channels) : value_tile_bytes(kept, channels);
}

// x [tokens, channels] into slots from `first_slot` on of `tile`, which has tile_bytes or more.
void write_tile(const std::string& isa, const std::string& format, bool keys, const Rows& x, std::int64_t first_slot,
                const Bytes& tile) {
  const std::int64_t count = static_cast<std::int64_t>(x.shape(0)), channels = static_cast<std::int64_t>(x.shape(1));
  if (count < 1 || channels < 1 || first_slot < 0 || first_slot + count > kBlockTokens)
    throw std::invalid_argument("a tile has 16 slots");
  if (channels > kMaxCodedChannels) throw std::invalid_argument("too many channels");
  if (tile.shape(0) < tile_bytes(format, keys, channels)) throw std::invalid_argument("the tile is too small");
  const CacheWrites& writes = kernels_for(isa_named(isa)).cache_writes[static_cast<int>(cache_format_of(format))];
  std::byte* out = reinterpret_cast<std::byte*>(tile.data());
  if (keys) return writes.keys(x.data(), channels, channels, nullptr, out, first_slot, count);
  writes.values(x.data(), channels, channels, out, first_slot, count);
}

struct Rotation {
  std::vector<double> frequencies;
  double magnitude;
  bool interleaved;
  std::vector<std::int32_t> axes;
};

void rotate_with(Program& program, HeadsToCache::Spec& spec, const std::optional<Rotation>& rotation) {
  if (!rotation || rotation->frequencies.empty()) return;
  require(2 * static_cast<std::int64_t>(rotation->frequencies.size()) <= spec.head_dim, "a rotation exceeds its head");
  spec.table = program.rope_table(rotation->frequencies, rotation->magnitude);
  spec.interleaved = rotation->interleaved;
  spec.axes = rotation->axes;
  if (spec.axes.empty()) return;
  const auto [least, most] = std::minmax_element(spec.axes.begin(), spec.axes.end());
  require(spec.axes.size() == rotation->frequencies.size() && *least >= 0 && spec.every == 1 &&
              2 * static_cast<std::int64_t>(spec.axes.size()) <= kMostTurnedByAxes,
          "a rotation's axes are not its pairs'");
  program.places().need_axes(*most + 1);
}

void add_rope(Program& program, const std::string& name, const View& x, const View& y, std::int64_t heads,
              std::int64_t head_dim, const Rotation& rotation, std::int64_t first, std::int64_t every) {
  for (const View& view : {x, y}) {
    check_floats(program, view);
    require(!view.sampled && heads > 0 && head_dim > 0 && view.width == heads * head_dim, "rope: heads do not fit");
  }
  require(first >= 0 && every >= 1 &&
              first + 2 * static_cast<std::int64_t>(rotation.frequencies.size()) <= head_dim,
          "a rotation exceeds its head");
  HeadsToCache::Spec spec;
  spec.first = first;
  spec.every = every;
  spec.head_dim = head_dim;
  spec.q_heads = heads;
  spec.q = x;
  spec.q_out = y;
  rotate_with(program, spec, rotation);
  program.add(std::make_unique<HeadsToCache>(name, "rope", spec));
}

int add_cache(Program& program, std::int64_t kv_heads, std::int64_t key_dim, std::int64_t value_dim,
              std::int64_t column, const std::string& format, bool latent, const std::optional<Floats>& centres,
              const std::optional<Floats>& powers, std::int64_t every) {
  for (const auto& numbers : {centres, powers})
    require(numbers.has_value() == centres.has_value() &&
                (!numbers || numbers->size() == static_cast<std::size_t>(kv_heads * key_dim)),
            "a balance has a centre and a power for each channel of the keys");
  return program.add_cache(kv_heads, key_dim, value_dim, column, cache_format_of(format), latent,
                           centres ? centres->data() : nullptr, powers ? powers->data() : nullptr, every);
}

void check_kv(const HeadsToCache::Spec& spec) {
  require(!spec.k.sampled && !spec.v.sampled && spec.k.width == spec.place.kv_heads * spec.place.key_dim &&
              spec.v.width == spec.place.kv_heads * spec.place.value_dim,
          "k and v are not as wide as the cache");
}

void add_kv_write(Program& program, const std::string& name, const View& k, const View& v, int cache) {
  for (const View& view : {k, v}) check_floats(program, view);
  HeadsToCache::Spec spec;
  spec.writes_kv = true;
  spec.place = program.cache(cache);
  spec.head_dim = spec.place.key_dim;
  spec.k = k;
  spec.v = v;
  check_kv(spec);
  program.add(std::make_unique<HeadsToCache>(name, "kv_write", spec));
}

void add_rope_kv_write(Program& program, const std::string& name, const View& qkv, const View& q_out, int cache,
                       std::int64_t heads, const std::optional<Rotation>& rotation,
                       const std::optional<NormSpec>& q_norm, const std::optional<NormSpec>& k_norm) {
  for (const View& view : {qkv, q_out}) check_floats(program, view);
  HeadsToCache::Spec spec;
  spec.writes_kv = true;
  spec.place = program.cache(cache);
  spec.head_dim = spec.place.key_dim;
  spec.q_heads = heads;
  const std::int64_t q_width = heads * spec.head_dim, k_width = spec.place.kv_heads * spec.place.key_dim;
  spec.q = {qkv.offset, qkv.ld, q_width, qkv.sampled};
  spec.k = {qkv.offset + q_width, qkv.ld, k_width, qkv.sampled};
  spec.v = {qkv.offset + q_width + k_width, qkv.ld, spec.place.kv_heads * spec.place.value_dim, qkv.sampled};
  spec.q_out = q_out;
  require(heads > 0 && q_out.width == q_width && !q_out.sampled && qkv.width == q_width + k_width + spec.v.width,
          "q, k and v do not fill their value");
  check_kv(spec);
  rotate_with(program, spec, rotation);
  for (const auto& norm : {q_norm, k_norm})
    require(!norm || (norm->groups == 1 && norm->width == spec.head_dim), "a head's norm is not as wide as the head");
  spec.has_q_norm = q_norm.has_value();
  spec.has_k_norm = k_norm.has_value();
  if (q_norm) spec.q_norm = q_norm->args();
  if (k_norm) spec.k_norm = k_norm->args();
  program.add(std::make_unique<HeadsToCache>(name, "rope_kv_write", spec));
}

void add_attention(Program& program, const std::string& name, const View& q, const View& out, int cache,
                   std::int64_t heads, float scale, float softcap, bool causal, std::int64_t ahead,
                   const std::optional<Floats>& sinks, bool chunked, bool whole_images, bool parts) {
  for (const View& view : {q, out}) check_floats(program, view);
  require(causal || !whole_images, "attention that is not causal sees images whole as it is");
  require(!parts || (!causal && ahead < 0 && program.cache(cache).window == 0), "parts are of attention without limits");
  if (parts) program.places().need_parts();
  const KvPlace& place = program.cache(cache);
  require(heads > 0 && heads % place.kv_heads == 0 && !q.sampled && !out.sampled && q.width == heads * place.key_dim &&
              out.width == heads * place.value_dim,
          "an attention's heads are not its cache's");
  require(!place.latent && (!sinks || sinks->size() == static_cast<std::size_t>(heads)),
          "an attention has a sink a head, and a cache of keys and values");
  const float* kept = sinks ? program.keep(sinks->data(), heads) : nullptr;
  program.add(
      std::make_unique<Attention>(name, Attention::Spec{q, out, place, heads, scale, softcap, causal, ahead, kept, chunked,
                                                               whole_images, parts}));
}

void add_scale_by_position(Program& program, const std::string& name, const View& x, const View& y, double period,
                           double beta, std::int64_t first) {
  for (const View& view : {x, y}) check_floats(program, view);
  require(!x.sampled && !y.sampled && x.width == y.width, "tokens are scaled by their positions");
  require(period > 0 && first >= 0, "a scale by position has a period above 0");
  program.add(std::make_unique<ScaleByPosition>(name, x, y, ScaleByPosition::Spec{period, beta, first}));
}

}  // namespace

CacheFormat cache_format_of(const std::string& name) {
  for (int i = 0; i < kNumCacheFormats; i++)
    if (name == kCacheFormatNames[i]) return static_cast<CacheFormat>(i);
  throw std::invalid_argument("no cache format " + name);
}

void bind_attention(nb::module_& m, nb::class_<Program>& program) {
  m.def("cache_formats", [] {
    nb::list names;
    for (const char* name : kCacheFormatNames) names.append(name);
    return names;
  });
  m.def("tile_bytes", &tile_bytes, "format"_a, "keys"_a, "channels"_a);
  m.def("write_tile", &write_tile, "isa"_a, "format"_a, "keys"_a, "x"_a, "first_slot"_a, "tile"_a);
  nb::class_<Rotation>(m, "Rotation")
      .def(
          "__init__",
          [](Rotation* self, std::vector<double> frequencies, double magnitude, bool interleaved,
             std::vector<std::int32_t> axes) {
            new (self) Rotation{std::move(frequencies), magnitude, interleaved, std::move(axes)};
          },
          "frequencies"_a, "magnitude"_a, "interleaved"_a, "axes"_a = std::vector<std::int32_t>{});
  program
      .def("add_cache", &add_cache, "kv_heads"_a, "key_dim"_a, "value_dim"_a, "column"_a, "format"_a,
           "latent"_a = false, "centres"_a = nb::none(), "powers"_a = nb::none(), "every"_a = 1)
      .def("add_rope", &add_rope, "name"_a, "x"_a, "y"_a, "heads"_a, "head_dim"_a, "rotation"_a,
           "first"_a = 0, "every"_a = 1)
      .def("add_kv_write", &add_kv_write, "name"_a, "k"_a, "v"_a, "cache"_a)
      .def("add_rope_kv_write", &add_rope_kv_write, "name"_a, "qkv"_a, "q_out"_a, "cache"_a, "heads"_a,
           "rotation"_a.none(), "q_norm"_a.none(), "k_norm"_a.none())
      .def("add_attention", &add_attention, "name"_a, "q"_a, "out"_a, "cache"_a, "heads"_a, "scale"_a, "softcap"_a,
           "causal"_a, "ahead"_a = -1, "sinks"_a = nb::none(), "chunked"_a = false, "whole_images"_a = false,
           "parts"_a = false)
      .def("add_scale_by_position", &add_scale_by_position, "name"_a, "x"_a, "y"_a, "period"_a, "beta"_a, "first"_a);
}

}  // namespace ridgeline
