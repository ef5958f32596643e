// The attention family on its own, for tests: writes to a tile that the caller owns.
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include "kernels.h"
#include "module.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ridgeline {
namespace {

using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

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
  (keys ? writes.keys : writes.values)(x.data(), channels, channels, out, first_slot, count);
}

}  // namespace

CacheFormat cache_format_of(const std::string& name) {
  for (int i = 0; i < kNumCacheFormats; i++)
    if (name == kCacheFormatNames[i]) return static_cast<CacheFormat>(i);
  throw std::invalid_argument("no cache format " + name);
}

void bind_attention(nb::module_& m) {
  m.def("cache_formats", [] {
    nb::list names;
    for (const char* name : kCacheFormatNames) names.append(name);
    return names;
  });
  m.def("tile_bytes", &tile_bytes, "format"_a, "keys"_a, "channels"_a);
  m.def("write_tile", &write_tile, "isa"_a, "format"_a, "keys"_a, "x"_a, "first_slot"_a, "tile"_a);
}

}  // namespace ridgeline
