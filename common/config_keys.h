// What the configuration's description says about keys, for messages: ranges, choices, and the key that a user meant.
//
// Thread safety: pure functions.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "common/config_schema.h"

namespace gatemill {

// "1 to 65536", "greater than 0, at most 1", "" when any number is legal.
std::string RangeText(const Key& key);
// Is `value` in the key's range? NaN and infinity are in no range.
bool InRange(double value, const Key& key);
// "a, b, c".
std::string JoinNames(std::span<const std::string_view> names);

struct Suggestion {
  std::string
      remedy;  // "write num_expert", "did you mean num_epochs?", "it belongs to train.num_epochs", "known here: ..."
  std::string key;  // the key of this section that was meant, or ""
};
// What to write instead of `unknown`, which stands in a section whose keys are `known`.
Suggestion SuggestKey(std::string_view unknown, std::span<const Key> known);
// What to write instead of `unknown`, which is none of the key's choices: "write gauc", "did you mean gauc?", or "".
std::string SuggestChoice(std::string_view unknown, const Key& key);

}  // namespace gatemill
