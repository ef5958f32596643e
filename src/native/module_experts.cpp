// The Python module: routers and experts.
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
#include "operators_experts.h"
#include "program.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ridgeline {
namespace {

using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void add_weigh(Program& program, const std::string& name, const View& x, const View& g, const View& y) {
  for (const View& view : {x, g, y}) check_floats(program, view);
  require(x.width == y.width && g.width > 0 && x.width % g.width == 0 && x.sampled == y.sampled && g.sampled == y.sampled,
          "rows are weighed by a number for each equal run of their columns");
  program.add(std::make_unique<Elementwise>(name, "weigh", Elementwise::Kind::weigh, x, g, y, 0.0f, Activation::silu));
}

RouteScores scores_named(const std::string& name) {
  if (name == "sigmoid") return RouteScores::sigmoid;
  if (name == "sqrt_softplus") return RouteScores::sqrt_softplus;
  require(name == "softmax" || name == "sparsemixer", "no scores of this name");
  return RouteScores::softmax;
}

void add_route(Program& program, const std::string& name, const View& x, const View& slots, const Matrix& router,
               const std::optional<Floats>& bias, const std::optional<Floats>& correction, std::int64_t top_k,
               const std::string& scores, bool normalize, float scale, std::int64_t num_groups, std::int64_t top_groups,
               std::int64_t group_best, const std::optional<Floats>& gain, double jitter,
               const std::optional<Ids>& table) {
  for (const View& view : {x, slots}) check_floats(program, view);
  const std::int64_t experts = router.packed.n;
  require(router.packed.k == x.width && router.packed.layout == Layout::f32 && x.sampled == slots.sampled &&
              slots.width == 2 * top_k && top_k >= 1,
          "a router is float32 and as wide as its input, and gives two numbers a slot");
  require(num_groups >= 1 && experts % num_groups == 0 && top_groups >= 1 && top_groups <= num_groups &&
              group_best >= 1 && group_best <= experts / num_groups && top_k <= top_groups * (experts / num_groups),
          "a router's groups do not part its experts");
  const auto kept = [&](const std::optional<Floats>& vector) -> const float* {
    if (!vector) return nullptr;
    require(vector->size() == static_cast<std::size_t>(experts), "a router's vector is not one number an expert");
    return program.keep(vector->data(), experts);
  };
  std::vector<std::int32_t> given;
  if (table) {
    const std::int64_t ids = static_cast<std::int64_t>(table->size()) / top_k;
    require(!x.sampled && static_cast<std::int64_t>(table->size()) == ids * top_k &&
                ids >= program.rows().limits().vocab_ids,
            "a router's table has a row for each token id");
    given.assign(table->data(), table->data() + table->size());
    for (const std::int32_t expert : given) require(expert >= 0 && expert < experts, "a router's table names no expert");
  }
  program.add(std::make_unique<Route>(name, Route::Spec{x, slots, router.packed, kept(bias), kept(correction), top_k,
                                                        scores_named(scores), normalize, scale, num_groups, top_groups,
                                                        group_best, kept(gain), jitter, std::move(given)},
                                      program.kernels()));
}

// biases: of gate, up and down, one row an expert, or nothing.
void add_experts(Program& program, const std::string& name, const View& x, const View& slots, const View& y,
                 const std::vector<Matrix>& gate, const std::vector<Matrix>& up, const std::vector<Matrix>& down,
                 const std::vector<Floats>& biases, std::int64_t top_k, std::int64_t first_expert,
                 const std::string& activation, bool weigh_input) {
  for (const View& view : {x, slots, y}) check_floats(program, view);
  const std::size_t count = up.size();
  const bool gated = !gate.empty();
  const std::size_t num_biases = gated ? 3 : 2;
  require(count > 0 && (!gated || gate.size() == count) && down.size() == count &&
              (biases.empty() || biases.size() == num_biases),
          "experts do not have the same parts");
  require(x.width == y.width && slots.width == 2 * top_k && x.sampled == y.sampled && x.sampled == slots.sampled &&
              first_expert >= 0,
          "the experts' values disagree");
  const std::int64_t hidden = up[0].packed.n, width = x.width;
  const float* vectors[3] = {nullptr, nullptr, nullptr};
  for (std::size_t i = 0; i < biases.size(); i++) {
    const std::size_t size = count * static_cast<std::size_t>(i + 1 < num_biases ? hidden : width);
    require(biases[i].size() == size, "the experts' biases are not as long as their matrices are high");
    vectors[i + 3 - num_biases] = program.keep(biases[i].data(), static_cast<std::int64_t>(size));
  }
  const Limits& limits = program.rows().limits();
  Experts::Spec spec{x, slots, y, hidden, top_k, first_expert, {}, activation_named(activation), weigh_input,
                     gated, std::max(limits.max_tokens, limits.max_sampled)};
  for (std::size_t e = 0; e < count; e++) {
    const PackedMatrix &u = up[e].packed, &d = down[e].packed, g = gated ? gate[e].packed : PackedMatrix{};
    require(u.k == width && u.n == hidden && d.n == width && d.k == hidden && u.layout == up[0].packed.layout &&
                d.layout == down[0].packed.layout &&
                (!gated || (g.k == width && g.n == hidden && g.layout == gate[0].packed.layout)),
            "an expert is not like the first");
    const auto at = static_cast<std::int64_t>(e);
    spec.experts.push_back({g, u, d, vectors[0] ? vectors[0] + at * hidden : nullptr,
                            vectors[1] ? vectors[1] + at * hidden : nullptr,
                            vectors[2] ? vectors[2] + at * width : nullptr});
  }
  program.add(std::make_unique<Experts>(name, std::move(spec), program.kernels()));
}

void add_zero_experts(Program& program, const std::string& name, const View& x, const View& slots, const View& y,
                      std::int64_t top_k, std::int64_t first) {
  for (const View& view : {x, slots, y}) check_floats(program, view);
  require(x.width == y.width && top_k > 0 && first >= 0 && slots.width == 2 * top_k && x.sampled == y.sampled &&
              x.sampled == slots.sampled,
          "the zero experts' values disagree");
  program.add(std::make_unique<ZeroExperts>(name, x, slots, y, top_k, first));
}

// (name, experts [rows, top_k]) of each operator that has experts, in the last step.
nb::list chosen_experts(const Program& program) {
  nb::list out;
  for (const Program::Chosen& chosen : program.chosen_experts()) {
    const std::size_t rows = chosen.experts.size() / static_cast<std::size_t>(chosen.top_k);
    auto* copy = new std::int32_t[std::max<std::size_t>(chosen.experts.size(), 1)];
    const nb::capsule owner(copy, [](void* p) noexcept { delete[] static_cast<std::int32_t*>(p); });
    std::copy(chosen.experts.begin(), chosen.experts.end(), copy);
    out.append(nb::make_tuple(chosen.name, nb::ndarray<nb::numpy, std::int32_t, nb::ndim<2>>(
                                               copy, {rows, static_cast<std::size_t>(chosen.top_k)}, owner)));
  }
  return out;
}

}  // namespace

void bind_experts(nb::class_<Program>& program) {
  program
      .def("add_weigh", &add_weigh, "name"_a, "x"_a, "g"_a, "y"_a)
      .def("add_route", &add_route, "name"_a, "x"_a, "slots"_a, "router"_a, "bias"_a.none(), "correction"_a.none(),
           "top_k"_a, "scores"_a, "normalize"_a, "scale"_a, "num_groups"_a, "top_groups"_a, "group_best"_a,
           "gain"_a = nb::none(), "jitter"_a = -1.0, "table"_a = nb::none())
      .def("add_experts", &add_experts, "name"_a, "x"_a, "slots"_a, "y"_a, "gate"_a, "up"_a, "down"_a, "biases"_a,
           "top_k"_a, "first_expert"_a, "activation"_a, "weigh_input"_a)
      .def("add_zero_experts", &add_zero_experts, "name"_a, "x"_a, "slots"_a, "y"_a, "top_k"_a, "first"_a)
      .def("chosen_experts", &chosen_experts);
}

}  // namespace ridgeline
