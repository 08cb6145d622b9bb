// A directory of a test's own, removed with it. Thread safety: none.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace gatemill {

class TempDir {
 public:
  TempDir() : path_((std::filesystem::temp_directory_path() / "gatemill-test-XXXXXX").string()) {
    if (::mkdtemp(path_.data()) == nullptr) std::abort();  // nothing may be written elsewhere instead
  }
  ~TempDir() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
    EXPECT_FALSE(error) << path_ << ": " << error.message();
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  [[nodiscard]] const std::string& path() const { return path_; }
  // Writes a file, with the folders it lies in, and returns its path.
  std::string Write(const std::string& name, const std::string& contents) const {
    const std::string file = path_ + "/" + name;
    std::filesystem::create_directories(std::filesystem::path(file).parent_path());
    std::ofstream stream(file, std::ios::binary);
    stream << contents << std::flush;
    EXPECT_TRUE(stream.good()) << "cannot write " << file;
    return file;
  }

 private:
  std::string path_;
};

}  // namespace gatemill
