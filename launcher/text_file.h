// A text file, gzipped or not, that appears under its name when it is complete.
//
//   TextFile file(path, gzip);
//   file.Add("click,"); file.AddNumber(3); GM_RETURN_IF_ERROR(file.EndLine());
//   GM_RETURN_IF_ERROR(file.Close()); GM_RETURN_IF_ERROR(file.Publish());
//
// kInternal with the path when the disk fails. Thread safety: one thread.
#pragma once

#include <zlib.h>

#include <array>
#include <charconv>
#include <string>
#include <string_view>

#include "common/status.h"

namespace gatemill::launcher {

class TextFile {
 public:
  TextFile(std::string path, bool gzip);
  ~TextFile();  // unless it was published nothing is left
  TextFile(const TextFile&) = delete;
  TextFile& operator=(const TextFile&) = delete;

  void Add(std::string_view text) { buffer_.append(text); }
  template <typename... Format>
  void AddNumber(auto value, Format... format) {
    std::array<char, 64> digits;
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value, format...).ptr;
    buffer_.append(digits.data(), end);
  }
  // Ends a line: the place where what was added may go to the disk.
  Status EndLine();
  Status Close();
  // Gives it its name, in the place of what had it. After Close.
  Status Publish();

 private:
  [[nodiscard]] Status Failure() const;
  Status Flush();

  std::string path_;
  std::string temporary_;
  gzFile file_;
  std::string buffer_;
  bool published_ = false;
};

}  // namespace gatemill::launcher
