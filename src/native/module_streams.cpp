// The Python module: several residual streams, and linears of groups of channels.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <vector>

#include "module.h"
#include "operators_streams.h"
#include "program.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ridgeline {
namespace {

using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void add_block_linear(Program& program, const std::string& name, const View& x, const View& y,
                      const std::vector<Matrix>& matrices, const std::optional<Floats>& bias) {
  for (const View& view : {x, y}) check_floats(program, view);
  const std::int64_t blocks = static_cast<std::int64_t>(matrices.size());
  require(x.sampled == y.sampled && blocks > 0 && x.width % blocks == 0 && y.width % blocks == 0 &&
              (!bias || static_cast<std::int64_t>(bias->size()) == y.width),
          "a linear's channels do not part into its groups");
  const std::int64_t n = y.width / blocks;
  const float* kept = bias ? program.keep(bias->data(), y.width) : nullptr;
  std::vector<BlockLinear::Block> parts;
  for (const Matrix& each : matrices) {
    const PackedMatrix& matrix = each.packed;
    require(matrix.n == n && matrix.k == x.width / blocks && matrix.layout == matrices.front().packed.layout,
            "a group's matrix is not like the first");
    parts.push_back({matrix, kept ? kept + static_cast<std::int64_t>(parts.size()) * n : nullptr});
  }
  program.add(std::make_unique<BlockLinear>(name, x, y, std::move(parts)));
}

void add_mix(Program& program, const std::string& name, const std::vector<View>& x, const View& numbers,
             const std::vector<View>& y, float offset) {
  require(!x.empty() && !y.empty() && x.size() <= kMaxStreams && y.size() <= kMaxStreams, "1 to 8 streams are mixed");
  check_floats(program, numbers);
  for (const std::vector<View>* views : {&x, &y})
    for (const View& view : *views) {
      check_floats(program, view);
      require(view.width == x.front().width && view.sampled == numbers.sampled, "streams differ in shape");
    }
  require(numbers.width == static_cast<std::int64_t>(x.size() * y.size()), "streams are mixed by other numbers");
  program.add(std::make_unique<Mix>(name, x, numbers, y, offset));
}

void add_stream_weights(Program& program, const std::string& name, const std::vector<View>& x,
                        const std::vector<View>& outputs, const std::vector<Matrix>& matrices, const Floats& bias,
                        const Floats& scales, std::int64_t iterations, float eps, float floor) {
  const std::int64_t n = static_cast<std::int64_t>(x.size());
  const bool last = outputs.size() == 1;
  require(n >= 1 && n <= kMaxStreams && matrices.size() == x.size() && (last || outputs.size() == 2) && iterations >= 1,
          "1 to 8 streams are mixed by what is made of them");
  const std::int64_t rows = last ? n : n * (n + 2);
  for (const std::vector<View>* views : {&x, &outputs})
    for (const View& view : *views) {
      check_floats(program, view);
      require(view.sampled == outputs[0].sampled, "streams differ in shape");
    }
  require(outputs[0].width == n && (last || outputs[1].width == n * (n + 1)), "streams are mixed by other numbers");
  require(static_cast<std::int64_t>(bias.size()) == rows && scales.size() == (last ? 1 : 3),
          "what mixes streams has other biases or scales");
  StreamWeights::Spec spec{x, outputs[0], last ? View{} : outputs[1], {}, nullptr, nullptr, iterations, eps, floor, last};
  for (std::size_t j = 0; j < x.size(); j++) {
    const PackedMatrix& matrix = matrices[j].packed;
    require(x[j].width == x[0].width && matrix.k == x[0].width && matrix.n == rows && matrix.layout == Layout::f32,
            "what mixes streams has a float32 matrix for each");
    spec.matrices.push_back(matrix);
  }
  spec.bias = program.keep(bias.data(), rows);
  spec.scales = program.keep(scales.data(), last ? 1 : 3);
  program.add(std::make_unique<StreamWeights>(name, std::move(spec)));
}

void add_match_size(Program& program, const std::string& name, const View& x, const View& like, const View& y,
                    float floor) {
  for (const View& view : {x, like, y}) {
    check_floats(program, view);
    require(view.width == y.width && view.sampled == y.sampled, "what is made as large differs in shape");
  }
  require(floor > 0, "a floor is positive");
  program.add(std::make_unique<MatchSize>(name, x, like, y, floor));
}

void add_scale_columns(Program& program, const std::string& name, const View& x, const View& y, const Floats& factors) {
  for (const View& view : {x, y}) check_floats(program, view);
  require(x.width == y.width && x.sampled == y.sampled && static_cast<std::int64_t>(factors.size()) == y.width,
          "columns are scaled by one number each");
  program.add(std::make_unique<ScaleColumns>(name, x, y, program.keep(factors.data(), y.width)));
}

void add_keep_largest(Program& program, const std::string& name, const View& x, const View& y, float z) {
  for (const View& view : {x, y}) check_floats(program, view);
  require(x.width == y.width && x.sampled == y.sampled, "what is kept differs in shape");
  program.add(std::make_unique<KeepLargest>(name, x, y, z));
}

void add_xielu(Program& program, const std::string& name, const View& x, const View& y, float positive,
               float negative) {
  for (const View& view : {x, y}) check_floats(program, view);
  require(x.width == y.width && x.sampled == y.sampled, "what is activated differs in shape");
  program.add(std::make_unique<Xielu>(name, x, y, positive, negative));
}

}  // namespace

void bind_streams(nb::class_<Program>& program) {
  program
      .def("add_block_linear", &add_block_linear, "name"_a, "x"_a, "y"_a, "matrices"_a, "bias"_a.none())
      .def("add_mix", &add_mix, "name"_a, "x"_a, "numbers"_a, "y"_a, "offset"_a)
      .def("add_stream_weights", &add_stream_weights, "name"_a, "x"_a, "outputs"_a, "matrices"_a, "bias"_a, "scales"_a,
           "iterations"_a, "eps"_a, "floor"_a)
      .def("add_match_size", &add_match_size, "name"_a, "x"_a, "like"_a, "y"_a, "floor"_a)
      .def("add_scale_columns", &add_scale_columns, "name"_a, "x"_a, "y"_a, "factors"_a)
      .def("add_keep_largest", &add_keep_largest, "name"_a, "x"_a, "y"_a, "z"_a)
      .def("add_xielu", &add_xielu, "name"_a, "x"_a, "y"_a, "positive"_a, "negative"_a);
}

}  // namespace ridgeline
