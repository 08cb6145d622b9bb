// What can be wrong in a configuration whose every single value is legal: contradictions, and what is missing.
//
// Thread safety: pure functions.
#pragma once

#include <functional>
#include <string>

#include "common/config.h"
#include "common/config_mistakes.h"

namespace gatemill {

// Where the value with that dotted key, or the nearest section around it, was written.
using Locate = std::function<Place(const std::string& key)>;

void CheckConfig(const Config& config, const Locate& locate, Mistakes* mistakes);

}  // namespace gatemill
