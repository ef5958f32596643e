// The machine's roofs, for whoever prints figures beside them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>

#include "module.h"
#include "roofs.h"

namespace ridgeline {
namespace {

namespace nb = nanobind;

ActivationKind arithmetic_of(const std::string& name) {
  if (name == "int8") return ActivationKind::int8;
  if (name == "bf16") return ActivationKind::bf16;
  if (name == "f32") return ActivationKind::f32;
  throw std::invalid_argument("no arithmetic is called " + name);
}

}  // namespace

void bind_roofs(nb::module_& module) {
  using Release = nb::call_guard<nb::gil_scoped_release>;
  nb::class_<RoofMeter>(module, "RoofMeter")
      .def(
          "__init__",
          [](RoofMeter* self, const std::string& isa, int threads) { new (self) RoofMeter(isa_named(isa), threads); },
          nb::arg("isa"), nb::arg("threads"))
      .def("read", &RoofMeter::read, nb::arg("num_bytes"), nb::arg("rounds"), Release())
      .def("copy", &RoofMeter::copy, nb::arg("num_bytes"), nb::arg("rounds"), Release())
      .def(
          "arithmetic",
          [](RoofMeter& meter, const std::string& name, int rounds) {
            return meter.arithmetic(arithmetic_of(name), rounds);
          },
          nb::arg("name"), nb::arg("rounds"), Release())
      .def("barrier", &RoofMeter::barrier, nb::arg("rounds"), Release());
  // Of fresh memory and threads that are gone afterwards.
  module.def(
      "measure_read_bandwidth",
      [](std::size_t num_bytes, int threads, int rounds) { return RoofMeter(best_isa(), threads).read(num_bytes, rounds); },
      nb::arg("num_bytes"), nb::arg("threads"), nb::arg("rounds"), Release());
}

}  // namespace ridgeline
