// The head that screens, as Python adds it to a program.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "module.h"
#include "program.h"

namespace nb = nanobind;

namespace ridgeline {
namespace {

using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

const std::byte* bytes_of(const Bytes& array) { return reinterpret_cast<const std::byte*>(array.data()); }

const char* name_of(const std::string& format) {
  for (const FormatLayout& row : kFormatLayouts)
    if (row.format == format) return row.format.data();
  throw std::invalid_argument("no screen of weights of format " + format);
}

void check_rows(const Bytes& raw, std::int64_t n, std::int64_t k, std::size_t row_bytes) {
  require(n > 0 && k > 0 && k % kScreenGroup == 0, "a screen is of whole groups");
  require(row_bytes > 0 && raw.size() / row_bytes >= static_cast<std::size_t>(n), "weights have fewer rows than channels");
}

Matrix pack_screen(Program& program, const std::string& format, const Bytes& raw, std::int64_t n, std::int64_t k,
                   std::size_t row_bytes, const std::function<void()>& release) {
  check_rows(raw, n, k, row_bytes);
  const nb::gil_scoped_release unlocked;  // `release` takes it back for as long as it runs
  return {program.pack_screen({name_of(format), bytes_of(raw), row_bytes}, n, k, release)};
}

// The weights' bytes must outlive the program: the binding keeps the array alive.
void add_head(Program& program, const std::string& name, const View& x, const View& y, const Matrix& matrix,
              bool fine_activations, const Matrix& screen, const std::string& format, const Bytes& raw,
              std::size_t row_bytes, std::int64_t most_rows, std::int64_t learn_rows) {
  for (const View& view : {x, y}) check_floats(program, view);
  const PackedMatrix& weights = matrix.packed;
  check_rows(raw, weights.n, weights.k, row_bytes);
  require(x.sampled && y.sampled && x.width == weights.k && y.width == weights.n && screen.packed.n == weights.n &&
              screen.packed.k == weights.k && screen.packed.layout == layout_of(kScreenFormat),
          "a head's weights, its screen and its values disagree");
  require(most_rows >= 1 && most_rows <= INT32_MAX && learn_rows >= 1 && learn_rows <= INT32_MAX, "a head screens no rows");
  ActivationKind kind = program.kernels().activation_of(weights.layout);
  if (kind == ActivationKind::int8 && fine_activations) kind = ActivationKind::int8x2;
  const bool is_float = kind == ActivationKind::bf16 || kind == ActivationKind::f32;
  if (!is_float) most_rows = std::max(most_rows, program.kernels().copied_rows);
  const std::int64_t n = weights.n, k = weights.k;
  const ScreenUsual usual{program.room(k), program.room(k), program.room(kDirections * k), program.room(kDirections * k)};
  program.add(std::make_unique<Head>(
      name, x, y, LinearPart{weights, kind, nullptr, 0},
      HeadScreen{screen.packed, RawRows{name_of(format), bytes_of(raw), row_bytes},
                 program.kernels().integer_activations, program.kernels().whole_rows.begin,
                 program.kernels().whole_rows.end, most_rows,
                 program.limits().max_sampled, learn_rows, usual,
                 program.room(n), program.room(kDirections * n), program.room(learn_rows * k),
                 reinterpret_cast<StripNorms*>(program.room(kStripFloats * weights.num_strips()))}));
}

nb::bytes learned(Program& program) {
  const Head* head = program.head();
  require(head && head->has_learned(), "no screen has learned");
  std::vector<float> out(head->num_learned());
  head->tell_learned(out.data());
  return nb::bytes(out.data(), out.size() * sizeof(float));
}

bool learn(Program& program, const nb::bytes& kept) {
  std::vector<float> numbers(kept.size() / sizeof(float));
  std::memcpy(numbers.data(), kept.c_str(), numbers.size() * sizeof(float));
  return program.head() && kept.size() % sizeof(float) == 0 && program.head()->learn(numbers.data(), numbers.size());
}

}  // namespace

void bind_head(nb::class_<Program>& program) {
  using namespace nb::literals;
  program
      .def("pack_screen", &pack_screen, "format"_a, "raw"_a, "n"_a, "k"_a, "row_bytes"_a, "release"_a)
      .def("add_head", &add_head, "name"_a, "x"_a, "y"_a, "matrix"_a, "fine_activations"_a, "screen"_a, "format"_a, "raw"_a,
           "row_bytes"_a, "most_rows"_a, "learn_rows"_a, nb::keep_alive<1, 9>())
      // Of the weights' bytes as they are stored: whether they were read in the last step, and whether they are done with.
      .def_prop_ro("is_learning", &Program::is_learning)
      .def_prop_ro("has_learned", &Program::has_learned)
      // What it has learned, to be kept; and whether what was kept is of this head, which has learned it then.
      .def("learned", &learned)
      .def("learn", &learn, "learned"_a)
      // Rows of logits that were screened, and strips of 32 channels that were read for them.
      .def_prop_ro("screened", [](const Program& p) {
        const Head::Counts counts = p.screened();
        return nb::make_tuple(counts.rows, counts.strips);
      });
}

}  // namespace ridgeline
