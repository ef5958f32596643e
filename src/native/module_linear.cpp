// The linear family on its own, for tests and benchmarks: pack, quantize, multiply, decode.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "kernels.h"

namespace nb = nanobind;

namespace ridgeline {
namespace {

using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using MatrixOut = nb::ndarray<float, nb::ndim<2>, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// 64-byte aligned memory between two guards: a kernel that writes beyond its buffer is seen.
class GuardedBytes {
 public:
  explicit GuardedBytes(std::size_t size)
      : size_(size), memory_(static_cast<std::byte*>(std::aligned_alloc(64, total())), std::free) {
    if (!memory_) throw std::bad_alloc();
    for (std::size_t i = 0; i < total(); i++) memory_.get()[i] = kGuard;
  }
  std::byte* data() const { return memory_.get() + kGuardBytes; }
  std::size_t size() const { return size_; }
  bool intact() const {
    for (std::size_t i = 0; i < kGuardBytes; i++) {
      if (memory_.get()[i] != kGuard) return false;
    }
    for (std::size_t i = kGuardBytes + size_; i < total(); i++) {
      if (memory_.get()[i] != kGuard) return false;
    }
    return true;
  }

 private:
  static constexpr std::byte kGuard{0xa5};
  static constexpr std::size_t kGuardBytes = 4096;
  std::size_t total() const { return (size_ + 2 * kGuardBytes + 63) / 64 * 64; }

  std::size_t size_;
  std::unique_ptr<std::byte, decltype(&std::free)> memory_;
};

ActivationKind kind_of(const std::string& name) {
  if (name == "int8") return ActivationKind::int8;
  if (name == "int8x2") return ActivationKind::int8x2;
  if (name == "int16") return ActivationKind::int16;
  if (name == "bf16") return ActivationKind::bf16;
  if (name == "f32") return ActivationKind::f32;
  throw std::invalid_argument("no activation kind is called " + name);
}

const char* kind_name(ActivationKind kind) {
  return kActivationKinds[static_cast<int>(kind)];
}

template <class Work>
void on_threads(int threads, Work work) {
  std::vector<std::thread> others;
  for (int t = 1; t < threads; t++) others.emplace_back(work, t);
  work(0);
  for (std::thread& other : others) other.join();
}

// Activations of m tokens, as a kernel takes them.
struct Activations {
  Isa isa;
  ActivationKind kind;
  std::int64_t m, k;
  GuardedBytes bytes;
};

std::unique_ptr<Activations> quantize_rows(const Matrix& x, const std::string& kind,
                                           const std::string& isa) {
  const Kernels& kernels = kernels_for(isa_named(isa));
  const auto m = static_cast<std::int64_t>(x.shape(0)), k = static_cast<std::int64_t>(x.shape(1));
  if (kind_of(kind) == ActivationKind::int16 && kernels.integer_activations != ActivationKind::int16)
    throw std::invalid_argument("no int16 on this instruction set");
  const std::size_t row = kernels.activation_row_bytes(kind_of(kind), k);
  auto out = std::make_unique<Activations>(
      Activations{kernels.isa, kind_of(kind), m, k, GuardedBytes(static_cast<std::size_t>(m) * row)});
  kernels.quantize_rows(out->kind, x.data(), k, m, k, out->bytes.data(), row);
  return out;
}

struct Packed {
  const Kernels& kernels;
  PackedMatrix matrix;
  GuardedBytes bytes;

  void check(const Activations& x, const std::optional<Vector>& bias, const MatrixOut& y) const {
    const ActivationKind natural = kernels.activation_of(matrix.layout);
    const bool finer = natural == ActivationKind::int8 && x.kind == ActivationKind::int8x2;
    if (x.isa != kernels.isa || x.k != matrix.k || !(x.kind == natural || finer)) {
      throw std::invalid_argument("activations of another instruction set, width or kind");
    }
    if (static_cast<std::int64_t>(y.shape(0)) != x.m || y.stride(1) != 1 ||
        static_cast<std::int64_t>(y.shape(1)) != matrix.n ||
        (bias && static_cast<std::int64_t>(bias->shape(0)) != matrix.n)) {
      throw std::invalid_argument("y or bias of the wrong shape");
    }
  }

