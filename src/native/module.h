// What other files add to the Python module.
#pragma once

#include <nanobind/nanobind.h>

namespace ridgeline {

void bind_linear(nanobind::module_& m);  // module_linear.cpp
void bind_roofs(nanobind::module_& m);   // module_roofs.cpp

}  // namespace ridgeline
