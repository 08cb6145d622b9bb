// What disks do to files.
#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "common/file.h"
#include "common/random.h"

namespace gatemill {

// Flips a bit of one of the files below `dir` that are chosen, cuts it short or removes it. Returns what was done, "" when there is none.
inline std::string DamageFile(RandomStream* random, const std::string& dir, const std::function<bool(const std::string&)>& chosen) {
  const auto listed = ListTree(dir);
  std::vector<std::string> files = listed.ok() ? *listed : std::vector<std::string>();
  std::erase_if(files, [&](const std::string& file) { return !chosen(file); });
  if (files.empty()) return "";
  const std::string path = dir + "/" + files[random->Below(files.size())];
  const std::uint64_t size = std::filesystem::file_size(path);
  const std::uint64_t how = random->Below(4);
  if (how == 0 || size == 0) {
    std::filesystem::remove(path);
    return path + " removed";
  }
  const std::uint64_t at = random->Below(size);
  if (how == 1) {
    std::filesystem::resize_file(path, at);
    return path + " cut to " + std::to_string(at) + " bytes";
  }
  const std::uint64_t bit = random->Below(8);
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(at));
  const auto byte = static_cast<char>(file.get() ^ (1 << bit));
  file.seekp(static_cast<std::streamoff>(at));
  file.put(byte);
  return path + " bit " + std::to_string(bit) + " of byte " + std::to_string(at) + " flipped";
}

}  // namespace gatemill
