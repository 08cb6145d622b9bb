#include "common/config_mistakes.h"

#include <algorithm>
#include <tuple>

namespace gatemill {
namespace {

std::string Where(const std::string& path, const Place& place) {
  if (!place.override_text.empty()) return "--set " + place.override_text;
  if (place.line == 0) return path;
  return path + ":" + std::to_string(place.line) + ":" + std::to_string(place.column);
}

}  // namespace

std::string JoinKey(std::string_view section, std::string_view name) {
  if (section.empty()) return std::string(name);
  return std::string(section) + "." + std::string(name);
}

void Mistakes::Add(const Place& place, std::string_view key, std::string_view what) {
  std::string text = Where(path_, place) + ": ";
  if (!key.empty()) text += std::string(key) + ": ";
  mistakes_.push_back({place, text + std::string(what)});
  failed_.emplace(key);
}

void Mistakes::AddUnlessFailed(const Place& place, std::string_view key, std::string_view what) {
  if (!Failed(key)) Add(place, key, what);
}

bool Mistakes::Failed(std::string_view key) const {
  while (true) {
    if (failed_.contains(key)) return true;
    const std::size_t dot = key.rfind('.');
    if (dot == std::string_view::npos) return false;
    key = key.substr(0, dot);
  }
}

Status Mistakes::ToStatus() const {
  if (mistakes_.empty()) return Ok();
  std::vector<Mistake> sorted = mistakes_;
  const auto order = [](const Mistake& mistake) {
    const Place& place = mistake.place;
    return std::tuple(!place.override_text.empty(), place.line, place.column);
  };
  std::stable_sort(sorted.begin(), sorted.end(),
                   [&](const Mistake& a, const Mistake& b) { return order(a) < order(b); });
  std::string message;
  for (std::size_t i = 0; i < sorted.size() && i < kMaxMistakesShown; ++i) {
    if (i > 0) message += "\n";
    message += sorted[i].text;
  }
  if (sorted.size() > kMaxMistakesShown) {
    message += "\n" + path_ + ": and " + std::to_string(sorted.size() - kMaxMistakesShown) + " more mistakes";
  }
  return InvalidInput(std::move(message));
}

}  // namespace gatemill
