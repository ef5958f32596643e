// The Python module: caches with an entry for several tokens.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "module.h"
#include "operators_entries.h"
#include "operators_latent.h"
#include "program.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ridgeline {
namespace {

using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void check_tokens(const Program& program, const View& view) {
  check_floats(program, view);
  require(!view.sampled, "entries are of all tokens");
}

std::int64_t most_entries(Program& program, const KvPlace& place) {
  const std::int64_t context = program.rows().limits().max_context;
  require(context <= (1 << 24), "entries are selected among those of at most 2^24 tokens");  // numbers kept as floats
  return std::max<std::int64_t>(1, context / place.every);
}

void add_entry_write(Program& program, const std::string& name, const View& x, int cache) {
  check_tokens(program, x);
  const KvPlace& place = program.cache(cache);
  require(place.latent && place.key_dim == place.value_dim && x.width == place.key_dim, "an entry is not its cache's");
  if (place.every == 1) {
    program.add(std::make_unique<LatentWrite>(name, x, View{}, place));
  } else {
    program.add(std::make_unique<EntryWrite>(name, x, place));
  }
}

void add_select_entries(Program& program, const std::string& name, const View& q, const View& weights, const View& out,
                        int cache) {
  for (const View& view : {q, weights, out}) check_tokens(program, view);
  const KvPlace& place = program.cache(cache);
  require(place.every > 1 && q.width == weights.width * place.key_dim && out.width >= 1,
          "what selects entries does not fit its cache");
  program.add(std::make_unique<SelectEntries>(
      name, SelectEntries::Spec{q, weights, out, place, weights.width, most_entries(program, place)}));
}

void add_entry_attention(Program& program, const std::string& name, const View& q, const View& out, int cache,
                         std::optional<int> entries, const std::optional<View>& chosen, float scale,
                         const Floats& sinks) {
  for (const View& view : {q, out}) check_tokens(program, view);
  if (chosen) check_tokens(program, *chosen);
  const KvPlace& window = program.cache(cache);
  const std::int64_t heads = static_cast<std::int64_t>(sinks.size());
  require(window.latent && window.every == 1 && window.window > 0 && window.key_dim == window.value_dim && heads > 0 &&
              q.width == heads * window.key_dim && out.width == q.width && (entries || !chosen),
          "an attention's heads are not its caches'");
  EntryAttention::Spec spec{q, out, window, {}, chosen, heads, 0, scale, program.keep(sinks.data(), heads)};
  if (entries) {
    spec.entries = program.cache(*entries);
    require(spec.entries->every > 1 && spec.entries->key_dim == window.key_dim, "entries are not as wide as keys");
    spec.max_entries = most_entries(program, *spec.entries);
  }
  program.add(std::make_unique<EntryAttention>(name, std::move(spec)));
}

}  // namespace

void bind_entries(nb::class_<Program>& program) {
  program.def("add_entry_write", &add_entry_write, "name"_a, "x"_a, "cache"_a)
      .def("add_select_entries", &add_select_entries, "name"_a, "q"_a, "weights"_a, "out"_a, "cache"_a)
      .def("add_entry_attention", &add_entry_attention, "name"_a, "q"_a, "out"_a, "cache"_a, "entries"_a.none(),
           "chosen"_a.none(), "scale"_a, "sinks"_a);
}

}  // namespace ridgeline
