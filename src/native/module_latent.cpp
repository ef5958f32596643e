// The Python module: attention over latents.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <vector>

#include "module.h"
#include "operators_latent.h"
#include "program.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ridgeline {
namespace {

void add_latent_write(Program& program, const std::string& name, const View& latent, const View& turned, int cache) {
  for (const View& view : {latent, turned}) check_floats(program, view);
  const KvPlace& place = program.cache(cache);
  require(place.latent && !latent.sampled && !turned.sampled && latent.width == place.value_dim &&
              latent.width + turned.width == place.key_dim,
          "a latent and a turned key do not fill their cache");
  program.add(std::make_unique<LatentWrite>(name, latent, turned, place));
}

void add_latent_attention(Program& program, const std::string& name, const View& q, const View& turned, const View& out,
                          int cache, const std::vector<Matrix>& absorb, const std::vector<Matrix>& expand,
                          float scale, const std::optional<View>& chosen) {
  for (const View& view : {q, turned, out}) {
    check_floats(program, view);
    require(!view.sampled, "attention is over all tokens");
  }
  const KvPlace& place = program.cache(cache);
  const auto heads = static_cast<std::int64_t>(absorb.size());
  require(place.latent && heads > 0 && expand.size() == absorb.size() && q.width % heads == 0 &&
              turned.width == heads * (place.key_dim - place.value_dim) && out.width % heads == 0,
          "a latent attention's heads are not its cache's");
  LatentAttention::Spec spec{q, turned, out, place, heads, scale, {}, {}};
  for (std::size_t i = 0; i < absorb.size(); i++) {
    const PackedMatrix &to = absorb[i].packed, &from = expand[i].packed;
    require(to.n == place.value_dim && to.k == q.width / heads && from.k == place.value_dim &&
                from.n == out.width / heads && to.layout == absorb[0].packed.layout &&
                from.layout == expand[0].packed.layout,
            "a head of a latent attention is not like the first");
    spec.absorb.push_back(to);
    spec.expand.push_back(from);
  }
  if (chosen) {
    check_floats(program, *chosen);
    require(!chosen->sampled, "attention is over all tokens");
    spec.chosen = *chosen;
  }
  program.add(std::make_unique<LatentAttention>(name, std::move(spec)));
}

void add_select_tokens(Program& program, const std::string& name, const View& q_turned, const View& q,
                       const View& weights, const View& out, int cache) {
  for (const View& view : {q_turned, q, weights, out}) {
    check_floats(program, view);
    require(!view.sampled, "tokens are selected for all tokens");
  }
  const KvPlace& place = program.cache(cache);
  const std::int64_t heads = weights.width, rest = place.key_dim - place.value_dim;
  require(place.latent && q_turned.width == heads * place.value_dim && q.width == heads * rest &&
              place.key_dim % 2 == 0 && place.value_dim % 2 == 0,
          "what selects tokens does not fit its cache");
  const std::int64_t context = program.rows().limits().max_context;
  // Positions are kept as floats.
  require(context <= (1 << 24), "tokens are selected among at most 2^24");
  program.add(std::make_unique<SelectTokens>(name, SelectTokens::Spec{q_turned, q, weights, out, place, heads, context}));
}

}  // namespace

void bind_latent(nb::class_<Program>& program) {
  program
      .def("add_latent_write", &add_latent_write, "name"_a, "latent"_a, "turned"_a, "cache"_a)
      .def("add_latent_attention", &add_latent_attention, "name"_a, "q"_a, "turned"_a, "out"_a, "cache"_a, "absorb"_a,
           "expand"_a, "scale"_a, "chosen"_a = nb::none())
      .def("add_select_tokens", &add_select_tokens, "name"_a, "q_turned"_a, "q"_a, "weights"_a, "out"_a, "cache"_a);
}

}  // namespace ridgeline
