// Encoders: convolutions, and what decoders see of them.
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <tuple>
#include <vector>

#include "module.h"
#include "operators_conv1d.h"
#include "operators_cross.h"
#include "program.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ridgeline {
namespace {

using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Shapes = std::vector<std::tuple<std::int64_t, std::int64_t, std::int64_t>>;

void add_conv1d(Program& program, const std::string& name, const View& x, const View& y, const Matrix& matrix,
                const Floats& bias, std::int64_t taps, std::int64_t frames, std::int64_t stride) {
  for (const View& view : {x, y}) check_floats(program, view);
  const PackedMatrix& packed = matrix.packed;
  require(taps > 0 && frames > 0 && stride > 0 && frames % stride == 0 && !x.sampled && !y.sampled &&
              x.width % frames == 0 && packed.k == taps * (x.width / frames) &&
              y.width == frames / stride * packed.n && bias.size() == static_cast<std::size_t>(packed.n),
          "a convolution's sizes disagree");
  program.add(std::make_unique<Conv1d>(
      name, Conv1d::Spec{x, y, packed, program.keep(bias.data(), packed.n), taps, frames, stride, x.width / frames}));
}

void add_cross_write(Program& program, const std::string& name, const View& k, const View& v, int layer) {
  for (const View& view : {k, v}) check_floats(program, view);
  const CrossMemory& memory = program.cross_memory();
  const KvPlace& place = memory.layer(layer);
  require(!k.sampled && !v.sampled && k.width == place.kv_heads * place.key_dim &&
              v.width == place.kv_heads * place.value_dim,
          "k and v are not as wide as what cross attention sees");
  program.add(std::make_unique<CrossWrite>(name, k, v, memory, place));
}

void add_cross_attention(Program& program, const std::string& name, const View& q, const View& out, int layer,
                         std::int64_t heads, float scale) {
  for (const View& view : {q, out}) check_floats(program, view);
  const CrossMemory& memory = program.cross_memory();
  const KvPlace& place = memory.layer(layer);
  require(heads > 0 && heads % place.kv_heads == 0 && !q.sampled && !out.sampled && q.width == heads * place.key_dim &&
              out.width == heads * place.value_dim,
          "a cross attention's heads are not its encoder's");
  program.add(std::make_unique<CrossAttention>(name, q, out, memory, place, heads, scale));
}

}  // namespace

void bind_cross(nb::module_& m, nb::class_<Program>& program) {
  nb::class_<CrossMemory>(m, "CrossMemory")
      .def(
          "__init__",
          [](CrossMemory* self, std::int64_t positions, std::int64_t rows, const Shapes& layers,
             const std::string& format, bool counts_only) {
            std::vector<CrossMemory::Layer> shapes;
            for (const auto& [kv_heads, key_dim, value_dim] : layers) shapes.push_back({kv_heads, key_dim, value_dim});
            new (self) CrossMemory(positions, rows, shapes, cache_format_of(format), counts_only);
          },
          "positions"_a, "rows"_a, "layers"_a, "format"_a, "counts_only"_a = false)
      .def_prop_ro("row_bytes", &CrossMemory::row_bytes);
  program
      .def(
          "share_cross",
          [](Program& self, std::shared_ptr<CrossMemory> memory) { self.share_cross(std::move(memory)); }, "memory"_a)
      .def("add_conv1d", &add_conv1d, "name"_a, "x"_a, "y"_a, "matrix"_a, "bias"_a, "taps"_a, "frames"_a, "stride"_a)
      .def("add_cross_write", &add_cross_write, "name"_a, "k"_a, "v"_a, "layer"_a)
      .def("add_cross_attention", &add_cross_attention, "name"_a, "q"_a, "out"_a, "layer"_a, "heads"_a, "scale"_a);
}

}  // namespace ridgeline
