// The mistakes found in one configuration, collected so that a user sees all of them at once.
//
// Thread safety: one thread.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "common/yaml_tree.h"

namespace gatemill {

inline constexpr std::size_t kMaxMistakesShown = 50;

class Mistakes {
 public:
  explicit Mistakes(std::string path) : path_(std::move(path)) {}

  // `key` is the dotted path of what is wrong ("train.lr", "" for the document), `what` says what and the remedy.
  void Add(const Place& place, std::string_view key, std::string_view what);
  // As Add, unless `key` or a section around it already has a mistake: for checks that build on values that were read.
  void AddUnlessFailed(const Place& place, std::string_view key, std::string_view what);
  // Later checks of `key` are beside the point: it was meant but misspelt.
  void MarkFailed(std::string_view key) { failed_.emplace(key); }
  [[nodiscard]] bool Failed(std::string_view key) const;
  [[nodiscard]] bool empty() const { return mistakes_.empty(); }
  // Ok, or kInvalidInput with one line per mistake in the file's order, overrides last.
  [[nodiscard]] Status ToStatus() const;

 private:
  struct Mistake {
    Place place;
    std::string text;
  };
  std::string path_;
  std::vector<Mistake> mistakes_;
  std::set<std::string, std::less<>> failed_;
};

// "a" + "b" = "a.b"; "" + "b" = "b".
std::string JoinKey(std::string_view section, std::string_view name);

}  // namespace gatemill
