// "Did you mean": the nearest known name to one that is not known.
//
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace gatemill {

// Insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b` (optimal string alignment,
// Damerau 1964), letters compared without case.
std::size_t EditDistance(std::string_view a, std::string_view b);

// The one of `known` nearest to `name`, if it is at most `limit` edits away; else "". Ties go to the first.
std::string Nearest(std::string_view name, const std::vector<std::string>& known, std::size_t limit);
// With the limit that suits a name's length: a third of it, at least one edit.
std::string Nearest(std::string_view name, const std::vector<std::string>& known);

}  // namespace gatemill
