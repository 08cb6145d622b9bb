// ${NAME} and ${NAME:-default} in a text, replaced from the environment.
//
// Thread safety: safe while no thread changes the environment.
#pragma once

#include <string>

#include "common/status.h"

namespace gatemill {

// kInvalidInput: a `${` without its `}`, or a variable that is neither set nor has a default. As in a shell, an empty
// variable takes the default.
Result<std::string> ReplaceEnvironment(const std::string& text);

}  // namespace gatemill
