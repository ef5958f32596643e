// Reading and copying as fast as an instruction set can: what is streamed is held against it. The scalar meaning: all
// bytes are read, `passes` times; the word that comes back depends on each of them, so that no compiler leaves any out.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ridgeline {

// Sizes that are read and copied are multiples of this.
inline constexpr std::size_t kReadUnit = 512;

using ReadBytes = std::uint64_t (*)(const std::byte* data, std::size_t bytes, std::size_t passes);

}  // namespace ridgeline