  void multiply(const Activations& x, const std::optional<Vector>& bias, const MatrixOut& y,
                int threads, std::int64_t strip_begin, std::int64_t strip_end) const {
    check(x, bias, y);
    if (strip_end < 0) strip_end = matrix.num_strips();
    if (strip_begin < 0 || strip_begin > strip_end || strip_end > matrix.num_strips()) {
      throw std::invalid_argument("strips beyond the matrix");
    }
    const std::int64_t strips = strip_end - strip_begin;
    on_threads(threads, [&](int t) {
      const GuardedBytes scratch(kernels.linear_scratch_bytes());
      kernels.linear(matrix, x.kind, x.bytes.data(), x.m, strip_begin + strips * t / threads,
                     strip_begin + strips * (t + 1) / threads, bias ? bias->data() : nullptr,
                     y.data(), y.stride(0), scratch.data(), nullptr);
      if (!scratch.intact()) std::abort();
    });
  }
};

std::unique_ptr<Packed> pack(const std::string& format, const Bytes& raw, std::int64_t n,
                             std::int64_t k, const std::string& isa, int threads) {
  const Kernels& kernels = kernels_for(isa_named(isa));
  const std::optional<Layout> layout = layout_of(format);
  if (!layout) throw std::invalid_argument("no layout for the format " + format);
  const auto* rows = reinterpret_cast<const std::byte*>(raw.data());
  PackedMatrix matrix{*layout, n, k, kernels.pack_prescale(format.c_str(), rows, n, k), nullptr};
  auto out = std::make_unique<Packed>(
      Packed{kernels, matrix, GuardedBytes(kernels.packed_bytes(*layout, n, k))});
  on_threads(threads, [&](int t) {
    kernels.pack_strips(format.c_str(), rows, matrix, out->bytes.data(),
                        matrix.num_strips() * t / threads, matrix.num_strips() * (t + 1) / threads);
  });
  out->matrix.data = out->bytes.data();
  return out;
}

using Clock = std::chrono::steady_clock;

// Runs work(thread, round) on all threads, round by round; seconds of each round.
template <class Work>
std::vector<double> time_rounds(int threads, int rounds, Work work) {
  std::atomic<int> arrived{0};
  const auto meet = [&](int turn) {
    arrived.fetch_add(1);
    while (arrived.load() < threads * turn) std::this_thread::yield();
  };
  std::vector<double> seconds(static_cast<std::size_t>(rounds));
  on_threads(threads, [&](int t) {
    for (int round = 0; round < rounds; round++) {
      meet(2 * round + 1);
      const auto begin = Clock::now();
      work(t, round);
      meet(2 * round + 2);
      const std::chrono::duration<double> passed = Clock::now() - begin;
      if (t == 0) seconds[static_cast<std::size_t>(round)] = passed.count();
    }
  });
  return seconds;
}

// Seconds of each round in which all matrices, of one shape and instruction set, multiply x.
std::vector<double> time_linear(const std::vector<const Packed*>& matrices, const Activations& x,
                                const MatrixOut& y, int threads, int rounds) {
  if (matrices.empty() || threads < 1) throw std::invalid_argument("nothing to time");
  for (const Packed* packed : matrices) packed->check(x, std::nullopt, y);
  const Kernels& kernels = matrices[0]->kernels;
  std::vector<std::unique_ptr<GuardedBytes>> scratch;
  for (int t = 0; t < threads; t++) {
    scratch.push_back(std::make_unique<GuardedBytes>(kernels.linear_scratch_bytes()));
  }
  return time_rounds(threads, rounds, [&](int t, int) {
    for (const Packed* packed : matrices) {
      const std::int64_t strips = packed->matrix.num_strips();
      kernels.linear(packed->matrix, x.kind, x.bytes.data(), x.m, strips * t / threads,
                     strips * (t + 1) / threads, nullptr, y.data(), y.stride(0),
                     scratch[static_cast<std::size_t>(t)]->data(), nullptr);
    }
  });
}

// 10^9 operations a second of all threads together, one figure a round.
std::vector<double> measure_arithmetic(const std::string& kind, const std::string& isa, int threads,
                                       int rounds) {
  constexpr std::int64_t kSteps = 200000;
  const Kernels& kernels = kernels_for(isa_named(isa));
  const ActivationKind activations = kind_of(kind);
  std::atomic<std::int64_t> operations{0};
  std::vector<double> rates = time_rounds(threads, rounds, [&](int, int) {
    operations = kernels.spin_arithmetic(activations, kSteps);
  });
  for (double& rate : rates) rate = static_cast<double>(operations) * threads / rate / 1e9;
  return rates;
}

void decode_row(const std::string& format, const Bytes& raw,
                const nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>& out,
                const std::string& isa) {
  const auto* row = reinterpret_cast<const std::byte*>(raw.data());
  const auto k = static_cast<std::int64_t>(out.shape(0));
  if (!kernels_for(isa_named(isa)).decode_row(format.c_str(), row, k, out.data())) {
    throw std::invalid_argument("no decoder for the format " + format);
  }
}

}  // namespace

// The caller owes the sizes: raw bytes are as many as format, n and k say.
void bind_linear(nb::module_& module) {
  nb::class_<Activations>(module, "Activations")
      .def_prop_ro("kind", [](const Activations& a) { return kind_name(a.kind); })
      .def_prop_ro("num_bytes", [](const Activations& a) { return a.bytes.size(); })
      .def_prop_ro("intact", [](const Activations& a) { return a.bytes.intact(); });
  nb::class_<Packed>(module, "PackedMatrix")
      .def_prop_ro("num_bytes", [](const Packed& p) { return p.bytes.size(); })
      .def_prop_ro("num_strips", [](const Packed& p) { return p.matrix.num_strips(); })
      .def_prop_ro("prescale", [](const Packed& p) { return p.matrix.prescale; })
      .def_prop_ro("activation_kind",
                   [](const Packed& p) { return kind_name(p.kernels.activation_of(p.matrix.layout)); })
      .def_prop_ro("intact", [](const Packed& p) { return p.bytes.intact(); })
      .def("tobytes",
           [](const Packed& p) { return nb::bytes(p.bytes.data(), p.bytes.size()); })
      .def("multiply", &Packed::multiply, nb::arg("x"), nb::arg("bias").none(), nb::arg("y"),
           nb::arg("threads") = 1, nb::arg("strip_begin") = 0, nb::arg("strip_end") = -1,
           nb::call_guard<nb::gil_scoped_release>());
  module.def("pack_matrix", &pack, nb::arg("format"), nb::arg("raw"), nb::arg("n"), nb::arg("k"),
             nb::arg("isa"), nb::arg("threads") = 1, nb::call_guard<nb::gil_scoped_release>());
  module.def("quantize_rows", &quantize_rows, nb::arg("x"), nb::arg("kind"), nb::arg("isa"));
  module.def("time_linear", &time_linear, nb::arg("matrices"), nb::arg("x"), nb::arg("y"),
             nb::arg("threads"), nb::arg("rounds"), nb::call_guard<nb::gil_scoped_release>());
  module.def("measure_arithmetic", &measure_arithmetic, nb::arg("kind"), nb::arg("isa"),
             nb::arg("threads"), nb::arg("rounds"), nb::call_guard<nb::gil_scoped_release>());
  module.def("decode_row", &decode_row, nb::arg("format"), nb::arg("raw"), nb::arg("out"),
             nb::arg("isa"));
}

}  // namespace ridgeline
